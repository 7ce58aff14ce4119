"""Intervals and tests over prompts, for every head at once.

Axis 0 of every array is the prompt; all other axes are cells (heads) that are treated alike. The same resampled
prompts and the same sign flips serve all cells, which turns both procedures into one matrix product a batch: 1,000
prompts × 1,024 heads take under a second, where gathering each resample (as `scipy.stats.bootstrap` does with plain
samples, and TransformerLens' `bootstrap_ci` and `sign_flip_permutation_pvalue`) needs gigabytes.

A missing value (NaN) leaves its cell only; a cell without any value stays NaN.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]

_EXACT_UP_TO = 12  # 2**12 sign patterns are fewer than the random ones, so all of them are tried
_CELLS_A_BATCH = 2**22  # float64 values in one intermediate array: 32 MB


class Interval(NamedTuple):
    """Lower and upper ends, in the unit of the samples; NaN where no interval can be given."""

    low: Float[np.ndarray, " ..."]
    high: Float[np.ndarray, " ..."]


def bootstrap_mean(
    samples: Float[np.ndarray, "prompt ..."],
    *,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap the mean over prompts: bias-corrected and accelerated (BCa) intervals of `scipy.stats.bootstrap`.

    Fewer than two prompts give NaN, because one prompt says nothing about the spread. Equal values give that value
    at both ends: a bootstrap cannot show uncertainty that the sample does not contain. Where BCa is undefined the
    percentile interval of the same resamples stands in.

    Args:
        samples: One value per prompt and cell; NaN where a prompt has none.
        confidence: Share of intervals that hold the true mean, in the long run.
        n_resamples: Number of resampled prompt sets.
        seed: Of the resampling.

    Returns:
        Lower and upper ends, each of the shape of one prompt's cells.
    """
    samples = np.asarray(samples, dtype=np.float64)
    n_prompts, cells = samples.shape[0], samples.shape[1:]
    flat = samples.reshape(n_prompts, -1)
    here = np.isfinite(flat)
    n_here = here.sum(axis=0)
    filled = np.where(here, flat, 0.0)
    low = np.full(flat.shape[1], np.nan)
    high = np.full(flat.shape[1], np.nan)

    spread = np.where(here, flat, -np.inf).max(axis=0, initial=-np.inf) - np.where(here, flat, np.inf).min(
        axis=0, initial=np.inf
    )
    constant = (n_here >= 2) & (spread == 0)
    low[constant] = high[constant] = (filled.sum(axis=0)[constant]) / n_here[constant]

    wanted = (n_here >= 2) & (spread > 0)
    if wanted.any():
        values, weights = filled[:, wanted], here[:, wanted].astype(np.float64)
        complete = bool(here[:, wanted].all())

        def mean_of(prompts: np.ndarray, axis: int = -1) -> np.ndarray:
            counts = _counts(prompts, n_prompts)  # resample prompt
            n_drawn = counts.sum(axis=1, keepdims=True) if complete else counts @ weights
            with np.errstate(invalid="ignore"):  # a resample may hold none of a cell's prompts
                means = (counts @ values) / n_drawn
            return np.moveaxis(means.reshape(*prompts.shape[:-1], -1), -1, 0)

        width = max(n_prompts, values.shape[1])
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (np.arange(n_prompts),),
                mean_of,
                vectorized=True,
                axis=-1,
                batch=max(1, _CELLS_A_BATCH // width),
                n_resamples=n_resamples,
                confidence_level=confidence,
                method="BCa",
                rng=np.random.default_rng(seed),
            )
        tail = (1 - confidence) / 2
        draws = result.bootstrap_distribution
        ends = np.nanquantile(draws, [tail, 1 - tail], axis=-1)
        bca = np.stack([result.confidence_interval.low, result.confidence_interval.high])
        low[wanted], high[wanted] = np.where(np.isfinite(bca).all(axis=0), bca, ends)
    return Interval(low.reshape(cells), high.reshape(cells))


def sign_flip(
    effects: Float[np.ndarray, "prompt ..."],
    *,
    alternative: Alternative = "two-sided",
    n_permutations: int = 9999,
    seed: int = 0,
) -> Float[np.ndarray, " ..."]:
    """Test whether the mean of paired effects is zero, by flipping the sign of whole prompts.

    The null is that every prompt's effect is symmetric about zero. Up to 12 prompts all sign patterns are tried and
    the p-value is exact; beyond that it is (hits + 1) / (n_permutations + 1), so it is never 0.

    Args:
        effects: Changed minus clean, one value per prompt and cell; NaN where a prompt has none.
        alternative: `greater` asks whether the mean is above zero, `less` below, `two-sided` either.
        n_permutations: Random sign patterns when there are too many to try all.
        seed: Of the random sign patterns.

    Returns:
        p-values, of the shape of one prompt's cells; NaN for a cell without values.
    """
    effects = np.asarray(effects, dtype=np.float64)
    n_prompts, cells = effects.shape[0], effects.shape[1:]
    flat = effects.reshape(n_prompts, -1)
    here = np.isfinite(flat)
    values = np.where(here, flat, 0.0)
    observed = values.sum(axis=0)
    # Sums of the same numbers in another order differ in the last bits and still count as equal.
    tolerance = 1e-12 * np.abs(values).sum(axis=0)

    def hits(signs: np.ndarray) -> np.ndarray:
        null = signs @ values
        if alternative == "two-sided":
            return (np.abs(null) >= np.abs(observed) - tolerance).sum(axis=0)
        if alternative == "greater":
            return (null >= observed - tolerance).sum(axis=0)
        return (null <= observed + tolerance).sum(axis=0)

    if n_prompts <= _EXACT_UP_TO:
        patterns = np.array(list(itertools.product((1.0, -1.0), repeat=n_prompts))).reshape(-1, n_prompts)
        p = hits(patterns) / len(patterns)
    else:
        rng = np.random.default_rng(seed)
        batch = max(1, _CELLS_A_BATCH // max(n_prompts, flat.shape[1]))
        total = np.zeros(flat.shape[1])
        for start in range(0, n_permutations, batch):
            count = min(batch, n_permutations - start)
            total += hits(rng.integers(0, 2, (count, n_prompts)) * 2.0 - 1.0)
        p = (total + 1) / (n_permutations + 1)
    return np.where(here.any(axis=0), p, np.nan).reshape(cells)


def binomial_interval(n_hits: int, n_trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Give the exact (Clopper-Pearson) interval of a rate; NaN ends without trials.

    Unlike a bootstrap it stays open when every prompt succeeds: 20 hits of 20 give [0.83, 1].
    """
    if n_trials == 0:
        return float("nan"), float("nan")
    interval = stats.binomtest(n_hits, n_trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def benjamini_hochberg(p: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    """Turn p-values into q-values: the share of false discoveries among all cells with a q at or below this one.

    NaN cells were not tested: they stay NaN and do not count as tests.
    """
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested], method="bh")
    return q


def _counts(prompts: np.ndarray, n_prompts: int) -> Float[np.ndarray, "resample prompt"]:
    """Count how often each prompt was drawn in each resample; leading axes are flattened."""
    rows = prompts.reshape(-1, prompts.shape[-1]).astype(np.int64)
    cell = np.arange(len(rows))[:, None] * n_prompts + rows
    return (
        np.bincount(cell.ravel(), minlength=len(rows) * n_prompts).reshape(len(rows), n_prompts).astype(float)
    )
