"""Which heads can read what a head writes, and whose writing it can read: composition scores from weights alone.

TransformerLens' `all_composition_scores` gives the same ratio for all pairs, without the reading norm's gain and
without a chance level; here one head is compared with all others, which takes thousandths of the work.
"""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadOption
from ..hooks.heads import Head, parse_heads
from .norms import read_norm
from .weights import has_post_norm, values_weight

Through = Literal["Q", "K", "V"]
THROUGH: tuple[Through, ...] = ("Q", "K", "V")


@torch.no_grad()
def composition(model: Any, writers: Any, readers: Any, through: Through) -> Float[Tensor, "writer reader"]:
    """Measure how much of what a head writes another head reads, as query, key or value.

    Formula: ‖W_OV(writer) · W_r(reader)‖ / (‖W_OV(writer)‖ ‖W_r(reader)‖), Frobenius norms; W_r is W_Q W_Kᵀ for Q,
        its transpose for K, W_V W_O for V. The gain of the reader's norm is part of W_r; rotary positions are not.
    Direction: 1 if the reader reads only the directions written; a reader turned at random has 1 / √d_model (root mean
        square), see `chance`.
    Shape and unit: a ratio in [0, 1]; NaN where the reader does not come after the writer.
    Reference: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Args:
        model: The bridge.
        writers: Heads, in any form that `parse_heads` reads.
        readers: Likewise.
        through: `Q`, `K` or `V`.

    Raises:
        BadOption: There is no such way in, or a norm is of a kind that is not known here.
    """
    if through not in THROUGH:
        raise BadOption(f"through={through!r}: choose Q, K or V.")
    written, read = parse_heads(writers, model), parse_heads(readers, model)
    layers = {layer: _Weights(model, layer) for layer in sorted({head.layer for head in (*written, *read)})}
    scores = torch.full((len(written), len(read)), torch.nan)
    for row, writer in enumerate(written):
        own = layers[writer.layer]
        value, out = own.value[writer.index], own.out[writer.index]
        inner = value.T @ value  # of W_V: all that the norm of a product with W_V from the left needs
        size = _norm(inner, out @ out.T)
        for layer in sorted({head.layer for head in read if head.layer > writer.layer}):
            columns = [column for column, head in enumerate(read) if head.layer == layer]
            index = [read[column].index for column in columns]
            into, after = layers[layer].reading(through, index)
            passed = out @ into  # head d_head d_head
            products = _norm(inner, passed @ after @ passed.transpose(-1, -2))
            sizes = _norm(into.transpose(-1, -2) @ into, after)
            scores[row, columns] = (products / (size * sizes)).float().cpu()
    return scores


def chance(model: Any) -> float:
    """Give the composition score of a reader that is turned at random: 1 / √d_model, as a root mean square."""
    return float(int(model.cfg.d_model) ** -0.5)


def neighbours(model: Any, head: Head) -> pd.DataFrame:
    """Compare one head with every head before and after it.

    Returns:
        One row per other head and way in, highest score first: `direction` (`in`: the other head writes and this one
        reads; `out`: the other way round), `through`, `layer`, `head`, `score`, `times_chance`.
    """
    (head,) = parse_heads(head, model)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    before = [Head(layer, index) for layer in range(head.layer) for index in range(n_heads)]
    after = [Head(layer, index) for layer in range(head.layer + 1, n_layers) for index in range(n_heads)]
    rows = []
    for through in THROUGH:
        for direction, others in (("in", before), ("out", after)):
            if not others:
                continue
            pair = (others, [head]) if direction == "in" else ([head], others)
            scores = composition(model, *pair, through).flatten().tolist()
            rows += [(direction, through, *other, score) for other, score in zip(others, scores, strict=True)]
    table = pd.DataFrame(rows, columns=["direction", "through", "layer", "head", "score"])
    table["times_chance"] = table["score"] / chance(model)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


class _Weights:
    """The matrices of one layer, by query head, in float64."""

    def __init__(self, model: Any, layer: int) -> None:
        block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
        like = block.attn.W_O.detach()[0, 0]
        norm = read_norm(block.ln1, like)

        def folded(weight: Tensor) -> Tensor:
            shared = weight.detach().repeat_interleave(n_heads // weight.shape[0], dim=0)
            return norm.fold(shared).double()

        self.query, self.key = folded(block.attn.W_Q), folded(block.attn.W_K)
        self.value = norm.fold(values_weight(model, layer)).double()
        out = block.attn.W_O.detach()
        if has_post_norm(model, layer):
            out = read_norm(block.ln1_post, like).direction(out)
        self.out = out.double()

    def reading(
        self, through: Through, heads: list[int]
    ) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_head"]]:
        """Give the matrix that reads the residual stream, and the Gram matrix of what stands behind it."""
        if through == "V":
            return self.value[heads], self.out[heads] @ self.out[heads].transpose(-1, -2)
        into, behind = (self.query, self.key) if through == "Q" else (self.key, self.query)
        return into[heads], behind[heads].transpose(-1, -2) @ behind[heads]


def _norm(left: Tensor, right: Tensor) -> Tensor:
    """‖A B‖ from AᵀA and B Bᵀ: the root of the trace of their product."""
    return (left * right.transpose(-1, -2)).sum((-1, -2)).clamp_min(0).sqrt()
