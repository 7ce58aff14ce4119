"""Agreement of two scores, held against scipy, against counting, and against chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headscope.analysis.compare_runs import agree, describe_overlap
from headscope.analysis.scores import HeadScores
from headscope.errors import BadOption, BadRun


def scores(values) -> HeadScores:
    return HeadScores(values=np.array(values, dtype=float), samples=None, method="m")


def random_scores(seed: int, shape=(6, 8)) -> HeadScores:
    return scores(np.random.default_rng(seed).normal(size=shape))


def test_the_same_scores_agree_and_reversed_ones_do_not():
    one = random_scores(0)
    same, reverse = agree(one, one), agree(one, scores(-one.values))
    assert same.rank_correlation == pytest.approx(1) and same.low == pytest.approx(1)
    assert reverse.rank_correlation == pytest.approx(-1)
    assert list(same.overlap["both"]) == [1, 2, 4, 8, 16]
    assert same.overlap["p"].iloc[-1] < 1e-9 and reverse.overlap["p"].iloc[-1] == 1
    assert "16 are the same" in describe_overlap(same)


def test_rank_correlation_is_scipys_ties_included():
    rng = np.random.default_rng(3)
    one, two = (scores(rng.integers(0, 5, (4, 6))) for _ in range(2))
    expected = stats.spearmanr(one.values.ravel(), two.values.ravel()).statistic
    found = agree(one, two)
    assert found.rank_correlation == pytest.approx(expected)
    assert found.low <= found.rank_correlation <= found.high


def test_chance_is_counted_right():
    one, two = random_scores(1, (4, 4)), random_scores(2, (4, 4))
    row = agree(one, two, k=[4]).overlap.iloc[0]
    tops = [set(np.argsort(-run.values.ravel())[:4]) for run in (one, two)]
    assert row.both == len(tops[0] & tops[1]) and row.expected == 1
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.permutation(16)[:4]) & {0, 1, 2, 3}) for _ in range(20_000)]
    assert row.p == pytest.approx(np.mean(np.array(drawn) >= row.both), abs=0.02)
    held = (row.chance_low <= np.array(drawn)) & (np.array(drawn) <= row.chance_high)
    assert np.mean(held) >= 0.95


def test_unrelated_scores_have_an_interval_around_zero():
    covered = [
        found.low <= 0 <= found.high
        for found in (agree(random_scores(i), random_scores(99 - i)) for i in range(40))
    ]
    assert np.mean(covered) > 0.85


def test_heads_that_were_not_run_in_one_are_left_out():
    one, two = random_scores(0, (2, 3)), random_scores(1, (2, 3)).values
    two[0, 0] = np.nan
    found = agree(one, scores(two))
    assert found.n_heads == 5 and list(found.overlap["k"]) == [1, 2]


def test_constant_scores_have_no_ranking():
    found = agree(random_scores(0), scores(np.zeros((6, 8))))
    assert np.isnan(found.rank_correlation) and "not run" not in found.words


def test_runs_without_heads_in_common_are_refused():
    with pytest.raises(BadRun, match="6 × 8 heads"):
        agree(random_scores(0), random_scores(0, (2, 2)))
    with pytest.raises(BadRun, match="0 heads have a score in both"):
        agree(random_scores(0), scores(np.full((6, 8), np.nan)))
    with pytest.raises(BadOption, match="k=0"):
        agree(random_scores(0), random_scores(1), k=[0, 2])
