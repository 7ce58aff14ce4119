"""Retrieval scores, against a model with a known copying head and against a plain loop without a cache."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from models import sentence

from headscope.analysis.defaults import default_prompts
from headscope.analysis.methods.retrieval import buckets, recalls_half
from headscope.analysis.score import score
from headscope.analysis.scores import HeadScores
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, MissingData
from headscope.hooks.encode import encode
from headscope.hooks.heads import Head

COPYING = Head(2, 1)  # of organism/planted


def accept_all(prompt: Prompt, text: str) -> bool:
    return True


def _copy_tasks(model: Any, n: int, seed: int = 0) -> PromptSet:
    """Write random words and the first of them again: an induction head goes on with those that followed."""
    made = []
    for index, prompt in enumerate(default_prompts(model, "repeated", seed, n=n)):
        words = prompt.text.split()[: 20 + index % 8]
        text = " ".join(words)
        start = len(" ".join(words[:4])) + 1
        stop = len(" ".join(words[:7]))
        made.append(
            Prompt(
                f"{text} {' '.join(words[1:4])}",
                " " + " ".join(words[4:7]),
                spans={"needle": [(start, stop)]},
            )
        )
    return PromptSet("copy tasks", tuple(made))


def _loop(
    model: Any, prompts: PromptSet, n_new: int, form: str, ends: set[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute retrieval scores and their chance level without a cache: the whole text anew for each new token."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    samples = np.zeros((len(prompts), n_layers, n_heads))
    chance = np.zeros(len(prompts))
    for index, prompt in enumerate(prompts):
        batch = encode(model, [prompt], padding_side="right")
        tokens, needle = batch.tokens, set(batch.spans["needle"][0].nonzero().flatten().tolist())
        copied: dict[tuple[int, int], list[int]] = {
            (i, j): [] for i in range(n_layers) for j in range(n_heads)
        }
        missed = dict.fromkeys(needle, 1.0)
        expected = 0.0
        for _ in range(n_new):
            patterns: dict[int, torch.Tensor] = {}
            hooks = [
                (
                    f"blocks.{i}.attn.hook_pattern",
                    lambda p, hook, i=i, kept=patterns: kept.__setitem__(i, p.detach().clone()),
                )
                for i in range(n_layers)
            ]
            with torch.no_grad(), model.hooks(fwd_hooks=hooks):
                written = int(model(tokens)[0, -1].argmax())
            for (i, j), places in copied.items():
                place = int(patterns[i][0, j, -1].argmax())
                if place in needle and int(tokens[0, place]) == written:
                    places.append(place)
            for place in needle:
                if int(tokens[0, place]) == written:
                    missed[place] *= 1 - 1 / tokens.shape[1]
                    expected += 1 / tokens.shape[1]
            tokens = torch.cat([tokens, torch.tensor([[written]])], dim=1)
            if written in ends:
                break
        for (i, j), places in copied.items():
            samples[index, i, j] = len(places if form == "code" else set(places)) / len(needle)
        chance[index] = (expected if form == "code" else sum(1 - p for p in missed.values())) / len(needle)
    return samples, chance


def test_the_planted_copying_head_retrieves_the_whole_needle_and_no_other_head_does(planted):
    scores = score(planted, "retrieval", _copy_tasks(planted, 12), max_new_tokens=3)
    assert scores.top(1) == (COPYING,)
    assert scores.values[COPYING] == 1
    others = np.delete(scores.values.ravel(), COPYING.layer * 4 + COPYING.index)
    assert others.max() < 0.2
    assert scores.table().iloc[0]["p"] < 0.001
    assert scores.notes[0].startswith("12 of 12 prompts were accepted")
    assert scores.notes[1].startswith("1 of 12 heads score 0.1 or more")
    counts = buckets(scores)["heads"].tolist()
    assert scores.notes[1].endswith(
        f"by score, 0: {counts[0]}; (0, 0.1): {counts[1]}; [0.1, 0.5): 0; [0.5, 1]: 1."
    )


@pytest.mark.parametrize("form", ["paper", "code"])
def test_scores_equal_a_loop_without_cache_whatever_the_lengths_beside(any_model, form):
    # The whole prompt is the needle, because heads of a random model seldom look at a chosen word.
    texts = [sentence(n, seed=n) for n in (4, 19, 11)]
    prompts = PromptSet("words", tuple(Prompt(t, " cat", spans={"needle": [(0, len(t))]}) for t in texts))
    found = score(any_model, "retrieval", prompts, form=form, accept=accept_all, max_new_tokens=12, stop=None)
    samples, chance = _loop(any_model, prompts, 12, form, {1})
    np.testing.assert_allclose(found.samples, samples, atol=1e-9)
    np.testing.assert_allclose(found.chance, chance, atol=1e-9)


def test_a_trained_model_scores_as_the_loop_says(stories):
    text = "Once upon a time, there was a little girl named Lily. She loved to play with her toys. Once upon a time"
    prompts = PromptSet("story", (Prompt(text, " there", spans={"needle": [(0, 53)]}),))
    found = score(stories, "retrieval", prompts, accept=accept_all, max_new_tokens=15, stop=None)
    samples, _ = _loop(stories, prompts, 15, "paper", {2})
    np.testing.assert_allclose(found.samples, samples, atol=1e-9)
    assert samples.max() > 0


def test_the_codes_form_counts_a_position_each_time_it_is_copied(planted):
    # a b a -> b a b a ...: the last copy is copied again and again, but its positions stand once.
    prompts = PromptSet("loop", (Prompt("king apple river king", " apple", spans={"needle": [(5, 10)]}),))
    paper, code = (
        score(planted, "retrieval", prompts, form=form, accept=accept_all, max_new_tokens=12, stop=None)
        for form in ("paper", "code")
    )
    assert paper.values.max() <= 1
    assert (code.values >= paper.values).all()


def test_rejected_prompts_count_for_nothing_and_are_reported(planted):
    good = _copy_tasks(planted, 4)
    bad = Prompt(good[0].text, " never this", spans=good[0].spans)
    scores = score(planted, "retrieval", PromptSet("mixed", (*good, bad)), max_new_tokens=3)
    assert np.isnan(scores.samples[4]).all() and np.isfinite(scores.samples[:4]).all()
    assert set(scores.table()["n"]) == {4}
    assert "4 of 5 prompts were accepted" in scores.notes[0] and "1 were rejected" in scores.notes[0]
    np.testing.assert_array_equal(scores.values, score(planted, "retrieval", good, max_new_tokens=3).values)


def test_where_nothing_is_accepted_no_head_has_a_score(planted):
    prompt = Prompt(_copy_tasks(planted, 1)[0].text, " never this", spans={"needle": [(0, 4)]})
    scores = score(planted, "retrieval", [prompt], max_new_tokens=3)
    assert np.isnan(scores.values).all()
    with pytest.raises(BadOption, match="0 of 1 prompts were accepted"):
        scores.top(1)


def test_a_needle_laid_elsewhere_is_not_retrieved(planted):
    random = Random(0)
    moved = []
    for prompt in _copy_tasks(planted, 8):
        words = prompt.text.split()
        at = random.randrange(7, len(words) - 6)
        start = len(" ".join(words[:at])) + 1
        spans = {"needle": [(start, start + len(" ".join(words[at : at + 3])))]}
        moved.append(Prompt(prompt.text, prompt.answer, spans=spans))
    scores = score(planted, "retrieval", PromptSet("shuffled", tuple(moved)), max_new_tokens=3)
    assert scores.values.max() < 0.1


def test_a_prompt_without_needle_or_answer_is_named(planted):
    with pytest.raises(MissingData, match=r"prompts\[1\] .* has no span 'needle'"):
        score(planted, "retrieval", [Prompt("a b", " c", spans={"needle": [(0, 1)]}), Prompt("a b", " c")])
    with pytest.raises(MissingData, match="has no answer"):
        score(planted, "retrieval", [Prompt("a b", spans={"needle": [(0, 1)]})])


@pytest.mark.parametrize(
    "text, accepted", [("It is Red, blue.", True), ("red", False), ("red green", True), ("", False)]
)
def test_a_case_is_accepted_if_more_than_half_of_the_words_are_there(text, accepted):
    assert recalls_half(Prompt("?", " red green blue"), text) is accepted


def test_buckets_are_the_papers():
    values = np.array([[0, 0.05, 0.1, 0.49], [0.5, 1.0, 1.3, np.nan]])
    table = buckets(HeadScores(values, None, "retrieval"))
    assert table["heads"].tolist() == [1, 1, 2, 3]
    assert table["share"].sum() == pytest.approx(1)
    assert table["bucket"].tolist() == ["0", "(0, 0.1)", "[0.1, 0.5)", "[0.5, 1]"]
