"""Random heads to compare chosen heads with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import BadOption, nearest
from ..hooks.heads import Head

CONTROLS = ("same-layers", "anywhere")

_TRIES = 50  # draws thrown away because the same heads were drawn before


def draw_controls(
    top: Sequence[Head], pool: Iterable[Head], kind: str, *, draws: int, rng: np.random.Generator
) -> tuple[list[tuple[Head, ...]], list[str]]:
    """Draw sets of random heads, as many heads as the chosen ones.

    Args:
        top: The chosen heads.
        pool: The heads that may be drawn; the chosen ones, and all that might be chosen, are not among them.
        kind: `same-layers`: as many heads from each layer as the chosen ones have there; `anywhere`: from all layers.
        draws: How many different sets.
        rng: Source of randomness.

    Returns:
        The sets, fewer than asked for where not so many exist, and a sentence for everything that could not be done
        as asked.

    Raises:
        BadOption: There is no such kind of control.
    """
    if kind not in CONTROLS:
        raise BadOption(f"{kind}: no such control.{nearest(kind, CONTROLS)}")
    free = sorted(set(pool) - set(top))
    label = f"k={len(top)}, {kind}"
    if len(free) < len(top):
        left = "1 head is" if len(free) == 1 else f"{len(free)} heads are"
        return [], [f"{label}: not run, only {left} left to draw from."]
    notes = []
    if kind == "same-layers":
        wanted, borrowed = _layers(top, free)
        if borrowed:
            notes.append(
                f"{label}: {borrowed} of {len(top)} heads come from neighbouring layers, because too few others are "
                "left in the layers of the chosen heads."
            )
    else:
        wanted = {None: len(top)}
    n_sets = math.prod(math.comb(len(_in(free, layer)), count) for layer, count in wanted.items())
    seen: dict[tuple[Head, ...], None] = {}
    for _ in range(draws * _TRIES):
        if len(seen) == min(draws, n_sets):
            break
        drawn = [
            choices[i]
            for layer, count in wanted.items()
            for choices in [_in(free, layer)]
            for i in rng.choice(len(choices), count, replace=False)
        ]
        seen[tuple(sorted(drawn))] = None
    if len(seen) < draws:
        notes.append(
            f"{label}: {len(seen)} of {draws} draws, because no more than {n_sets} different "
            f"{'set exists' if n_sets == 1 else 'sets exist'}."
        )
    return list(seen), notes


def _in(heads: Sequence[Head], layer: int | None) -> list[Head]:
    return [head for head in heads if layer is None or head.layer == layer]


def _layers(top: Sequence[Head], free: Sequence[Head]) -> tuple[dict[int | None, int], int]:
    """Count the heads to draw from each layer, and how many of them stand in for a layer that has too few."""
    room = Counter(head.layer for head in free)
    wanted: Counter[int | None] = Counter()
    borrowed = 0
    for layer, count in sorted(Counter(head.layer for head in top).items()):
        for _ in range(count):
            nearest_layer = min(
                (one for one in room if room[one] > 0), key=lambda one: (abs(one - layer), one)
            )
            room[nearest_layer] -= 1
            wanted[nearest_layer] += 1
            borrowed += nearest_layer != layer
    return dict(wanted), borrowed
