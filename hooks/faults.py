"""Find where a NaN or an infinity arises: the first point of the first layer, by head where there are heads.

Passes are checked at their end only, where whatever broke on the way arrives: a NaN stays one through sums, norms and
attention. Only a pass that ends badly is run once more, with every point watched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import BadOption
from .heads import Head
from .points import kv_groups
from .turn import open_blocks


class _Look(NamedTuple):
    """One hook point of a layer: how it is called, and which axes count tokens and heads."""

    hook: str
    words: str
    head_axis: int | None = None
    shared: bool = False


# In the order in which a layer fires them; where attention and MLP read the same stream, either may come first.
_LOOKS = (
    _Look("hook_in", "what enters layer {layer}"),
    _Look("attn.hook_q", "the query of {heads}", 2),
    _Look("attn.hook_k", "the key of {heads}", 2, shared=True),
    _Look("attn.hook_v", "the value of {heads}", 2, shared=True),
    _Look("attn.hook_pattern", "the attention of {heads}", 1),
    _Look("attn.hook_z", "the output (z) of {heads}", 2),
    _Look("attn.hook_out", "what attention writes in layer {layer}"),
    _Look("mlp.hook_out", "the MLP of layer {layer}"),
    _Look("hook_out", "what layer {layer} leaves in the residual stream"),
)


class _Found(Exception):
    """Leaves the second pass at the first fault."""

    def __init__(self, where: str) -> None:
        self.where = where


def first_fault(model: Any, row: int, real: Bool[Tensor, " pos"], run: Callable[[], Any]) -> str:
    """Run a pass again and say where a row first holds a NaN or an infinity.

    Args:
        model: The bridge, with the hooks on it under which the pass ended badly.
        row: The row.
        real: Which of its columns hold a token; padding may hold anything.
        run: Runs the pass.

    Returns:
        Words such as `first in the output (z) of L3H2, at token 7`.
    """
    hooks = []
    for layer in range(int(model.cfg.n_layers)):
        for look in _LOOKS:
            name = f"blocks.{layer}.{look.hook}"
            if name in model.hook_dict and (look.hook != "hook_in" or layer == 0):
                hooks.append((name, _watch(model, layer, look, row, real)))
    try:
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            run()
    except _Found as found:
        return f"first in {found.where}"
    except BadOption:  # an edit that cannot be made twice in one pass over the text
        return "at a place that a second pass could not be run for"
    return "after the last layer"


def _watch(model: Any, layer: int, look: _Look, row: int, real: Bool[Tensor, " pos"]) -> Callable[..., None]:
    def hook_fn(value: Any, hook: Any) -> None:
        if not isinstance(value, Tensor) or value.ndim < 3:
            return
        own = value[row if value.shape[0] > row else 0]
        broken = ~torch.isfinite(own)
        if look.head_axis == 1:
            broken = broken.transpose(0, 1)  # query head key
        if not broken.ndim or broken.shape[0] != len(real):
            return
        broken = broken & real.to(broken.device).reshape(-1, *[1] * (broken.ndim - 1))
        if not bool(broken.any()):
            return
        token = int(broken.flatten(1).any(1).nonzero()[0])
        heads = ""
        if look.head_axis is not None:
            size = kv_groups(model) if look.shared else 1
            kinds = broken.flatten(2).any(2).any(0).nonzero()[:, 0].tolist()
            heads = _listed([Head(layer, kind * size + one) for kind in kinds for one in range(size)])
        position = int(real[:token].sum())
        raise _Found(look.words.format(layer=layer, heads=heads) + f", at token {position}")

    return hook_fn


def _listed(heads: Sequence[Head]) -> str:
    shown = [str(head) for head in heads]
    if len(shown) > 4:
        shown = [*shown[:4], f"{len(heads) - 4} more"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def advice(model: Any) -> str:
    """Say what to do about a NaN, as the tail of a message: by dtype, and by what is open on the model."""
    changes = [str(one) for block in open_blocks(model) for one in block.interventions]
    inside = f" It ran inside {'; '.join(changes)}." if changes else ""
    dtype = next(model.original_model.parameters()).dtype
    name = str(dtype).removeprefix("torch.")
    remedies = {
        torch.float16: "float16 ends at 65504, so this is mostly overflow: load with dtype bfloat16 or float32",
        torch.bfloat16: "Load with dtype float32 to see whether it is a matter of rounding",
    }
    if changes:
        remedy = f"{remedies[dtype]}, or use" if dtype in remedies else "Use"
        return f"{inside} {remedy} a smaller gain or strength."
    return f"{inside} {remedies.get(dtype, f'In {name} the weights or a hook are at fault')}."
