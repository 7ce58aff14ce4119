"""Run a model on a `Batch`: the one place where padding, positions and the finiteness of logits are seen to."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import NonFinite
from .encode import Batch
from .faults import advice, first_fault
from .places import Places
from .tower import bridge_of, reads_only_images
from .turn import turn


@dataclass(frozen=True)
class Pass:
    """What hooks may know about the forward pass that is running.

    Attributes:
        positions: Absolute position of every token fed in this pass, counted over real tokens with BOS = 0;
            -1 on padding.
        batch: The prompts that are run or, inside generation, continued.
        first_row: Which of the prompts of the whole call the batch's first row is.
    """

    positions: Int[Tensor, "batch pos"]
    batch: Batch | None = None
    first_row: int = 0


# Passes are held by the frames that announce them, so that one whose end was interrupted is gone with its frame.
_running: WeakKeyDictionary[Any, list[ref[Pass]]] = WeakKeyDictionary()


@contextmanager
def announce(model: Any, running: Pass) -> Iterator[None]:
    """Let hooks of this model learn the absolute positions of the tokens that are fed inside the block."""
    stack = _running.setdefault(bridge_of(model), [])
    try:
        stack.append(ref(running))
        yield
    finally:
        # Not simply the last one: a generator that was left suspended ends whenever it is collected.
        places = [index for index, one in enumerate(stack) if one() is running]
        if places:
            del stack[places[-1]]


def running_pass(model: Any) -> Pass | None:
    """Return what the innermost `announce` said, or None outside of one (someone called the model directly)."""
    stack = _running.get(bridge_of(model))
    found = [one() for one in reversed(stack or ())]
    return next((one for one in found if one is not None), None)


def forward(
    model: Any, batch: Batch, *, logits_at: Literal["last", "all"] = "all"
) -> Float[Tensor, "batch pos vocab"]:
    """Return next-token logits; a row's result does not depend on the rows and the padding beside it.

    Gradients are computed only if the caller has them enabled (it usually wraps the call in
    `torch.no_grad()`).

    Args:
        model: The bridge.
        batch: Encoded prompts, padded on either side.
        logits_at: `"all"` returns every column (`pos` is the batch's width, padding columns mean nothing);
            `"last"` unembeds only each row's last real token and returns `[batch, 1, vocab]`.

    Raises:
        NonFinite: a logit that is returned, or what the last layer leaves at any real token, is NaN or infinite; the
            message names prompt, layer and head.
        BadOption: the model is inside `intervene` of another thread. A pass of another thread is waited for.
    """
    model = bridge_of(model)
    batch = batch.to(model.cfg.device)
    keep: dict[str, Any] = {}
    columns = torch.unique(batch.last)
    if logits_at == "last" and "logits_to_keep" in _parameters(model):
        keep["logits_to_keep"] = columns
    padding = batch.attention_mask == 0
    with turn(model), announce(model, Pass(batch.positions, batch)):
        with _left_by_layers(model) as left:
            logits = _call(model, batch, **keep)
        if logits_at == "last":
            column = torch.searchsorted(columns, batch.last) if keep else batch.last
            rows = torch.arange(len(batch), device=logits.device)
            logits = logits[rows, column.to(logits.device)].unsqueeze(1)
            finite = torch.isfinite(logits).flatten(1).all(1)
        else:
            finite = (torch.isfinite(logits).all(-1) | padding.to(logits.device)).all(1)
        # A fault in the last layer reaches the logits of its own tokens only, but what hooks saw of it is no number.
        for hidden in left:
            finite &= (torch.isfinite(hidden).all(-1) | padding.to(hidden.device)).all(1).to(finite.device)
        if not bool(finite.all()):
            _explain_non_finite(model, batch, finite)
    return logits


@contextmanager
def _left_by_layers(model: Any) -> Iterator[list[Tensor]]:
    """Collect what the last layer leaves in the residual stream inside the block: `[batch, pos, d_model]`."""
    left: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        # An intervention may run the model inside this pass, on other prompts; what comes last is this pass's own.
        left[:] = [hidden.detach()]

    with ExitStack() as undo:
        undo.callback(model.blocks[-1].register_forward_hook(keep).remove)
        yield left


def _call(model: Any, batch: Batch, **options: Any) -> Tensor:
    """Call the bridge, which derives position ids from the mask wherever the architecture takes them."""
    if reads_only_images(model):
        return model(batch.image_inputs["pixel_values"]).unsqueeze(1)
    return model(
        batch.tokens,
        attention_mask=batch.attention_mask,
        # Kept outputs of every layer would hold all attention patterns at once; hooks see them without this.
        output_attentions=False,
        use_cache=False,
        **batch.image_inputs,
        **Places(model, batch).of(batch.positions),
        **options,
    )


def _parameters(model: Any) -> Any:
    return inspect.signature(model.original_model.forward).parameters


def _explain_non_finite(model: Any, batch: Batch, finite: Bool[Tensor, " batch"]) -> None:
    """Run once more to learn where the first non-finite value arises, and raise."""
    row = int((~finite).nonzero()[0])
    where = first_fault(model, row, batch.attention_mask[row].bool(), lambda: _call(model, batch))
    raise NonFinite(
        f"{model.cfg.model_name}: prompt {row} of its batch ({batch.prompts[row].text[:60]!r}) gives NaN or infinite "
        f"numbers, {where}.{advice(model)}"
    )
