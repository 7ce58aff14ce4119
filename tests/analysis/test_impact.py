"""One change on many prompts, held against the plain loop and against nothing at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headscope.analysis.changes import Change
from headscope.analysis.defaults import default_prompts
from headscope.analysis.figures.impact import delta_figure, delta_html, impact_figure
from headscope.analysis.impact import impact
from headscope.datasets.prompts import PromptSet
from headscope.errors import EmptyPromptSet, NoEffect, UnknownMetric
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import uniform


@pytest.fixture(scope="module")
def prompts(planted) -> PromptSet:
    return default_prompts(planted, "repeated", n=6)


def test_the_planted_head_matters_and_random_heads_do_not(planted, prompts):
    seen = []
    found = impact(
        planted,
        prompts,
        Change("uniform", "L2H1"),
        "answer_logprob",
        draws=2,
        progress=lambda *n: seen.append(n),
    )
    rows = found.table().set_index("arm")
    assert rows.loc["changed", "effect"] < -1 and rows.loc["changed", "high"] < 0
    assert abs(rows.loc["control", "effect"]) < 0.01
    assert rows.loc["changed - control", "low"] <= rows.loc["changed - control", "effect"] < -1
    assert "more than random heads do" in found.verdict and "L2H1" in found.verdict
    assert seen[-1] == (4, 4)
    assert len(found.figure().data) == 4


@torch.no_grad()
def test_values_are_those_of_a_loop_over_single_prompts(planted, prompts):
    found = impact(planted, prompts, Change("uniform", "L2H1"), "logit_difference", draws=1)
    for index, prompt in enumerate(prompts):
        batch = encode(planted, prompt)
        with intervene(planted, uniform("L2H1")):
            logits = forward(planted, batch, logits_at="last")[0, 0]
        expected = logits[batch.answer_ids[0, 0]] - logits[batch.foil_ids[0, 0]]
        assert np.isclose(found.changed[index], float(expected), atol=1e-4)


def test_accuracy_has_an_exact_interval_and_texts_can_be_measured(planted, prompts):
    found = impact(planted, prompts, Change("uniform", "L2H1"), "accuracy", draws=1)
    clean = found.table().iloc[0]
    assert clean.value == 1 and clean.value_high == 1 and 0.5 < clean.value_low < 0.7
    written = impact(planted, prompts, Change("uniform", "L2H1"), "needle_accuracy", draws=1)
    assert np.array_equal(written.clean, found.clean)


def test_direct_and_total_effect_of_a_head_that_works_through_another(planted, prompts):
    total, direct = (
        impact(planted, prompts, Change("uniform", "L0H2", flow=flow), draws=1).table().set_index("arm")
        for flow in ("total", "direct")
    )
    assert total.loc["changed", "effect"] < -1
    assert abs(direct.loc["changed", "effect"]) < 0.1


def test_wrong_input_is_refused(planted, prompts):
    with pytest.raises(UnknownMetric, match="Nearest: accuracy"):
        impact(planted, prompts, Change("zero", "L2H1"), "acuracy")
    with pytest.raises(EmptyPromptSet):
        impact(planted, prompts[:0], Change("zero", "L2H1"))
    with pytest.raises(NoEffect):
        impact(planted, prompts, Change("resample", "L0H0", phase="prefill", positions=(0,)))


def test_tokens_are_text_in_figures_and_markup():
    evil = "<img src=x onerror=alert(1)>"
    markup = delta_html([evil, "\n", ""], [-1.0, 2.0, 0.0], first_difference=1)
    assert "<img" not in markup and "&lt;img" in markup and "↵" in markup
    assert markup.count("outline:2px") == 1
    assert "⏹" in delta_html(["a"], [0.0], first_difference=1)
    figure = delta_figure([evil, "b"], {"changed": [0.1, -2.0], "random": [0.0, 0.0]}, dark=True)
    assert "<img" not in str(figure.to_dict())


def test_an_effect_without_interval_is_drawn_too():
    import pandas as pd

    table = pd.DataFrame({"arm": ["changed"], "effect": [0.5], "low": [np.nan], "high": [np.nan], "n": [1]})
    assert len(impact_figure(table).data) == 1


def test_two_prompts_cannot_tell_anything_apart(planted, prompts):
    """Every sign pattern of two prompts is as extreme half of the time, however large the effect."""
    found = impact(planted, prompts[:2], Change("uniform", "L2H1"), draws=1)
    assert found.table().set_index("arm").loc["changed - control", "p"] == 0.5
    assert "On 2 prompts the two cannot be told apart" in found.verdict
