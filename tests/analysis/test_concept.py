"""Heads of a concept turned around: a planted writer of colours, a plain loop, gain 1, and where texts are cut."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from headscope.analysis.concept import before_words, concept_study
from headscope.analysis.defaults import default_prompts
from headscope.errors import BadOption, MissingData
from headscope.hooks.generate import generate
from headscope.hooks.interventions import scale
from headscope.hooks.load import load

COLORS = ("red", "blue", "green", "gold")


@pytest.fixture(scope="module")
def painter(model_folder):
    """A random Llama in which L1H2 writes nothing but the four colours, loudly."""
    model = load(str(model_folder("llama")))
    colors = [model.tokenizer.convert_tokens_to_ids(word) for word in COLORS]
    projection = model.original_model.model.layers[1].self_attn.o_proj.weight  # d_model, head x d_head
    size = model.cfg.d_head
    with torch.no_grad():
        mixed = torch.randn(size, 4, generator=torch.Generator().manual_seed(0)) @ model.W_U.T[colors]
        projection[:, 2 * size : 3 * size] = 30 * mixed.T
    return model


@pytest.fixture(scope="module")
def prompts(painter):
    made = default_prompts(painter, "repeated", n=48)
    return made[:24], made[24:32]


def _mentions(texts):
    return sum(word in COLORS for text in texts for word in text.split()) / len(texts)


def test_the_writer_of_colors_is_found_and_without_it_few_are_written(painter, prompts):
    train, test = prompts
    calls = []
    found = concept_study(
        painter, COLORS, train, test, k=(1,), gains=(-1, 0, 1), atoms=3, draws=2, max_new_tokens=8,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls[-1] == (10, 10)
    assert found.scores.top(1) == ((1, 2),)
    rows = found.rows.set_index(["arm", "gain", "draw"]).sort_index()
    clean = [one.text for one in generate(painter, test, max_new_tokens=8)]
    turned = [
        one.text for one in generate(painter, test, interventions=(scale("L1H2", -1.0),), max_new_tokens=8)
    ]
    assert rows.loc[("clean", 1.0, 0), "mentions"] == pytest.approx(_mentions(clean))
    assert rows.loc[("top", -1.0, 0), "mentions"] == pytest.approx(_mentions(turned))
    # Gain 1 is the model as it is.
    assert rows.loc[("top", 1.0, 0), ["mentions", "kept", "words"]].tolist() == pytest.approx(
        rows.loc[("clean", 1.0, 0), ["mentions", "kept", "words"]].tolist(), nan_ok=True
    )
    # Its output has no sign of its own: turned around it writes other colours, taken away hardly any.
    assert rows.loc[("top", 0.0, 0), "mentions"] < 0.3 * _mentions(clean)
    assert rows.loc["same-layers"].loc[0.0, "mentions"].min() > 0.8 * _mentions(clean)
    assert found.examples[0] == (clean[0], turned[0])
    assert "Gain -1, L1H2: " in found.conclusion() and len(found.figure().data) == 2 * 3 * 3
    assert found.figure().layout.xaxis.tickvals[0] == 0 and len(found.figure().layout.xaxis.tickvals) > 1


def test_texts_are_cut_where_the_model_is_about_to_write_the_word(painter, prompts):
    cut = before_words(painter, prompts[0], COLORS, max_new_tokens=8)
    assert len(cut) > 8
    for one, next_one in zip(cut, generate(painter, cut, max_new_tokens=1), strict=True):
        assert next_one.text.strip() == one.answer.strip() in COLORS


def test_what_cannot_be_studied_is_refused_and_results_are_saved(painter, prompts, tmp_path):
    train, test = prompts
    with pytest.raises(BadOption, match="no word is named"):
        concept_study(painter, [" "], train, test)
    with pytest.raises(MissingData, match="writes a word of the concept in 0 of them"):
        concept_study(painter, ["nowhere"], train, test, max_new_tokens=2)
    found = concept_study(
        painter, COLORS, train, test[:2], k=(1,), gains=(-1,), atoms=2, draws=1, max_new_tokens=2
    )
    folder = found.save(tmp_path / "run")
    assert len(pd.read_parquet(folder / "concept.parquet")) == len(found.rows) == 3
    assert {path.suffix for path in folder.iterdir()} == {".parquet", ".json", ".html"}
