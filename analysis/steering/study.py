"""Steer a model: choose on one split, measure on the other, beside random heads, directions or orders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...datasets.prompts import PromptSet
from ...errors import BadOption, EmptyPromptSet, NoEffect
from ...hooks.info import describe
from ..defaults import as_prompt_set
from ..files import jsonable
from ..scores import Source
from .beside import Control, controls
from .methods import Candidate, study_method, words_for
from .result import CHOSEN, Arm, Study
from .steered import Steered, answered, mark, neutral_texts, perplexity

Progress = Callable[[int, int], None]

_CURVES = (
    3  # draws of a control that are measured at every strength; more would tell little more of the curve
)


def steering_study(
    model: Any,
    method: str,
    *,
    train: Any = None,
    test: Any = None,
    strengths: Iterable[float] | None = None,
    k: Sequence[int] = (1, 2, 4),
    n: int = 120,
    draws: int = 3,
    limit: float | None = None,
    neutral: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Study:
    """Fit a steering method on training prompts, choose its strength there, and measure all strengths on held-out ones.

    Candidates (numbers of heads, layers, ...) and strengths are tried on the training prompts; the pair with most right
    answers is taken, the strength nearest to doing nothing among equals. Then the candidate is measured at every
    strength on the test prompts, and so are its controls, and the perplexity of neutral text.

    Args:
        model: The bridge.
        method: A name from `methods.METHODS`.
        train: Prompts to fit on; by default of the method's kind, in the model's words.
        test: Prompts to report on, best of other entities; by default so.
        strengths: By default those of the method's preset. The one that changes nothing is added.
        k: Numbers of heads to try, where the method takes heads.
        n: Test prompts, where they are generated; half as many are trained on.
        draws: Random sets of heads, directions or orders. The first three are measured at every strength, all of them
            at the strength that was chosen.
        limit: Leave out of the choice what raises the perplexity of neutral text above this many times the clean one.
            By default the method's own limit, if it has one.
        neutral: Texts for the perplexity; for `organism/text` made by default.
        seed: Of prompts, fits and controls.
        progress: Called with the measurements done and all that are planned so far.
        **options: For the fit, such as `select` and `tolerance` (JUICE) or `epochs` (focus).

    Raises:
        BadOption: there is no such method, or a number is out of range.
        EmptyPromptSet: there is no prompt.
        NoEffect: the method found nothing to steer.
    """
    how = study_method(method)
    _check(n, draws, limit, k)
    limit = how.limit if limit is None else limit
    words = words_for(model)
    fit_on = as_prompt_set(train) if train is not None else how.data(words, max(8, n // 2), seed, "train")
    shown = as_prompt_set(test) if test is not None else how.data(words, n, seed, "test")
    if not len(fit_on) or not len(shown):
        raise EmptyPromptSet(
            f"steer {method}: there is no prompt to fit on, or none to measure; give at least one."
        )
    texts = as_prompt_set(neutral) if neutral is not None else neutral_texts(model, seed)
    candidates = list(how.fit(model, fit_on, k=tuple(k), seed=seed, **options))
    if not candidates:
        raise NoEffect(f"{method}: no head helps by its rule on {fit_on.name}; there is nothing to steer.")
    neutral_at = candidates[0].preset.neutral
    doses = sorted({float(one) for one in strengths or candidates[0].preset.strengths} | {neutral_at})
    count = _Count(progress, len(candidates) * (len(doses) - 1) + 1)
    measure = _Measure(model, fit_on, texts, neutral_at, seed, count)
    clean = measure(Candidate(candidates[0].preset), "clean", 0, neutral_at)
    tried = [
        clean,
        *(measure(one, CHOSEN, 0, dose) for one in candidates for dose in doses if dose != neutral_at),
    ]
    chosen, strength = _choose(candidates, tried, neutral_at, limit)

    beside, notes = controls(chosen, model, draws, seed)

    def doses_of(draw: int) -> list[float]:
        return [dose for dose in doses if dose != neutral_at and (draw <= _CURVES or dose == strength)]

    count.add(len(doses) + sum(len(doses_of(one.draw)) for one in beside))
    measure = _Measure(model, shown, texts, neutral_at, seed, count)
    base = measure(Candidate(chosen.preset), "clean", 0, neutral_at)
    arms = [base, *(measure(chosen, CHOSEN, 0, dose) for dose in doses if dose != neutral_at)]
    for one in beside:
        arms += [measure(chosen, one.name, one.draw, dose, one) for dose in doses_of(one.draw)]
    if texts is None:
        notes.append("No neutral text was given, so nothing is known about damage to other abilities.")
    if not draws:
        notes.append("No random set was asked for, so nothing tells what any change of this size would do.")
    elif not beside:
        notes.append("This method has no random counterpart to compare it with.")
    info = describe(model)
    return Study(
        method=method,
        target=how.target,
        by=tuple(one for one in how.by if _labelled(shown, one)),
        candidate=chosen,
        strength=strength,
        neutral=neutral_at,
        train=tuple(tried),
        arms=tuple(arms),
        model=Source(info.name, info.digest),
        trained_on=Source(fit_on.name, fit_on.digest),
        data=Source(shown.name, shown.digest),
        seed=seed,
        notes=tuple(notes),
        limit=limit,
    )


@dataclass
class _Count:
    """Counts measurements for a progress line."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, more: int) -> None:
        self.total += more

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


@dataclass
class _Measure:
    """Measures a method on one set of prompts."""

    model: Any
    prompts: PromptSet
    texts: PromptSet | None
    neutral: float
    seed: int
    count: _Count

    def __call__(
        self,
        candidate: Candidate,
        name: str,
        draw: int,
        strength: float,
        control: Control | None = None,
    ) -> Arm:
        make = control.at if control else lambda dose: candidate.at(dose, self.model)
        steered = Steered() if strength == self.neutral else make(strength)
        table, damage = self._answers(steered), self._perplexity(candidate, steered)
        self.count.step()
        heads = candidate.named() if control is None else control.heads
        return Arm(name, candidate.label, draw, strength, table, damage, heads)

    def _answers(self, steered: Steered) -> pd.DataFrame:
        # A random head may have nothing that could change, such as no second sink: then the model is the clean one.
        with suppress(NoEffect):
            return answered(self.model, self.prompts, steered)
        return answered(self.model, self.prompts, Steered(rewrite=steered.rewrite))

    def _perplexity(self, candidate: Candidate, steered: Steered) -> float:
        if self.texts is None:
            return float("nan")
        texts = mark(self.texts, candidate.keys, seed=self.seed)
        with suppress(NoEffect):
            return perplexity(self.model, texts, steered)
        return perplexity(self.model, texts, Steered())


def _choose(
    candidates: list[Candidate], tried: list[Arm], neutral: float, limit: float | None
) -> tuple[Candidate, float]:
    """Return the candidate and strength with most right answers in training; doing nothing where nothing is better."""
    clean = tried[0]
    allowed = [
        arm
        for arm in tried[1:]
        if limit is None or not np.isfinite(arm.perplexity) or arm.perplexity <= limit * clean.perplexity
    ]
    best = max(
        allowed,
        key=lambda arm: (arm.accuracy, -abs(arm.strength - neutral)),
        default=clean,
    )
    by_label = {one.label: one for one in candidates}
    if best is clean or best.accuracy <= clean.accuracy:
        first = max(tried[1:], key=lambda arm: (arm.accuracy, -abs(arm.strength - neutral)))
        return by_label[first.candidate], neutral
    return by_label[best.candidate], best.strength


def _labelled(prompts: PromptSet, part: str) -> bool:
    return all(f"{part}=" in prompt.label for prompt in prompts)


def _check(n: int, draws: int, limit: float | None, k: Sequence[int]) -> None:
    if n < 8 or draws < 0 or (limit is not None and limit < 1):
        raise BadOption(f"n={n}, draws={draws}, limit={limit}: expected 8 or more, 0 or more, and 1 or more.")
    if not k or any(size < 1 for size in k):
        raise BadOption(f"k={tuple(k)}: expected numbers of heads, such as 1,2,4.")


def folder_name(found: Study) -> str:
    """Return a folder's name for a study: method, model, and a digest of what was asked."""
    doses = sorted({arm.strength for arm in found.arms})
    asked = [found.method, *found.model, *found.trained_on, *found.data, doses, found.seed, len(found.arms)]
    short = "".join(
        one if one.isalnum() or one in "-." else "-" for one in found.model.name.rsplit("/", 1)[-1]
    )
    digest = hashlib.sha256(json.dumps(jsonable([asked, found.candidate.label])).encode()).hexdigest()[:10]
    return f"steer-{found.method}-{short}-{digest}"
