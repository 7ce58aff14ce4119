"""The causal check and its verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from headscope.analysis.defaults import default_prompts
from headscope.analysis.outcomes import Outcome
from headscope.analysis.score import score
from headscope.analysis.scores import HeadScores
from headscope.analysis.statistics import bootstrap_mean, sign_flip
from headscope.analysis.verify import Verification, verify
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, BadRun, EmptyPromptSet, UnknownMetric
from headscope.hooks.heads import Head
from headscope.hooks.interventions import scale, zero

COPYING = Head(2, 1)  # of organism/planted, 3 layers of 4 heads
PROMPTS = PromptSet("texts", tuple(Prompt(f"number {i}", " x") for i in range(40)))


def _ranking(*order: str) -> HeadScores:
    """Make scores of which the named heads are the highest, in this order."""
    values = np.full((3, 4), 0.1)
    for place, head in enumerate(order):
        values[Head.parse(head)] = 1 - place / 100
    return HeadScores(values, None, "made up")


def _pretend(effect_of, noise: float = 0.02, clean: float = 0.9) -> Outcome:
    """Make an outcome whose value is known for each set of heads; no model is run."""

    def measure(model, prompts, interventions):
        heads = {head for change in interventions for head in change.heads}
        rng = np.random.default_rng(len(heads))
        return clean + effect_of(heads) + noise * rng.normal(size=len(prompts))

    return Outcome("pretended", measure)


@pytest.fixture(scope="module")
def copies(planted) -> PromptSet:
    return default_prompts(planted, "repeated", n=12)


@pytest.fixture(scope="module")
def checked(planted, copies) -> Verification:
    return verify(planted, score(planted, "induction", copies), copies, k=(1, 2), draws=3)


def test_the_planted_copying_head_is_causal(checked):
    assert checked.judgement == "causal"
    assert checked.verdict.startswith(
        "Causal. With attention spread evenly at every token (uniform, all), "
        "the top head (L2H1) takes answer logprob from"
    )
    table = checked.table().set_index(["arm", "k", "draw"])
    assert table.loc[("top", 1, 0), "effect"] < -3
    assert abs(table.loc[("same-layers", 1, 1), "effect"]) < 0.1


def test_a_head_that_only_scores_high_is_not_causal(planted, copies):
    found = verify(planted, _ranking("L2H3", "L1H2"), copies, "answer_logprob", k=(1, 2), draws=3)
    assert found.judgement == "not causal"
    assert found.verdict.startswith("Not causal.") and "no further than random heads" in found.verdict


def test_a_behaviour_that_breaks_only_with_both_heads_is_redundant(planted):
    both = {Head(1, 0), Head(1, 1)}
    outcome = _pretend(lambda heads: -0.6 if both <= heads else 0.0)
    found = verify(planted, _ranking("L1H0", "L1H1"), PROMPTS, outcome, k=(1, 2, 3))
    assert found.judgement == "redundant"
    assert found.verdict.startswith("Redundant. Changing the top head moves ")
    assert "no further than random heads do (k=1: " in found.verdict
    assert "; changing 2 breaks it. With " in found.verdict


def test_three_prompts_cannot_tell(planted):
    outcome = _pretend(lambda heads: -0.6 if Head(1, 0) in heads else 0.0, noise=0.3)
    found = verify(planted, _ranking("L1H0"), PROMPTS[:3], outcome, k=1)
    assert found.judgement == "cannot tell" and "too few prompts" in found.verdict


def test_without_controls_nothing_is_causal(planted):
    outcome = _pretend(lambda heads: -0.6 if Head(1, 0) in heads else 0.0)
    found = verify(planted, _ranking("L1H0"), PROMPTS, outcome, k=1, controls=())
    assert found.judgement == "cannot tell" and "no control" in found.verdict


def test_a_model_that_fails_the_task_has_nothing_to_lose(planted):
    found = verify(planted, _ranking("L1H0"), PROMPTS, _pretend(lambda heads: 0.0, noise=0, clean=0), k=1)
    assert found.judgement == "cannot tell" and "nothing to lose" in found.verdict


def test_what_was_never_right_can_still_become_right(planted):
    outcome = _pretend(lambda heads: 1.0 if Head(1, 0) in heads else 0.0, noise=0, clean=0)
    assert verify(planted, _ranking("L1H0"), PROMPTS, outcome, k=1).judgement == "causal"


def test_heads_that_matter_less_than_random_ones_are_not_causal(planted):
    outcome = _pretend(lambda heads: -0.2 if Head(1, 0) in heads else -0.6 * bool(heads))
    found = verify(planted, _ranking("L1H0"), PROMPTS, outcome, k=1)
    assert found.judgement == "not causal"


def test_an_effect_the_other_way_than_random_heads_but_smaller_is_not_causal(planted):
    outcome = _pretend(lambda heads: 0.2 if Head(1, 0) in heads else -0.6 * bool(heads))
    assert verify(planted, _ranking("L1H0"), PROMPTS, outcome, k=1).judgement == "cannot tell"


def test_a_rise_counts_as_much_as_a_fall(planted):
    outcome = _pretend(lambda heads: 0.6 if Head(1, 0) in heads else 0.0)
    assert verify(planted, _ranking("L1H0"), PROMPTS, outcome, k=1).judgement == "causal"


def test_without_any_effect_false_alarms_are_rare(planted):
    alarms = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        outcome = Outcome("noise", lambda m, prompts, i, rng=rng: 0.5 * rng.normal(size=len(prompts)))
        found = verify(planted, _ranking("L1H0"), PROMPTS, outcome, k=(1, 2), draws=2, seed=seed)
        alarms += found.judgement in ("causal", "redundant")
    assert alarms <= 1


def test_random_heads_never_include_any_of_the_top_ones(planted):
    seen: list[set[Head]] = []
    outcome = _pretend(lambda heads: seen.append(heads) or 0.0)
    ranking = _ranking("L0H0", "L1H1", "L2H2")
    verify(planted, ranking, PROMPTS, outcome, k=(1, 3), draws=4)
    top = set(ranking.top(3))
    assert all(heads <= top or not heads & top for heads in seen)
    assert len(seen) == 1 + 2 * (1 + 2 * 4) - 1  # of layer 2, only three others are left for k=1


def test_heads_that_were_not_run_are_no_controls(planted):
    values = np.full((3, 4), np.nan)
    values[1] = [0.9, 0.1, 0.2, 0.3]
    seen: list[set[Head]] = []
    outcome = _pretend(lambda heads: seen.append(heads) or 0.0)
    found = verify(planted, HeadScores(values, None, "made up"), PROMPTS, outcome, k=(1, 3), draws=2)
    assert {head.layer for heads in seen for head in heads} == {1}
    assert "k=3, same-layers: 3 heads" not in found.notes
    assert "k=3, anywhere: not run, only 1 head is left to draw from." in found.notes


def test_effects_are_paired_by_prompt(checked):
    arm = checked.arms[0]
    row = checked.table().iloc[0]
    effects = arm.values - checked.clean
    low, high = bootstrap_mean(effects)
    assert row["effect"] == pytest.approx(effects.mean())
    assert (row["low"], row["high"]) == pytest.approx((float(low), float(high)))
    assert row["p"] == float(sign_flip(effects))
    assert row["value"] == pytest.approx(checked.baseline + row["effect"])


def test_the_table_has_a_row_for_every_set_of_heads(checked):
    table = checked.table()
    assert list(table.columns) == ["arm", "k", "draw", "n", "value", "effect", "low", "high", "p", "heads"]
    assert table.groupby(["arm", "k"]).size().to_dict() == {
        ("top", 1): 1,
        ("same-layers", 1): 3,
        ("anywhere", 1): 3,
        ("top", 2): 1,
        ("same-layers", 2): 3,
        ("anywhere", 2): 3,
    }


def test_the_summary_pools_draws_by_prompt_and_compares_with_the_top(checked):
    summary = checked.summary().set_index(["arm", "k"])
    draws = np.stack([arm.values for arm in checked.arms if (arm.name, arm.k) == ("anywhere", 2)])
    top = next(arm.values for arm in checked.arms if (arm.name, arm.k) == ("top", 2))
    row = summary.loc[("anywhere", 2)]
    assert row["draws"] == 3 and row["n"] == 12
    assert row["value"] == pytest.approx(draws.mean())
    assert row["excess"] == pytest.approx(-(top - draws.mean(0)).mean())
    assert np.isnan(summary.loc[("top", 2), "excess"])


def test_rates_have_exact_intervals(planted, copies):
    found = verify(planted, _ranking("L2H1"), copies, "accuracy", k=1, draws=2)
    row = found.summary().iloc[0]
    assert row["value_high"] - row["value_low"] > 0.2  # a bootstrap of twelve equal values would be a point
    assert found.baseline == 1


def test_the_methods_own_metric_and_phase_are_the_defaults(planted, copies):
    found = verify(planted, replace(_ranking("L2H1"), method="retrieval"), copies, k=1, draws=1)
    assert (found.metric, found.phase, found.how) == ("needle_accuracy", "decode", "uniform (decode)")
    assert found.judgement == "causal"


def test_any_intervention_can_be_the_check(planted, copies):
    found = verify(
        planted, _ranking("L2H1"), copies, "answer_logprob", how=partial(scale, gain=0.5), k=1, draws=1
    )
    assert found.how == "scale gain=0.5 (all)"
    assert (
        verify(
            planted, _ranking("L2H1"), copies, "kl_to_clean", how=zero, k=1, controls=("same-layers",)
        ).judgement
        == "causal"
    )


def test_same_seed_same_check(planted, copies, checked):
    again = verify(planted, score(planted, "induction", copies), copies, k=(1, 2), draws=3)
    pd.testing.assert_frame_equal(again.table(), checked.table())
    assert again.verdict == checked.verdict


def test_the_prompts_of_the_scores_are_named_as_such(checked):
    assert any("chosen on the same prompts" in note for note in checked.notes)


def test_words_that_the_model_cannot_read_are_named(planted):
    prompts = [Prompt("apple quokka apple", " banana")] * 2
    found = verify(planted, _ranking("L2H1"), prompts, _pretend(lambda heads: 0.0), k=1, draws=1)
    assert any("2 of 2 prompts of prompts hold words" in one and "'quokka'" in one for one in found.notes)


def test_only_a_check_that_confirms_marks_scores_as_causal(planted, copies, checked):
    scores = score(planted, "induction", copies)
    marked = checked.mark(scores)
    assert marked.causal and not scores.causal
    assert marked.notes[-1] == f"Causal check: {checked.verdict}"
    failed = verify(planted, scores, PROMPTS, _pretend(lambda heads: 0.0), k=1)
    assert not failed.mark(scores).causal


def test_the_figure_has_the_three_arms(checked):
    names = {trace.name for trace in checked.figure().data}
    assert {"top heads by score", "random heads, same layers", "random heads, anywhere"} <= names


def test_saved_and_loaded_checks_are_the_same(checked, tmp_path):
    back = Verification.load(checked.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(back.table(), checked.table())
    pd.testing.assert_frame_equal(back.summary(), checked.summary())
    for name in ("verdict", "metric", "how", "phase", "method", "model", "data", "seed", "margin", "notes"):
        assert getattr(back, name) == getattr(checked, name)


def test_a_damaged_check_is_refused(checked, tmp_path):
    with pytest.raises(BadRun, match=r"verification\.json: no such file"):
        Verification.load(tmp_path)
    checked.save(tmp_path)
    path = tmp_path / "verification.json"
    meta = json.loads(path.read_text())
    for wrong in ({"format": "x"}, {"arms": meta["arms"][1:]}, {"arms": 3}, {"margin": "wide"}):
        path.write_text(json.dumps(meta | wrong))
        with pytest.raises(BadRun):
            Verification.load(tmp_path)


def test_wrong_calls_say_what_is_wrong(planted, copies):
    scores = _ranking("L2H1")
    with pytest.raises(BadOption, match="k=20: there are only 12 heads"):
        verify(planted, scores, copies, k=(1, 20))
    with pytest.raises(BadOption, match="expected whole numbers"):
        verify(planted, scores, copies, k=(0, 1))
    with pytest.raises(BadOption, match="no such control"):
        verify(planted, scores, copies, controls=("nearby",))
    with pytest.raises(BadOption, match="draws=0"):
        verify(planted, scores, copies, draws=0)
    with pytest.raises(UnknownMetric):
        verify(planted, scores, copies, "acuracy")
    with pytest.raises(EmptyPromptSet):
        verify(planted, scores, [])
    with pytest.raises(BadOption, match="2 × 2 heads, and organism/planted has 3 × 4"):
        verify(planted, HeadScores(np.ones((2, 2)), None, "made up"), copies)
