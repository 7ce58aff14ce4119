"""Heads by the place they attend to: the previous token, the token itself, the first token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks.encode import Batch
from ..registry import method
from .queries import mean_over_queries, real_tokens


@method(
    "previous-token",
    data="repeated",
    higher="attends to the token just before",
    reference="Olsson et al. 2022, arXiv:2209.11895",
)
def previous_token(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch
) -> Float[Tensor, "prompt head"]:
    """Average the attention each token pays to the token before it.

    Formula: mean over queries i ≥ 1 of A[i, i − 1], where position 0 is the first real token (BOS, if there is one).
    Direction: 1 means all attention lands on the previous token; uniform attention scores the mean of 1 / (i + 1).
    Shape and unit: one number in [0, 1] per prompt and head; NaN for a prompt of one token.
    Reference: Olsson et al. 2022, arXiv:2209.11895. It is HeadVis' `prev_token_score`, the mean first subdiagonal.

    >>> import torch; from headscope.analysis.methods.places import previous_token
    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(tokens=torch.tensor([[7, 8, 9]]), attention_mask=torch.ones(1, 3))
    >>> previous_token(torch.tensor([[[[1., 0, 0], [1, 0, 0], [0, .5, .5]]]]), batch)
    tensor([[0.7500]])
    """
    real = real_tokens(batch)
    pairs = real[:, 1:] & real[:, :-1]
    return mean_over_queries(pattern.diagonal(offset=-1, dim1=-2, dim2=-1), pairs)


@method(
    "self",
    data="repeated",
    higher="attends to the token it stands on",
    reference="HeadVis (Anthropic, 2026): self_attention_score",
)
def self_attention(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch
) -> Float[Tensor, "prompt head"]:
    """Average the attention each token pays to itself.

    Formula: mean over all real queries i of A[i, i]. The first token is included; it can attend to nothing else.
    Direction: 1 means all attention stays on the query's own token; uniform attention scores the mean of 1 / (i + 1).
    Shape and unit: one number in [0, 1] per prompt and head.
    Reference: HeadVis' `self_attention_score`, the mean diagonal; the convention on the first token is ours.
    """
    return mean_over_queries(pattern.diagonal(dim1=-2, dim2=-1), real_tokens(batch))


@method(
    "first-token",
    data="repeated",
    higher="rests on the first token (an attention sink)",
    reference="Xiao et al. 2023, arXiv:2309.17453",
)
def first_token(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch
) -> Float[Tensor, "prompt head"]:
    """Average the attention that goes to the first real token, the sink.

    Formula: mean over all real queries i of A[i, 0]. The first token itself is included and contributes 1.
    Direction: 1 means that everything rests on the first token; uniform attention scores the mean of 1 / (i + 1).
    Shape and unit: one number in [0, 1] per prompt and head.
    Reference: Xiao et al. 2023, arXiv:2309.17453, describe the sink; they give no score of a head, this mean is ours.
    """
    real = real_tokens(batch)
    first = real.int().argmax(dim=1)  # padding may stand on the left
    to_first = pattern[torch.arange(len(first), device=pattern.device), :, :, first.to(pattern.device)]
    return mean_over_queries(to_first, real)
