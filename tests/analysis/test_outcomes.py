"""What a causal check measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headscope.analysis.defaults import default_prompts
from headscope.analysis.outcomes import as_outcome, needle_accuracy, needle_recall, word_recall
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import MissingData, UnknownMetric
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import uniform, zero
from headscope.hooks.metrics import accuracy, answer_logprob, kl_to_clean

COPYING = "L2H1"  # of organism/planted


@pytest.fixture(scope="module")
def copies(planted) -> PromptSet:
    return default_prompts(planted, "repeated", n=6)


def test_accuracy_falls_when_the_copying_head_is_masked(planted, copies):
    outcome = needle_accuracy()
    assert outcome(planted, copies).tolist() == [1.0] * 6
    assert outcome(planted, copies, (uniform(COPYING, phase="decode"),)).mean() <= 1 / 6
    assert outcome(planted, copies, (uniform("L2H0", phase="decode"),)).tolist() == [1.0] * 6


def test_accuracy_wants_the_whole_answer(planted, copies):
    longer = PromptSet("longer", tuple(Prompt(one.text, one.answer + " king king") for one in copies))
    assert needle_accuracy()(planted, longer).tolist() == [0.0] * 6
    assert needle_recall(max_new_tokens=1)(planted, longer) == pytest.approx([1 / 3] * 6)


def test_a_metric_becomes_the_same_number_per_prompt(planted, copies):
    batch = encode(planted, copies)
    with torch.no_grad():
        clean = forward(planted, batch, logits_at="last")[:, 0]
        with intervene(planted, zero(COPYING)):
            changed = forward(planted, batch, logits_at="last")[:, 0]
    for metric in (answer_logprob, kl_to_clean):
        outcome = as_outcome(metric)
        np.testing.assert_allclose(outcome(planted, copies), metric(clean, batch, clean).numpy(), atol=1e-6)
        np.testing.assert_allclose(
            outcome(planted, copies, (zero(COPYING),)), metric(changed, batch, clean).numpy(), atol=1e-6
        )


def test_more_prompts_than_fit_one_pass_give_the_same_numbers(planted, copies, monkeypatch):
    whole = as_outcome(answer_logprob)(planted, copies, (zero(COPYING),))
    monkeypatch.setattr("headscope.analysis.outcomes._ROWS", 4)
    np.testing.assert_allclose(
        as_outcome(answer_logprob)(planted, copies, (zero(COPYING),)), whole, atol=1e-5
    )


def test_names_functions_and_outcomes_are_all_metrics():
    own = needle_recall()
    assert as_outcome(own) is own
    assert as_outcome("needle_accuracy").name == "needle_accuracy"
    assert as_outcome("accuracy").name == as_outcome(accuracy).name == "accuracy"

    def constant(model, prompts, interventions):
        return np.ones(len(prompts))

    assert as_outcome(constant)(None, PromptSet("one", (Prompt("a"),))).tolist() == [1]
    with pytest.raises(UnknownMetric, match=r"needle_acuracy: no such metric\. Nearest: needle_accuracy"):
        as_outcome("needle_acuracy")
    with pytest.raises(UnknownMetric, match="neither"):
        as_outcome(3)


def test_a_prompt_without_an_answer_is_named(planted):
    with pytest.raises(MissingData, match=r"prompt 1 \('b'\) has no answer"):
        needle_accuracy()(planted, PromptSet("two", (Prompt("a", " b"), Prompt("b"))))


@pytest.mark.parametrize(
    "answer, text, wanted",
    [(" red blue", "Blue and RED.", 1), (" red red", "red", 0.5), (" walked", "walks", 0), (" red", "", 0)],
)
def test_word_recall(answer, text, wanted):
    assert word_recall(answer, text) == wanted


def test_an_answer_without_words_has_no_recall():
    assert np.isnan(word_recall(" ...", "red"))
