"""How widely a head spreads its attention, and how far away it looks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks.encode import Batch
from ..registry import method
from .queries import mean_over_queries, real_tokens


@method(
    "entropy",
    data="repeated",
    higher="spreads its attention over many tokens",
    reference="HeadVis (Anthropic, 2026): pattern_entropy",
    alternative=None,
)
def entropy(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch
) -> Float[Tensor, "prompt head"]:
    """Average the entropy of the attention of each token.

    Formula: mean over all real queries i of −Σ_j A[i, j] ln A[i, j]. The first token contributes 0.
    Direction: 0 means that each token attends to one other; uniform attention has the highest value, the mean of
        ln(i + 1). There is no test against chance, because every head lies below that bound.
    Shape and unit: one number in [0, ln n_tokens] per prompt and head, in nats.
    Reference: HeadVis' `pattern_entropy`, the mean row entropy.
    """
    return mean_over_queries(torch.special.entr(pattern).sum(-1), real_tokens(batch))


@method(
    "qk-distance",
    data="repeated",
    higher="looks far back",
    reference="HeadVis (Anthropic, 2026): qk_distance",
    alternative="two-sided",
)
def qk_distance(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch
) -> Float[Tensor, "prompt head"]:
    """Average how far away the attended tokens are.

    Formula: mean over all real queries i of Σ_j A[i, j] |i − j|. The first token contributes 0.
    Direction: 0 means that each token attends to itself, 1 is the reach of a previous-token head; uniform attention
        scores the mean of i / 2.
    Shape and unit: one number per prompt and head, in tokens.
    Reference: HeadVis' `qk_distance`, the mean |q − k| weighted by attention.
    """
    place = torch.arange(pattern.shape[-1], device=pattern.device, dtype=pattern.dtype)
    distance = (
        place[:, None] - place[None, :]
    ).abs()  # padding stands at one side only, so columns are enough
    return mean_over_queries((pattern * distance).sum(-1), real_tokens(batch))
