"""Clean head outputs of other runs that an intervention puts in place of a head's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import Prompt
from ..errors import BadPrompts
from .capture import capture_z
from .encode import Batch, encode
from .tower import sees_pieces

CHUNK = 8


class References:
    """Runs a model on reference prompts when asked, and keeps the results for as long as this object lives.

    Nothing is kept beyond it, so changed weights can never meet old references.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._means: dict[tuple[tuple[Prompt, ...], bool], Tensor] = {}
        self._paired: tuple[Batch, Tensor] | None = None
        self._of_batch: dict[Hashable, tuple[Batch, Any]] = {}

    def of_batch(self, who: Hashable, batch: Batch, make: Callable[[], Any]) -> Any:
        """Return what `make` made for `who` and this batch; only the latest batch's is kept."""
        if who not in self._of_batch or self._of_batch[who][0] is not batch:
            self._of_batch[who] = (batch, make())
        return self._of_batch[who][1]

    def mean(
        self, prompts: tuple[Prompt, ...], by_position: bool
    ) -> Float[Tensor, "layer position head d_head"]:
        """Average z over the real tokens of reference prompts, BOS included.

        Returns:
            One entry along `position` if averaged over positions; otherwise one per absolute position, each the mean
            over the prompts that are that long.
        """
        key = (prompts, by_position)
        if key not in self._means:
            self._means[key] = self._mean(prompts, by_position)
        return self._means[key]

    def paired(self, batch: Batch) -> Float[Tensor, "layer batch position head d_head"]:
        """Return z of the corrupted texts of a batch, by absolute position (not by column).

        Raises:
            BadPrompts: a prompt has no corrupted text, or one with another number of tokens.
        """
        if self._paired is None or self._paired[0] is not batch:
            self._paired = (batch, self._corrupted(batch))
        return self._paired[1]

    def _mean(self, prompts: tuple[Prompt, ...], by_position: bool) -> Tensor:
        batch = encode(self.model, prompts)  # on the model's device
        width = int(batch.lengths.max()) if by_position else 1
        total, count = None, torch.zeros(width, dtype=torch.float64)
        if sees_pieces(self.model):
            return self._mean_of_pieces(batch, by_position)
        for start in range(0, len(batch), CHUNK):
            rows = batch.rows(slice(start, start + CHUNK))
            real = rows.positions >= 0
            place = (rows.positions if by_position else torch.zeros_like(rows.positions))[real].cpu()
            with torch.no_grad():
                z = capture_z(self.model, rows)[:, real]  # layer token head d_head
            z = z.double().cpu()
            if total is None:
                total = torch.zeros(z.shape[0], width, *z.shape[2:], dtype=torch.float64)
            total.index_add_(1, place, z)
            count.index_add_(0, place, torch.ones(len(place), dtype=torch.float64))
        assert total is not None
        mean = total / count[:, None, None]
        return mean.to(device=self.model.cfg.device, dtype=self.model.cfg.dtype)

    def _mean_of_pieces(self, batch: Batch, by_position: bool) -> Tensor:
        """Average a tower's z over images, and over their pieces unless by position."""
        if not any(batch.images):
            raise BadPrompts("mean: no reference prompt has an image, and these heads read images.")
        sums: Tensor | float = 0.0
        count = 0
        for start in range(0, len(batch), CHUNK):
            rows = batch.rows(slice(start, start + CHUNK))
            if not any(rows.images):
                continue
            with torch.no_grad():
                z = capture_z(self.model, rows).double().cpu()  # layer image piece head d_head
            sums, count = (
                sums + (z.sum(1) if by_position else z.sum((1, 2))[:, None]),
                count + z.shape[1] * (1 if by_position else z.shape[2]),
            )
        mean = torch.as_tensor(sums) / count
        return mean.to(device=self.model.cfg.device, dtype=self.model.cfg.dtype)

    def _corrupted(self, batch: Batch) -> Tensor:
        if sees_pieces(self.model):
            raise BadPrompts(
                f"resample: a corrupted text changes nothing of what {self.model.cfg.model_name} sees; use mean or "
                "zero."
            )
        other = batch.corrupted()
        for row, (own, paired) in enumerate(zip(batch.lengths.tolist(), other.lengths.tolist(), strict=True)):
            if own != paired:
                raise BadPrompts(
                    f"resample: prompt {row} ({batch.prompts[row].text[:60]!r}) has {own} tokens and its corrupted "
                    f"text {paired}; pairs must match token by token."
                )
        with torch.no_grad():
            z = capture_z(self.model, other)
        # Real columns first, in order: column = absolute position, whatever the padding side.
        order = (other.attention_mask == 0).to(torch.int8).argsort(dim=1, stable=True).to(z.device)
        rows = torch.arange(len(other), device=z.device)[:, None]
        return z[:, rows, order]
