"""Run single blocks of a model from a stored clean run: any rows, only the columns that can have changed.

The blocks are the model's own, so every architecture's norms, rotations, soft-capping and masks are those of an
ordinary forward pass. What is left out is what cannot matter: columns before the first changed one (their keys and
values are the clean ones), attention in the layer where a head's output is replaced, and, in the last layer,
queries at positions that nobody reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module
from transformers.pytorch_utils import Conv1D

from .encode import Batch
from .forward import forward
from .lean import forward_as
from .turn import turn

_CACHE_NAMES = ("past_key_values", "layer_past")


class Unsupported(Exception):
    """These blocks cannot be run one by one; the caller falls back to whole forward passes."""


class _HaveKeys(Exception):
    """Leaves a block as soon as its keys and values are known."""


class _Keys:
    """Stands where a block expects a key-value cache, for one call of one block."""

    def __init__(self, use: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self.use = use

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self.use(keys, values)


@dataclass
class Layer:
    """What the clean run left behind in one layer.

    Attributes:
        hidden: What the block received.
        arguments: The block's other arguments by name.
        z: Head outputs before the output projection.
        v: Value vectors, of the key-value heads.
        written: What attention handed back to the block, first of `n_written` values (0: not in a tuple).
        in_tuple: Whether the block handed its output on in a tuple.
        keys, values: As attention used them, after rotation.
    """

    hidden: Float[Tensor, "batch pos d_model"]
    arguments: dict[str, Any]
    cache_name: str | None
    z: Float[Tensor, "batch pos head d_head"] = field(init=False)
    v: Float[Tensor, "batch pos kv_head d_head"] = field(init=False)
    written: Float[Tensor, "batch pos d_model"] = field(init=False)
    n_written: int = field(init=False)
    in_tuple: bool = field(init=False)
    keys: Float[Tensor, "batch kv_head pos d_head"] | None = None
    values: Float[Tensor, "batch kv_head pos d_head"] | None = None


class Blocks:
    """A clean run of a batch, from which changed runs start in the middle.

    Attributes:
        layers: One record per layer.
        logits: Clean logits at each row's last real position.
        width: Columns of the batch.
    """

    def __init__(self, model: Any, batch: Batch):
        self.model = model
        self.batch = batch
        self.width = batch.tokens.shape[1]
        self.layers: list[Layer] = []
        self._projects: dict[int, bool] = {}
        self._left: Tensor | None = None
        self.logits: Float[Tensor, "batch vocab"] = self._run_clean()[:, 0]
        self.resumable = all(layer.keys is not None and _is_causal(layer.arguments) for layer in self.layers)
        """Whether clean keys and values may stand in for unchanged columns."""

    def _run_clean(self) -> Float[Tensor, "batch 1 vocab"]:
        """Run the batch once and keep what every block received and made."""
        hooks: list[tuple[str, Callable[..., None]]] = []
        with ExitStack() as undo:
            undo.enter_context(turn(self.model))
            for index, block in enumerate(self.model.blocks):
                if not hasattr(block, "attn") or getattr(block.attn, "o", None) is None:
                    raise Unsupported(f"layer {index} has no attention with an output projection")
                # Put there and noted in one statement, since a key may be pressed between any two.
                undo.callback(block.register_forward_pre_hook(self._keep_input, with_kwargs=True).remove)
                undo.callback(block.attn.register_forward_hook(self._keep_written).remove)
                undo.callback(block.register_forward_hook(self._keep_form).remove)
                for name in ("z", "v"):
                    hooks.append((f"blocks.{index}.attn.hook_{name}", self._keeper(index, name)))
            undo.enter_context(self.model.hooks(fwd_hooks=hooks))
            return forward(self.model, self.batch, logits_at="last")

    def _keep_input(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        signature = inspect.signature(block.original_component.forward)
        named: dict[str, Any] = {}
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            extra = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            named.update(value if extra else {name: value})
        hidden = named.pop("hidden_states", None)
        if hidden is None:
            raise Unsupported(f"{block.name} does not take hidden_states")
        if self._left is not None and not torch.equal(hidden, self._left):
            # As Qwen3-VL does at an image's pieces, where a run that starts in the middle would miss it.
            raise Unsupported(f"something is added to the residual stream before layer {len(self.layers)}")
        known = [name for name in _CACHE_NAMES if name in signature.parameters]
        layer = Layer(hidden, named, known[0] if known else None)
        self.layers.append(layer)

        def keep(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            layer.keys, layer.values = keys, values
            return keys, values

        return (hidden,), named | ({layer.cache_name: _Keys(keep)} if layer.cache_name else {})

    def _keep_written(self, _: Module, __: Any, output: Any) -> None:
        layer = self.layers[-1]
        layer.n_written = len(output) if isinstance(output, tuple) else 0
        layer.written = output[0] if isinstance(output, tuple) else output

    def _keep_form(self, _: Module, __: Any, output: Any) -> None:
        self.layers[-1].in_tuple = isinstance(output, tuple)
        self._left = output[0] if isinstance(output, tuple) else output

    def _keeper(self, index: int, name: str) -> Callable[..., None]:
        return lambda value, hook: setattr(self.layers[index], name, value)

    def resume(
        self, index: int, hidden: Float[Tensor, "row col d_model"], rows: Int[Tensor, " row"], start: int
    ) -> Float[Tensor, "row col d_model"]:
        """Run one whole block on changed hidden states of columns `start` and later.

        Args:
            index: Layer.
            hidden: Changed hidden states; columns before `start` are clean.
            rows: Row of the batch that each one is a variant of.
            start: First column held by `hidden`.
        """
        return self._call(
            index, hidden, rows, slice(start, None), keys=self._after_prefix(index, rows, start)
        )

    def resume_changed(
        self,
        index: int,
        written: Float[Tensor, "row col d_model"],
        rows: Int[Tensor, " row"],
        columns: slice | Int[Tensor, " row"],
    ) -> Float[Tensor, "row col d_model"]:
        """Run one block on its clean input with another attention output in place of its own.

        Args:
            index: Layer.
            written: What attention is to hand back.
            rows: Row of the batch that each one is a variant of.
            columns: The columns that `written` holds: a slice, or one column for each row.
        """
        layer = self.layers[index]
        returned = (written, *[None] * (layer.n_written - 1)) if layer.n_written else written
        hidden = take(layer.hidden, rows, columns, len(self.batch), self.width)
        with forward_as(self.model.blocks[index].attn, lambda *_, **__: returned):
            return self._call(index, hidden, rows, columns, keys=None)

    def resume_reading(
        self,
        index: int,
        hidden: Float[Tensor, "row col d_model"],
        rows: Int[Tensor, " row"],
        start: int,
        columns: Int[Tensor, " row"],
    ) -> Float[Tensor, "row 1 d_model"]:
        """Run one block like `resume`, but make its output at one column of each row only."""
        here = torch.arange(len(rows), device=rows.device)
        read = hidden[here, columns - start].unsqueeze(1)
        last = bool((columns == self.width - 1).all())
        if self.layers[index].keys is None or (_mask(self.layers[index].arguments) is None and not last):
            whole = self.resume(index, hidden, rows, start)
            return whole[here, columns - start].unsqueeze(1)
        prefix = self._after_prefix(index, rows, start)
        found: list[tuple[Tensor, Tensor]] = []

        def stop(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            found.append(prefix.use(keys, values) if prefix else (keys, values))
            raise _HaveKeys

        try:
            self._call(index, hidden, rows, slice(start, None), keys=_Keys(stop))
        except _HaveKeys:
            return self._call(index, read, rows, columns, keys=_Keys(lambda *_: found[0]))
        raise Unsupported(f"layer {index} does not use its key-value cache")

    def output_weight(self, index: int) -> Float[Tensor, "head d_head d_model"]:
        """Give the matrices that take a layer's head outputs to what its attention writes.

        Raises:
            Unsupported: what attention writes is not a linear projection of z.
        """
        layer, projection = self.layers[index], self.model.blocks[index].attn.o.original_component
        if not isinstance(projection, (Conv1D, torch.nn.Linear)):
            raise Unsupported(f"layer {index} has an output projection of type {type(projection).__name__}")
        if index not in self._projects:
            self._projects[index] = close(projection(layer.z.flatten(2)), layer.written)
        if not self._projects[index]:
            raise Unsupported(f"layer {index} changes what its attention's output projection gives")
        weight = projection.weight if isinstance(projection, Conv1D) else projection.weight.T
        return weight.reshape(*layer.z.shape[2:], -1)

    def unembed(self, hidden: Float[Tensor, "row 1 d_model"]) -> Float[Tensor, "row vocab"]:
        """Give the logits of hidden states that left the last block, by the model's own way from there on."""
        tokens = self.batch.tokens.new_zeros(hidden.shape[:2])
        with ExitStack() as undo:
            for block, layer in zip(self.model.blocks, self.layers, strict=True):
                output = (hidden,) if layer.in_tuple else hidden
                undo.enter_context(forward_as(block, lambda *_, output=output, **__: output))
            return self.model(tokens, output_attentions=False, use_cache=False)[:, 0]

    def _after_prefix(self, index: int, rows: Tensor, start: int) -> _Keys | None:
        """Put the clean keys and values of the columns before `start` in front of the new ones."""
        if start == 0:
            return None
        layer = self.layers[index]
        assert layer.keys is not None and layer.values is not None
        before_k, before_v = (kept[rows, :, :start] for kept in (layer.keys, layer.values))
        return _Keys(lambda k, v: (torch.cat([before_k, k], dim=2), torch.cat([before_v, v], dim=2)))

    def _call(self, index: int, hidden: Tensor, rows: Tensor, columns: Any, keys: _Keys | None) -> Tensor:
        layer = self.layers[index]
        arguments = {
            name: take(value, rows, columns, len(self.batch), self.width)
            for name, value in layer.arguments.items()
        }
        if layer.cache_name:
            arguments[layer.cache_name] = keys
        output = self.model.blocks[index](hidden, **arguments)
        return output[0] if isinstance(output, tuple) else output


def take(value: Any, rows: Tensor, columns: slice | Tensor, n_rows: int, width: int) -> Any:
    """Choose rows and query columns of one argument of a block: masks, rotations, position ids, or none of these."""
    if isinstance(value, (tuple, list)):
        return type(value)(take(part, rows, columns, n_rows, width) for part in value)
    if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] not in (1, n_rows):
        return value
    axis = 2 if value.ndim == 4 else 1
    has_columns = value.shape[axis] == width
    if isinstance(columns, Tensor) and has_columns:
        picked = value.expand(n_rows, *value.shape[1:]).movedim(axis, 1)[rows, columns]
        return picked.unsqueeze(axis)
    if isinstance(columns, slice) and has_columns:
        value = value[:, :, columns] if axis == 2 else value[:, columns]
    return value if value.shape[0] == 1 else value[rows]


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Say whether two computations of the same numbers differ by rounding only."""
    tolerance = min(256 * torch.finfo(theirs.dtype).eps, 0.1)
    return bool((ours - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max())))


def _mask(arguments: dict[str, Any]) -> Tensor | None:
    mask = arguments.get("attention_mask")
    return mask if isinstance(mask, Tensor) else None


def _is_causal(arguments: dict[str, Any]) -> bool:
    """Say whether no position looks ahead, so that later changes leave earlier columns as they are."""
    mask = _mask(arguments)
    if mask is None:
        return True
    if mask.ndim != 4 or mask.shape[-1] != mask.shape[-2]:
        return False
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return not bool(allowed.triu(1).any())
