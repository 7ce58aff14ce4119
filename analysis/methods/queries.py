"""What the pattern methods share: which queries are real, and the mean over the ones that a method asks about."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...hooks.encode import Batch


def real_tokens(batch: Batch) -> Bool[Tensor, "prompt pos"]:
    """Mark the tokens that are not padding."""
    return batch.attention_mask.bool()


def mean_over_queries(
    values: Float[Tensor, "prompt head query_pos"], where: Bool[Tensor, "prompt query_pos"]
) -> Float[Tensor, "prompt head"]:
    """Average over the marked queries of each prompt; NaN for a prompt without any.

    Unmarked queries may hold anything, NaN included: what a padding row attends to means nothing.
    """
    marked = where[:, None, :]
    total = torch.where(marked, values, torch.zeros_like(values)).sum(-1)
    return total / marked.sum(-1)  # 0 / 0 is NaN


def earlier_copies(batch: Batch) -> Bool[Tensor, "prompt query_pos key_pos"]:
    """Mark, for each real query, the earlier real positions that hold the same token."""
    real = real_tokens(batch)
    same = batch.tokens[:, :, None] == batch.tokens[:, None, :]
    earlier = torch.ones_like(same[0]).tril(-1)
    return same & earlier & real[:, :, None] & real[:, None, :]
