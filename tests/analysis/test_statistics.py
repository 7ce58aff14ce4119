"""Intervals and tests over prompts."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from scipy import stats
from transformer_lens.utilities.statistics import sign_flip_permutation_pvalue

from headscope.analysis.statistics import benjamini_hochberg, binomial_interval, bootstrap_mean, sign_flip


def _sample(n: int, *cells: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=(n, *cells))


def test_the_interval_is_scipys_bca_interval_of_the_mean():
    values = _sample(40)
    low, high = bootstrap_mean(values, n_resamples=2000, seed=3)
    wanted = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    assert (float(low), float(high)) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_every_head_gets_the_interval_it_would_get_alone():
    values = _sample(30, 2, 3)
    low, high = bootstrap_mean(values, seed=1)
    assert low.shape == high.shape == (2, 3)
    for cell in itertools.product(range(2), range(3)):
        alone = bootstrap_mean(values[(slice(None), *cell)], seed=1)
        assert (low[cell], high[cell]) == pytest.approx((float(alone.low), float(alone.high)), abs=1e-12)


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=(40, 2000))
    low, high = bootstrap_mean(values)
    assert ((low <= 2) & (high >= 2)).mean() == pytest.approx(0.95, abs=0.03)


def test_one_prompt_has_no_interval_and_equal_values_have_a_point():
    assert np.isnan(bootstrap_mean(np.ones((1, 2)))).all()
    low, high = bootstrap_mean(np.full((5, 2), 0.3))
    assert low.tolist() == high.tolist() == pytest.approx([0.3, 0.3])


def test_a_missing_prompt_leaves_its_head_only():
    values = _sample(30, 3)
    values[4:, 0] = np.nan
    values[:, 1] = np.nan
    low, high = bootstrap_mean(values)
    assert low[0] < np.nanmean(values[:, 0]) < high[0]
    assert np.isnan([low[1], high[1]]).all()
    whole = bootstrap_mean(values[:, 2])
    assert (low[2], high[2]) == pytest.approx((float(whole.low), float(whole.high)))


def test_same_seed_same_interval():
    values = _sample(20, 4)
    assert np.array_equal(bootstrap_mean(values, seed=5), bootstrap_mean(values, seed=5))
    assert not np.array_equal(bootstrap_mean(values, seed=5), bootstrap_mean(values, seed=6))


@pytest.mark.slow
def test_a_thousand_prompts_of_a_thousand_heads_take_seconds():
    values = _sample(1000, 32, 32)
    start = time.process_time()
    bootstrap_mean(values)
    sign_flip(values - 1)
    assert time.process_time() - start < 60


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_few_prompts_are_tested_exactly_as_transformer_lens_does(alternative):
    effects = np.random.default_rng(0).normal(0.3, 1, size=(9, 5))
    wanted = sign_flip_permutation_pvalue(torch.tensor(effects), dim=0, alternative=alternative)
    np.testing.assert_allclose(sign_flip(effects, alternative=alternative), wanted.numpy(), atol=1e-12)


def test_the_exact_test_equals_a_loop_over_all_sign_patterns():
    effects = np.array([0.5, -0.2, 0.9, 0.4])
    hits = [
        abs(np.dot(signs, effects)) >= abs(effects.sum()) - 1e-12
        for signs in itertools.product((1, -1), repeat=4)
    ]
    assert float(sign_flip(effects)) == np.mean(hits)


def test_without_an_effect_p_values_are_spread_evenly():
    effects = np.random.default_rng(1).normal(size=(30, 1000))
    p = sign_flip(effects, n_permutations=999)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_is_never_zero_and_missing_heads_have_none():
    effects = np.stack([np.ones(50), np.full(50, np.nan)], axis=1)
    p = sign_flip(effects, n_permutations=99)
    assert p[0] == pytest.approx(0.01) and np.isnan(p[1])


def test_nothing_changed_is_no_effect():
    assert float(sign_flip(np.zeros(20))) == 1


def test_twenty_of_twenty_leave_room_below():
    low, high = binomial_interval(20, 20)
    assert (low, high) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert np.isnan(binomial_interval(0, 0)).all()


def test_heads_that_were_not_tested_do_not_count_as_tests():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    q = benjamini_hochberg(p)
    np.testing.assert_allclose(q[np.isfinite(p)], stats.false_discovery_control([0.01, 0.04, 0.03]))
    assert np.isnan(q[0, 1])
    assert np.isnan(benjamini_hochberg(np.full(3, np.nan))).all()
