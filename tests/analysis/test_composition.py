"""Composition scores against TransformerLens, against full matrices, and against readers turned at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from headscope.analysis.composition import THROUGH, chance, composition, neighbours
from headscope.analysis.norms import read_norm
from headscope.errors import BadOption
from headscope.hooks.heads import Head, all_heads


def _full(model: Any, writer: Head, reader: Head, through: str) -> float:
    """The same with d_model × d_model matrices."""

    def of(layer: int, name: str) -> torch.Tensor:
        weight = getattr(model.blocks[layer].attn, name).detach().double()
        return weight.repeat_interleave(4 // weight.shape[0], dim=0)

    def reading(layer: int, name: str) -> torch.Tensor:
        norm = read_norm(model.blocks[layer].ln1, model.W_E[0].detach())
        weight = of(layer, name) * norm.gain.double()[None, :, None]
        return weight - weight.mean(1, keepdim=True) if norm.centre else weight

    def ov(head: Head) -> torch.Tensor:
        out = of(head.layer, "W_O")[head.index]
        if "ln1_post" in model.blocks[head.layer]._modules:
            norm = read_norm(model.blocks[head.layer].ln1_post, model.W_E[0].detach())
            out = out * norm.gain.double()
        return reading(head.layer, "W_V")[head.index] @ out

    query, key = (reading(reader.layer, name)[reader.index] for name in ("W_Q", "W_K"))
    right = {"Q": query @ key.T, "K": key @ query.T, "V": ov(reader)}[through]
    return float((ov(writer) @ right).norm() / (ov(writer).norm() * right.norm()))


@pytest.mark.parametrize("through", THROUGH)
def test_every_pair_is_the_ratio_of_full_matrices(any_model: Any, through: Any) -> None:
    heads = all_heads(any_model)
    found = composition(any_model, heads, heads, through).numpy()
    for row, writer in enumerate(heads):
        for column, reader in enumerate(heads):
            if reader.layer <= writer.layer:
                assert np.isnan(found[row, column])
            else:
                assert found[row, column] == pytest.approx(
                    _full(any_model, writer, reader, through), abs=1e-6
                )


@pytest.mark.parametrize("through", THROUGH)
def test_without_norm_gains_it_is_the_score_of_transformer_lens(tiny: Any, through: Any) -> None:
    model = tiny("llama")
    gains = [block.ln1.original_component.weight for block in model.blocks]
    before = [gain.detach().clone() for gain in gains]
    try:
        with torch.no_grad():
            for gain in gains:
                gain.fill_(1.0)
        heads = all_heads(model)
        found = composition(model, heads, heads, through).reshape(3, 4, 3, 4)
        theirs = model.all_composition_scores(through)
    finally:
        with torch.no_grad():
            for gain, old in zip(gains, before, strict=True):
                gain.copy_(old)
    later = ~found.isnan()
    torch.testing.assert_close(found[later], theirs.detach()[later].to(found), atol=1e-5, rtol=1e-5)


def test_chance_is_the_root_mean_square_over_turned_readers() -> None:
    generator = torch.Generator().manual_seed(0)
    writer = torch.randn(24, 4, generator=generator) @ torch.randn(4, 24, generator=generator)
    reader = torch.randn(24, 4, generator=generator) @ torch.randn(4, 24, generator=generator)
    squares = []
    for _ in range(400):
        turn = torch.linalg.qr(torch.randn(24, 24, generator=generator)).Q
        squares.append(((writer @ turn @ reader).norm() / (writer.norm() * reader.norm())).square())
    assert torch.stack(squares).mean().sqrt().item() == pytest.approx(24**-0.5, rel=0.03)


def test_the_planted_induction_head_reads_the_previous_token_head_through_its_keys(planted: Any) -> None:
    table = neighbours(planted, Head(2, 1))
    into = table[(table["direction"] == "in") & (table["through"] == "K")]
    best = into.iloc[0]
    others = into.iloc[1:]["score"].max()
    assert best["score"] > others and best["times_chance"] == pytest.approx(best["score"] / chance(planted))


def test_neighbours_hold_every_other_layers_head_three_times(tiny: Any) -> None:
    table = neighbours(tiny("gpt2"), Head(1, 2))
    assert len(table) == 3 * (4 + 4) and not table["score"].isna().any()
    assert set(table.loc[table["direction"] == "in", "layer"]) == {0}
    assert set(table.loc[table["direction"] == "out", "layer"]) == {2}


def test_an_unknown_way_in_is_refused(tiny: Any) -> None:
    with pytest.raises(BadOption, match="choose Q, K or V"):
        composition(tiny("gpt2"), "L0H0", "L1H0", "X")  # type: ignore[arg-type]
