"""Carry the changed runs of many heads through the layers together, each setting out in its head's layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import NoEffect, NonFinite
from .apply import apply
from .blocks import Blocks, Unsupported, close
from .encode import Batch
from .faults import advice
from .forward import forward
from .heads import Head
from .hidden import unembedded
from .intervene import intervene
from .interventions import Intervention
from .lean import lean
from .references import References
from .site import site_of
from .tower import sees_pieces
from .turn import turn

Kind = Callable[[tuple[Head, ...]], Intervention]


class Wave:
    """The clean run of some prompts, from which changed runs set out.

    Attributes:
        clean_logits: Logits of the unchanged model at each prompt's last real position.
        changed: Whether any head's output differed from the clean one so far.
        hidden: For each head of the last `run`, what was unembedded: `[batch, d_model]`, after the final norm.
    """

    def __init__(self, model: Any, batch: Batch, kind: Kind, references: References):
        self.model, self.batch, self.kind, self.references = model, batch, kind, references
        if sees_pieces(model):
            raise Unsupported("its heads read images, and runs that start in the middle are of texts")
        first = kind((Head(0, 0),))
        if first.at != "z":
            raise Unsupported(
                f"{first.kind} acts on {first.at}, and what starts in the middle is a change of z"
            )
        first.check(model)
        first.prepare(references, batch)
        self.blocks = Blocks(model, batch)
        self.clean_logits: Float[Tensor, "batch vocab"] = self.blocks.logits
        self.changed = False
        self.hidden: list[Float[Tensor, "batch d_model"]] = []

    def run(self, heads: Sequence[Head], *, check: bool) -> list[Float[Tensor, "batch vocab"]]:
        """Run the changed sequences of these heads together.

        Args:
            heads: Heads in order of layer; each is changed on its own.
            check: Send one unchanged sequence along and hold where it arrives against the clean run.

        Returns:
            For every head the changed logits at each prompt's last real position.

        Raises:
            Unsupported: the unchanged sequence does not arrive at the clean logits.
            NonFinite: a changed run gave NaN or infinite logits.
        """
        moves = torch.stack([self._move(head) for head in heads])  # head batch pos d_head
        moved = (moves != 0).any(-1).any(0).any(0).nonzero()
        self.changed = self.changed or len(moved) > 0
        # Columns before the first change are clean, but the one that is read must be among those that are run.
        first = min(int(moved[0]) if len(moved) else self.blocks.width, int(self.batch.last.min()))
        with turn(self.model), lean(self.model), unembedded(self.model) as seen:
            hidden = self._roll(heads, moves, first if self.blocks.resumable else 0, check)
            logits = self.blocks.unembed(hidden)
        final = seen[-1][:, 0]
        if check:
            if not close(logits[0], self.clean_logits[self._check_row]):
                raise Unsupported(
                    "an unchanged run that starts in the middle does not reproduce the model's logits"
                )
            logits, final = logits[1:], final[1:]
        self.hidden = list(final.split(len(self.batch)))
        changed = list(logits.split(len(self.batch)))
        for head, some in zip(heads, changed, strict=True):
            self._refuse_non_finite(head, some)
        return changed

    def _roll(
        self, heads: Sequence[Head], moves: Float[Tensor, "head batch pos d_head"], start: int, check: bool
    ) -> Float[Tensor, "row 1 d_model"]:
        """Move through the layers, adding the heads of each; return what the last one leaves at the read columns."""
        final = len(self.blocks.layers) - 1
        last = self.batch.last
        hidden: Tensor | None = None
        rows = last.new_zeros(0)
        for layer in range(heads[0].layer, final + 1):
            arrived: list[Tensor] = []
            if hidden is not None:
                if layer == final:
                    arrived.append(self.blocks.resume_reading(layer, hidden, rows, start, last[rows]))
                else:
                    arrived.append(self.blocks.resume(layer, hidden, rows, start))
            here = [place for place, head in enumerate(heads) if head.layer == layer]
            if here:
                joining, written = self._set_out(layer, [heads[place].index for place in here], moves[here])
                if check and hidden is None:
                    joining = torch.cat([joining.new_tensor([self._check_row]), joining])
                    written = torch.cat([self.blocks.layers[layer].written[[self._check_row]], written])
                columns: Any = last[joining] if layer == final else slice(start, None)
                own = torch.arange(len(joining), device=joining.device)
                written = written[own, columns].unsqueeze(1) if layer == final else written[:, start:]
                arrived.append(self.blocks.resume_changed(layer, written, joining, columns))
                rows = torch.cat([rows, joining])
            hidden = torch.cat(arrived) if len(arrived) > 1 else arrived[0]
        assert hidden is not None
        return hidden

    def _set_out(
        self, layer: int, indices: list[int], moves: Float[Tensor, "head batch pos d_head"]
    ) -> tuple[Int[Tensor, " row"], Float[Tensor, "row pos d_model"]]:
        """Give what a layer's attention writes when each of these heads alone is moved, and the prompt of each row."""
        weight = self.blocks.output_weight(layer)[indices]
        moved = torch.einsum("hbpd,hdm->hbpm", moves, weight)
        written = (self.blocks.layers[layer].written + moved).flatten(0, 1)
        return torch.arange(len(self.batch), device=moves.device).repeat(len(indices)), written

    def _move(self, head: Head) -> Float[Tensor, "batch pos d_head"]:
        """Give the difference that the intervention makes to one head's output."""
        layer = self.blocks.layers[head.layer]
        intervention = self.kind((head,))
        v = layer.v if intervention.needs_values else None
        site = site_of(self.model, head.layer, layer.z, v, self.batch, self.references)
        return (apply(intervention, site) - layer.z)[:, :, head.index]

    @property
    def _check_row(self) -> int:
        """The shortest prompt: the one with most padding beside it."""
        return int(self.batch.lengths.argmin())

    def _refuse_non_finite(self, head: Head, logits: Float[Tensor, "batch vocab"]) -> None:
        broken = (~torch.isfinite(logits)).any(-1).nonzero()
        if not len(broken):
            return
        change = self.kind((head,))
        # One whole pass tells where it begins.
        with suppress(NoEffect), intervene(self.model, change, self.batch, references=self.references):
            forward(self.model, self.batch, logits_at="last")
        row = int(broken[0])
        raise NonFinite(
            f"{change} makes the logits of prompt {row} of its batch ({self.batch.prompts[row].text[:60]!r}) NaN or "
            f"infinite where it is run from its own layer on, and not in a whole pass.{advice(self.model)}"
        )
