"""Read attention patterns and head outputs, one layer at a time where they are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import HookNeverFired
from .encode import Batch
from .forward import forward
from .points import hook_name
from .tower import refuse_pieces
from .turn import watching


@torch.no_grad()
def each_pattern(
    model: Any, batch: Batch, visit: Callable[[int, Float[Tensor, "batch head query_pos key_pos"]], None]
) -> None:
    """Show every layer's attention pattern to `visit(layer, pattern)` in one forward pass.

    A pattern is freed when `visit` returns and does not keep it, so that memory is one layer's, not all layers'. Rows
    of padding queries mean nothing; use `batch.attention_mask`.

    Args:
        model: The bridge.
        batch: Encoded prompts.
        visit: Called once a layer, in order, with a copy: changing it does not reach the model.

    Raises:
        HookNeverFired: a layer shows no pattern.
    """
    refuse_pieces(model, "attention between tokens")
    seen: set[int] = set()

    def watch(layer: int) -> Any:
        def hook_fn(pattern: Tensor, hook: Any) -> None:
            seen.add(layer)
            visit(layer, pattern.detach().clone())

        return hook_fn

    n_layers = int(model.cfg.n_layers)
    with watching(model, [(f"blocks.{layer}.attn.hook_pattern", watch(layer)) for layer in range(n_layers)]):
        forward(model, batch, logits_at="last")
    if missing := sorted(set(range(n_layers)) - seen):
        raise HookNeverFired(
            f"{model.cfg.model_name}: hook_pattern of layers {missing} did not fire in 1 forward pass."
        )


@torch.no_grad()
def capture_z(model: Any, batch: Batch) -> Float[Tensor, "layer batch pos head d_head"]:
    """Return what every head hands to its output projection, in the model's dtype and on its device.

    `z[layer, row, pos, head]` is the attention-weighted mean of values; padding columns mean nothing.

    Raises:
        HookNeverFired: a layer's `hook_z` did not fire.
    """
    found = capture_at(model, batch, "z", range(int(model.cfg.n_layers)))
    return torch.stack(list(found.values()))


@torch.no_grad()
def capture_at(
    model: Any,
    batch: Batch,
    at: str,
    layers: Sequence[int],
    *,
    keep: Callable[[Tensor], Any] = lambda value: value.detach().clone(),
) -> dict[int, Any]:
    """Return what stands at a point of some layers (see `points`), in their order; padding columns mean nothing.

    Args:
        model: The bridge.
        batch: Encoded prompts.
        at: Name of the point.
        layers: Which layers.
        keep: What is kept of each layer's `[batch, pos, ...]`: a few columns take less room than all of them.

    Raises:
        HookNeverFired: a layer's hook did not fire.
    """
    found: dict[int, Any] = {}

    def watch(layer: int) -> Any:
        def hook_fn(value: Tensor, hook: Any) -> None:
            found[layer] = keep(value)

        return hook_fn

    with watching(model, [(hook_name(model, layer, at), watch(layer)) for layer in layers]):
        forward(model, batch, logits_at="last")
    if missing := sorted(set(layers) - set(found)):
        point = hook_name(model, missing[0], at).rpartition(".")[2]
        raise HookNeverFired(
            f"{model.cfg.model_name}: {point} of layers {missing} did not fire in 1 forward pass."
        )
    return {layer: found[layer] for layer in layers}
