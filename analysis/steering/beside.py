"""What a steering method is compared with: the same with random heads or directions, or another change of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

import numpy as np

from ...datasets.prompts import PromptSet
from ...hooks.heads import Head, all_heads
from ..controls import draw_controls
from .methods import Candidate
from .sorting import Sorting, document_ranges, reordered
from .steered import Steered


class Control(NamedTuple):
    """What a candidate is compared with.

    Attributes:
        name: Of its kind, such as `random heads`.
        draw: Its number among those, from 1.
        at: Makes it, by strength.
        heads: The random heads, as `Candidate.named` writes them; empty where nothing else about heads is changed.
    """

    name: str
    draw: int
    at: Callable[[float], Steered]
    heads: str = ""


def controls(candidate: Candidate, model: Any, draws: int, seed: int) -> tuple[list[Control], list[str]]:
    """Return what a candidate is compared with: random heads of its layers, random directions, or another input.

    Returns:
        The controls, and a sentence for what could not be done as asked.
    """
    found: list[Control] = []
    notes: list[str] = []
    chosen = (*candidate.heads, *candidate.suppressed)
    if chosen and candidate.preset.name != "add":
        rng = np.random.default_rng([seed, len(chosen)])
        pool = all_heads(model) if candidate.directions is None else candidate.directions.heads
        sets, notes = draw_controls(chosen, pool, "same-layers", draws=draws, rng=rng)
        arms = {"random heads": sets}
        if len(sets) < draws:  # the layers have no more: the rest comes from all of them
            arms["random heads anywhere"], more = draw_controls(
                chosen, pool, "anywhere", draws=draws - len(sets), rng=rng
            )
            notes = [*notes, *more]
        for name, drawn in arms.items():
            for draw, some in enumerate(drawn, 1):
                heads, suppressed = _in_roles(candidate, some, rng)
                other = replace(candidate, heads=heads, suppressed=suppressed)
                found.append(Control(name, draw, lambda s, c=other: c.at(s, model), other.named()))
    if candidate.directions is not None:
        for draw in range(1, draws + 1):
            other = replace(candidate, directions=candidate.directions.random(1000 * seed + draw))
            found.append(Control("random directions", draw, lambda s, c=other: c.at(s, model)))
    if candidate.preset.name == "sorting":
        found += [
            Control(
                "random order",
                draw,
                lambda s, d=draw: Steered(rewrite=Shuffling(1000 * seed + d)) if s else Steered(),
            )
            for draw in range(1, draws + 1)
        ]
    if candidate.preset.name == "buckets":
        found.append(Control("one base", 1, lambda s: _last_alone(candidate.at(s, model))))
    return found, notes


def _in_roles(
    candidate: Candidate, drawn: Sequence[Head], rng: np.random.Generator
) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """Let each random head stand for a chosen one of its own layer, boosted or suppressed, where there is one."""
    left = [drawn[i] for i in rng.permutation(len(drawn))]

    def instead_of(head: Head) -> Head:
        return left.pop(min(range(len(left)), key=lambda i: abs(left[i].layer - head.layer)))

    return tuple(map(instead_of, candidate.heads)), tuple(map(instead_of, candidate.suppressed))


@dataclass(frozen=True)
class Shuffling:
    """Put documents in random order: what sorting is compared with."""

    seed: int
    spans: tuple[str, ...] = Sorting.spans

    def __call__(self, model: Any, prompts: PromptSet) -> PromptSet:
        made = []
        for index, prompt in enumerate(prompts):
            ranges = document_ranges(prompt, self.spans)
            order = list(range(len(ranges)))
            Random(f"shuffle/{self.seed}/{index}").shuffle(order)
            made.append(reordered(prompt, ranges, order))
        return PromptSet(prompts.name, tuple(made))


def _last_alone(steered: Steered) -> Steered:
    """Keep only the last of several bases: is it the mixing that helps, or a base?"""
    decoding: Any = steered.decoding
    return Steered(decoding=replace(decoding, bases=decoding.bases[-1:]))
