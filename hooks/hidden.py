"""The hidden state that a model unembeds: what its last block leaves, after the final norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import NoEffect
from .encode import Batch
from .forward import forward
from .intervene import intervene
from .interventions import Intervention
from .references import References
from .turn import turn


@contextmanager
def unembedded(model: Any) -> Iterator[list[Tensor]]:
    """Collect what is handed to the unembedding inside the block, one tensor per pass.

    It is read at the unembedding's own door, so caps and scales that an architecture puts behind it do not enter.
    """
    seen: list[Tensor] = []

    def keep(_: Any, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach())

    with turn(model), ExitStack() as undo:
        undo.callback(model.unembed.register_forward_pre_hook(keep).remove)
        yield seen


@torch.no_grad()
def final_hidden(
    model: Any,
    batch: Batch,
    interventions: Sequence[Intervention] = (),
    *,
    references: References | None = None,
) -> Float[Tensor, "example d_model"]:
    """Return the hidden state after the final norm at each prompt's last real position; float32, on the CPU.

    Changing nothing is no mistake here: one head of many may well be without effect on these prompts.

    Args:
        model: The bridge.
        batch: Encoded prompts.
        interventions: What to change meanwhile.
        references: As for `intervene`.

    Raises:
        NonFinite: The logits that follow are NaN or infinite.
    """
    with unembedded(model) as seen:
        # A head without effect makes the block refuse at its end, when the result is already there.
        with suppress(NoEffect), intervene(model, list(interventions), batch, references=references):
            forward(model, batch, logits_at="last")
        hidden = seen[-1]
    last = batch.last.to(hidden.device)
    columns = torch.unique(last)
    # Most models unembed only the columns that are read, in order.
    column = torch.searchsorted(columns, last) if hidden.shape[1] == len(columns) else last
    return hidden[torch.arange(len(last), device=hidden.device), column].float().cpu()
