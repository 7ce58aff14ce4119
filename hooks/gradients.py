"""How much each edge of a model would change a metric, to first order: differences of writers × gradients of readers.

For every writer u and reader v at once: S[u, v] = sum over positions of (a_u(clean) - a_u(corrupt)) · dm/d(input of v).
One forward and one backward pass give all edges of a batch of prompts; TransformerLens' `attribution_patch` gives the
same numbers for one prompt at a time, without shared keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import NonFinite
from .faults import advice
from .graph import Graph
from .metrics import Metric

Along = Literal["inputs", "activations"]


def reader_gradients(
    graph: Graph,
    metric: Metric,
    rows: Int[Tensor, " row"],
    *,
    clean: float = 1.0,
    keep_nodes: Float[Tensor, "#row writer"] | None = None,
) -> Float[Tensor, "row reader pos d_model"]:
    """Differentiate a metric by what every reader reads.

    Args:
        graph: The model on pairs.
        metric: Of the last position's logits; one number a row.
        rows: The prompt of each row.
        clean: Where the run stands between the corrupted text's embedding (0) and the clean one's (1).
        keep_nodes: As for `Graph.run`.
    """
    source = torch.lerp(graph.corrupt_inputs[rows], graph.inputs[rows], clean)
    with torch.enable_grad():
        flow = graph.run(rows, source=source, keep_nodes=keep_nodes, probe=True)
        total = metric(flow.logits, graph.clean.rows(rows.tolist()), flow.logits.detach()).sum()
        found = torch.autograd.grad(total, flow.reads, allow_unused=True)
    graph.backward += len(rows)
    parts = [
        torch.zeros_like(read) if one is None else one for one, read in zip(found, flow.reads, strict=True)
    ]
    return torch.cat(parts, 1) * graph.real[rows][:, None, :, None]


def edge_effects(
    graph: Graph,
    metric: Metric,
    points: Sequence[float],
    *,
    replacement: Literal["resample", "zero"] = "resample",
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "example writer reader"]:
    """Estimate what each edge is worth: (clean - replaced writer) · gradient at the reader, averaged over points.

    Args:
        graph: The model on pairs.
        metric: What is differentiated.
        points: Where to take the gradient: 1 on the clean text, 0 on the corrupted one, between them on a mix of the
            two embeddings. One point is attribution patching; several are integrated gradients.
        replacement: What a writer is compared with: its output on the corrupted text, or 0.
        progress: Called with (sequences run, all of them).

    Returns:
        Positive where the edge, restored from corrupted to clean, raises the metric; 0 where no edge can be.
    """
    found = []
    done, all_of_them = 0, len(points) * len(graph)
    for rows in graph.rows().split(graph.chunk):
        gradient = torch.zeros(())
        for point in points:
            gradient = gradient + reader_gradients(graph, metric, rows, clean=point) / len(points)
            done += len(rows)
            if progress:
                progress(done, all_of_them)
        found.append(_products(graph, rows, gradient, replacement))
    return torch.cat(found)


def edge_effects_by_activation(
    graph: Graph, metric: Metric, steps: int, progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, "example writer reader"]:
    """Estimate as `edge_effects`, but move one layer's writers at a time from clean to corrupted, k / steps of the way.

    `k` runs from 1 to `steps`; the input, each layer's heads together, and each MLP are moved on their own, which takes
    steps · (1 + 2 · n_layers) passes back.
    """
    wiring = graph.wiring
    groups = [slice(0, 1)]
    for layer in range(wiring.n_layers):
        first = wiring.first_writer(layer)
        groups += [
            slice(first, first + wiring.n_heads),
            slice(first + wiring.n_heads, first + wiring.n_heads + 1),
        ]
    found = []
    done, all_of_them = 0, len(groups) * steps * len(graph)
    for rows in graph.rows().split(graph.chunk):
        effects = torch.zeros(len(rows), *wiring.possible.shape)
        for group in groups:
            gradient = torch.zeros(())
            for k in range(1, steps + 1):
                keep = torch.ones(1, len(wiring.writers), device=rows.device)
                keep[:, group] = 1 - k / steps
                gradient = gradient + reader_gradients(graph, metric, rows, keep_nodes=keep) / steps
                done += len(rows)
                if progress:
                    progress(done, all_of_them)
            effects[:, group] = _products(graph, rows, gradient, "resample")[:, group]
        found.append(effects)
    return torch.cat(found)


def _products(
    graph: Graph, rows: Tensor, gradient: Float[Tensor, "row reader pos d_model"], replacement: str
) -> Float[Tensor, "row writer reader"]:
    moved = graph.clean_written[rows]
    if replacement == "resample":
        moved = moved - graph.corrupt_written[rows]
    effects = torch.matmul(moved.flatten(2), gradient.flatten(2).transpose(1, 2)).cpu().float()
    if not bool(torch.isfinite(effects).all()):
        first, writer, reader = (~torch.isfinite(effects)).nonzero()[0].tolist()
        row = int(rows[first])
        raise NonFinite(
            f"{graph.model.cfg.model_name}: the gradient at {graph.wiring.readers[reader]} times what "
            f"{graph.wiring.writers[writer]} writes is NaN or infinite on prompt {row} "
            f"({graph.clean.prompts[row].text[:60]!r}).{advice(graph.model)}"
        )
    return effects * torch.from_numpy(graph.wiring.possible)
