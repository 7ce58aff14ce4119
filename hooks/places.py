"""Where tokens stand for a model that counts the pieces of an image by row and column."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from .encode import Batch


class Places:
    """Position ids of a batch's tokens, for models that count an image's pieces by row and column.

    Such a model finds them itself only where a whole prompt is fed at once, and keeps part of what it found for the
    next call, whatever that is about; so they are found here, and given with every call.
    """

    def __init__(self, model: Any, batch: Batch) -> None:
        inner: Any = getattr(model.original_model, "model", None)
        self._whole: Int[Tensor, "axis batch pos"] | None = None
        if not hasattr(inner, "get_rope_index"):
            return
        found, behind = batch.positions.expand(3, -1, -1), torch.zeros_like(batch.lengths)
        if batch.images:
            found, deltas = inner.get_rope_index(
                batch.tokens,
                mm_token_type_ids=batch.spans["image"].int(),
                image_grid_thw=batch.image_inputs["image_grid_thw"],
                attention_mask=batch.attention_mask,
            )
            behind = deltas[:, 0]
        # Real columns first: then a column is an absolute position, and a pass may feed any of them.
        order = (batch.attention_mask == 0).to(torch.int8).argsort(dim=1, stable=True)
        self._whole = found.gather(2, order.expand(3, -1, -1))
        self._behind = behind
        self._lengths = batch.lengths

    def of(self, positions: Int[Tensor, "batch pos"]) -> dict[str, Tensor]:
        """Return what the model takes for tokens at these absolute positions (-1: padding); mostly nothing."""
        if self._whole is None:
            return {}
        known = positions.clamp(0, self._whole.shape[2] - 1).expand(3, -1, -1)
        inside = self._whole.gather(2, known)
        later = (positions + self._behind[:, None]).expand(3, -1, -1)
        found = torch.where(positions < self._lengths[:, None], inside, later)
        return {"position_ids": found.masked_fill(positions < 0, 0)}
