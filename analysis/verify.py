"""The causal check: change the heads with the highest scores, and see whether that matters more than random heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from ..errors import BadOption, EmptyPromptSet, UnknownMethod
from ..hooks.heads import Head
from ..hooks.info import describe
from ..hooks.interventions import Intervention, uniform
from .controls import CONTROLS, draw_controls
from .defaults import as_prompt_set
from .outcomes import as_outcome
from .registry import get
from .score import unknown_note
from .scores import HeadScores, Source
from .verification import TOP, Arm, Verification

__all__ = ["Arm", "Verification", "verify"]


def verify(
    model: Any,
    scores: HeadScores,
    prompts: Any,
    metric: Any = None,
    *,
    how: Callable[..., Intervention] = uniform,
    phase: str | None = None,
    k: Iterable[int] | int = (1, 2, 4, 8),
    controls: Iterable[str] = CONTROLS,
    draws: int = 5,
    margin: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Measure what changing the top heads does to a metric, beside the same number of random heads.

    Random heads never include any of the top max(k). Every value is kept per prompt, so that effects are paired.

    Args:
        model: The bridge that was scored.
        scores: The scores to check.
        prompts: Prompts with what the metric needs, best others than those that were scored.
        metric: A name (`answer_logprob`, `needle_accuracy`, ...), a function of logits from `hooks.metrics`, or an
            `Outcome`; by default the one that the method names.
        how: What to do to the heads: a function from heads and `phase` to an intervention, such as `uniform`, `zero`
            or `partial(scale, gain=2.0)`.
        phase: Where to do it: `prefill`, `decode` or `all`; by default what the method names.
        k: Numbers of heads to change.
        controls: `same-layers` (as many random heads from each layer) and `anywhere`.
        draws: Random sets per control and k.
        margin: The smallest difference that the verdict calls one, in the metric's unit.
        seed: Of the random heads and the intervals.
        progress: Called with the number of measurements done and their total.

    Raises:
        BadOption: `k`, `draws` or a control is not possible, or the scores are of a model of another shape.
        UnknownMetric: There is no such metric.
        EmptyPromptSet: There is no prompt.
        NoEffect: Changing the heads changed nothing at all.
    """
    ks = _sizes(k)
    if draws < 1:
        raise BadOption(f"draws={draws}: expected 1 or more.")
    data = as_prompt_set(prompts)
    if not len(data):
        raise EmptyPromptSet(f"{data.name!r} holds no prompt; give at least one.")
    info = describe(model)
    if scores.values.shape != (info.n_layers, info.n_heads):
        raise BadOption(
            f"the scores are of {scores.model} with {' × '.join(map(str, scores.values.shape))} heads, "
            f"and {info.name} has {info.n_layers} × {info.n_heads}."
        )
    own_metric, own_phase = _defaults(scores.method)
    outcome = as_outcome(own_metric if metric is None else metric)
    phase = phase or own_phase

    ranked = scores.top(ks[-1])
    ran = np.argwhere(np.isfinite(scores.values)).tolist()
    pool = {Head(*cell) for cell in ran} - set(ranked)
    notes = [*_same_prompts(scores, data.digest), *unknown_note(model, data)]
    planned: list[tuple[str, int, tuple[Head, ...]]] = []
    for size in ks:
        planned.append((TOP, 0, ranked[:size]))
        for number, kind in enumerate(dict.fromkeys(controls)):
            rng = np.random.default_rng([seed, size, number])
            sets, problems = draw_controls(ranked[:size], pool, kind, draws=draws, rng=rng)
            notes += problems
            planned += [(kind, draw, heads) for draw, heads in enumerate(sets, 1)]

    clean = outcome(model, data)
    arms = []
    for done, (name, draw, heads) in enumerate(planned, 1):
        values = outcome(model, data, (how(heads, phase=phase),))
        arms.append(Arm(name, len(heads), draw, heads, values))
        if progress is not None:
            progress(done, len(planned))
    return Verification(
        clean=clean,
        arms=tuple(arms),
        metric=outcome.name,
        how=_words(how, phase),
        phase=phase,
        method=scores.method,
        model=Source(info.name, info.digest),
        data=Source(data.name, data.digest),
        seed=seed,
        margin=margin,
        notes=tuple(notes),
    )


def _sizes(k: Iterable[int] | int) -> tuple[int, ...]:
    sizes = sorted(set([k] if isinstance(k, int) else k))
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise BadOption(f"k={k!r}: expected whole numbers of heads, such as 1,2,4,8.")
    return tuple(sizes)


def _defaults(method: str) -> tuple[str, str]:
    """Return the metric and phase that a method names; scores of someone else's method get the common ones."""
    try:
        known = get(method)
    except UnknownMethod:
        return "answer_logprob", "all"
    return known.metric, known.phase


def _same_prompts(scores: HeadScores, digest: str) -> list[str]:
    if scores.data.digest and scores.data.digest == digest:
        return ["The heads were chosen on the same prompts that the check ran on."]
    return []


def _words(how: Callable[..., Any], phase: str) -> str:
    """Say what is done: `uniform (decode)`, `scale gain=2.0 (all)`."""
    extra = ""
    if isinstance(how, partial):
        shown = {key: value for key, value in how.keywords.items() if isinstance(value, (int, float, str))}
        extra = "".join(f" {key}={value}" for key, value in shown.items())
        how = how.func
    return f"{getattr(how, '__name__', type(how).__name__)}{extra} ({phase})"
