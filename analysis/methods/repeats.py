"""Heads that find an earlier copy of the current token: duplicate-token and induction heads."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks.encode import Batch
from ..registry import method
from .queries import earlier_copies, mean_over_queries


@method(
    "duplicate-token",
    data="repeated",
    higher="attends to earlier copies of the current token",
    reference="Wang et al. 2022, arXiv:2211.00593",
)
def duplicate_token(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch
) -> Float[Tensor, "prompt head"]:
    """Average the attention each repeated token pays to its own earlier copies.

    Formula: mean over queries i that repeat an earlier token of Σ_j A[i, j], over all j < i with the same token.
    Direction: 1 means all attention lands on earlier copies; uniform attention scores (number of copies) / (i + 1).
    Shape and unit: one number in [0, 1] per prompt and head; NaN for a prompt that repeats nothing.
    Reference: Wang et al. 2022, arXiv:2211.00593, name these heads. They show the attention from the second mention
        of a name to the first; the sum over all copies of any token is the form of TransformerLens' head detector.
    """
    copies = earlier_copies(batch)
    on_copies = (pattern * copies[:, None]).sum(-1)
    return mean_over_queries(on_copies, copies.any(-1))


@method(
    "induction",
    data="repeated",
    higher="attends to what followed this token last time",
    reference="Olsson et al. 2022, arXiv:2209.11895",
)
def induction(
    pattern: Float[Tensor, "prompt head query_pos key_pos"],
    batch: Batch,
    *,
    earlier: Literal["last", "all"] = "last",
) -> Float[Tensor, "prompt head"]:
    """Average the attention each repeated token pays to what followed it before.

    Formula: mean over queries i that repeat an earlier token of A[i, j + 1], where j is the last j < i with the same
        token; with `earlier="all"`, of the sum of A[i, j + 1] over all such j.
    Direction: 1 means all attention lands on the induction target; uniform attention scores about 1 / i.
    Shape and unit: one number in [0, 1] per prompt and head; NaN for a prompt that repeats nothing.
    Reference: Olsson et al. 2022, arXiv:2209.11895 ("prefix matching"), on sequences repeated once, where both forms
        agree. For a token that stands more than once before, the paper is silent. HeadVis takes all copies and drops
        weights under 0.01, which this does not.

    >>> import torch; from headscope.analysis.methods.repeats import induction
    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(tokens=torch.tensor([[5, 6, 5]]), attention_mask=torch.ones(1, 3))
    >>> induction(torch.tensor([[[[1., 0, 0], [0, 1, 0], [.25, .75, 0]]]]), batch)
    tensor([[0.7500]])
    """
    copies = earlier_copies(batch)
    if earlier == "last":
        place = torch.arange(1, copies.shape[-1] + 1, device=copies.device)
        last = (copies * place).argmax(-1, keepdim=True)
        copies = torch.zeros_like(copies).scatter(-1, last, copies.any(-1, keepdim=True))
    # Column j + 1 is the token after column j; a copy at i − 1 makes the query its own target.
    targets = torch.zeros_like(copies)
    targets[..., 1:] = copies[..., :-1]
    on_targets = (pattern * targets[:, None]).sum(-1)
    return mean_over_queries(on_targets, copies.any(-1))
