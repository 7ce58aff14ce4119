"""What a head does usually: prompts from every decile of its activity, not only those that excite it most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datasets.prompts import PromptSet
from ..errors import BadOption
from ..hooks.encode import Batch, encode
from ..hooks.forward import forward
from ..hooks.heads import Head, parse_heads
from ..hooks.turn import watching
from .attention import attend
from .defaults import as_prompt_set
from .score import groups

LEFT_OUT = "The first token is left out, as query and as key: many heads rest there."


@dataclass(frozen=True, eq=False)
class Activity:
    """The strongest look of every head in every prompt.

    Attributes:
        strength: Largest attention weighted by what it carries, see `activity`; NaN for a prompt of one token.
        query: Position of the token that looks.
        key: Position of the token it looks at.
        prompts: The prompts.
    """

    strength: Float[np.ndarray, "prompt layer head"]
    query: Int[np.ndarray, "prompt layer head"]
    key: Int[np.ndarray, "prompt layer head"]
    prompts: PromptSet


@dataclass(frozen=True, eq=False)
class Example:
    """One prompt, and where a head looks most strongly in it.

    Attributes:
        part: Which part of the prompts it was drawn from: 1 holds the weakest activity, `n_parts` the strongest.
        n_parts: Number of parts.
        index: Of the prompt in its set.
        strength: The head's activity in it.
        tokens: Text of every token.
        query: The position that looks.
        attention: Where it looks; sums to 1.
    """

    part: int
    n_parts: int
    index: int
    strength: float
    tokens: tuple[str, ...]
    query: int
    attention: Float[np.ndarray, " key_pos"]


@torch.no_grad()
def activity(model: Any, prompts: Any) -> Activity:
    """Find every head's strongest look in every prompt, in one pass over the prompts.

    Formula: max over queries i ≥ 1 and keys 1 ≤ j ≤ i of A[i, j] · ‖v_j W_O‖. Position 0 is left out on both sides,
        because many heads rest there when they have nothing to do.
    Direction: higher is a stronger write because of a look. It says nothing about what the write is for.
    Shape and unit: one number per prompt and head, in the unit of the residual stream.
    Reference: HeadVis (Anthropic, 2026) takes the maximum of plain attention; the weight is Kobayashi et al. 2020,
        arXiv:2004.10102.

    Raises:
        EmptyPromptSet: There is no prompt.
    """
    data = as_prompt_set(prompts)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    shape = (len(data), n_layers, n_heads)
    strength, query, key = np.full(shape, np.nan), np.zeros(shape, int), np.zeros(shape, int)
    for rows in groups(model, data):
        batch = encode(model, [data[row] for row in rows])

        def visit(layer: int, weighted: Tensor, rows: list[int] = rows, batch: Batch = batch) -> None:
            inside = batch.positions.to(weighted.device) >= 1
            weighted.masked_fill_(~(inside[:, None, :, None] & inside[:, None, None, :]), -1)
            width = weighted.shape[-1]
            best, where = weighted.flatten(2).max(-1)
            start = (batch.last - batch.lengths + 1).cpu().numpy()[:, None]  # left padding shifts columns
            strength[rows, layer] = np.where(best.cpu() >= 0, best.double().cpu(), np.nan)
            query[rows, layer] = where.cpu().numpy() // width - start
            key[rows, layer] = where.cpu().numpy() % width - start

        _each_weighted(model, batch, visit)
    silent = np.isnan(strength)
    query[silent] = key[silent] = 0
    return Activity(strength, query, key, data)


def examples(
    model: Any, found: Activity, head: Head, *, parts: int = 10, per_part: int = 1, seed: int = 0
) -> tuple[Example, ...]:
    """Draw prompts from every part of a head's activity, strongest part first.

    The prompts are sorted by activity and cut into parts of equal size, deciles by default; from each part a seeded
    random choice is shown. With fewer prompts than parts, each prompt is its own part.

    Args:
        model: The bridge.
        found: What `activity` gave.
        head: The head.
        parts: Number of parts.
        per_part: Prompts drawn from each.
        seed: Of the choice.

    Raises:
        UnknownHead: The model does not have the head.
        BadOption: `parts` or `per_part` is below 1.
    """
    if parts < 1 or per_part < 1:
        raise BadOption(f"parts={parts}, per_part={per_part}: expected 1 or more of each.")
    (head,) = parse_heads(head, model)
    drawn = []
    for part, n_parts, index in draw(found.strength[:, head.layer, head.index], parts, per_part, seed):
        seen = attend(model, found.prompts[index], [head])
        query = int(found.query[index, head.layer, head.index])
        strength = float(found.strength[index, head.layer, head.index])
        drawn.append(Example(part, n_parts, index, strength, seen.tokens, query, seen.patterns[0, query]))
    return tuple(drawn)


def draw(
    strength: Float[np.ndarray, " prompt"], parts: int, per_part: int, seed: int
) -> Iterable[tuple[int, int, int]]:
    """Draw prompts from each equal part of their order by strength: `(part, n_parts, prompt)`, strongest part first.

    >>> list(draw(np.array([3.0, 1.0, 2.0, 4.0]), parts=2, per_part=2, seed=0))
    [(2, 2, 3), (2, 2, 0), (1, 2, 2), (1, 2, 1)]
    """
    ran = np.flatnonzero(np.isfinite(strength))
    order = ran[np.argsort(strength[ran], kind="stable")]
    pieces = [piece for piece in np.array_split(order, min(parts, max(1, len(order)))) if len(piece)]
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(len(piece), size=min(per_part, len(piece)), replace=False) for piece in pieces]
    for part in range(len(pieces), 0, -1):
        for place in sorted(chosen[part - 1].tolist(), reverse=True):
            yield part, len(pieces), int(pieces[part - 1][place])


def _each_weighted(model: Any, batch: Batch, visit: Any) -> None:
    """Show `visit(layer, A[i, j] · ‖v_j W_O‖)` for every layer, one at a time."""
    values: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda v, hook: values.__setitem__(layer, v.detach())

    def watch(layer: int) -> Any:
        def hook_fn(pattern: Tensor, hook: Any) -> None:
            norms = write_norms(model, layer, values.pop(layer))  # batch head key_pos
            visit(layer, pattern.detach().float() * norms[:, :, None, :])

        return hook_fn

    layers = range(int(model.cfg.n_layers))
    hooks = [(f"blocks.{layer}.attn.hook_v", keep(layer)) for layer in layers]
    hooks += [(f"blocks.{layer}.attn.hook_pattern", watch(layer)) for layer in layers]
    with watching(model, hooks):
        forward(model, batch, logits_at="last")


def write_norms(
    model: Any, layer: int, values: Float[Tensor, "batch pos kv_head d_head"]
) -> Float[Tensor, "batch head pos"]:
    """Measure what each query head would write of each token: ‖v_j W_O‖."""
    weight = model.blocks[layer].attn.W_O.detach().float()  # head d_head d_model
    shared = values.float().repeat_interleave(weight.shape[0] // values.shape[2], dim=2)
    gram = weight @ weight.transpose(1, 2)
    return torch.einsum("bphd,hde,bphe->bhp", shared, gram, shared).clamp_min(0).sqrt()
