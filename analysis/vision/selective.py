"""Do heads that a score finds matter for seeing, and for nothing else? From ranking to the report, on drawn scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..score import score
from ..selectivity import Selectivity, selectivity
from .skills import skills


def selective_heads(
    model: Any,
    method: str,
    *,
    n: int = 200,
    seed: int = 0,
    rank_on: str = "all",
    layers: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    **choice: Any,
) -> Selectivity:
    """Rank heads on training scenes, and see what tasks with and without an image lose without the first ones.

    Args:
        model: A bridge that sees images.
        method: What ranks the heads.
        n: Held-out prompts a task.
        seed: Of scenes, prompts, ranking, random heads and intervals.
        rank_on: A visual task to rank on, or `all` in turn.
        layers: Rank heads of these alone.
        options: Of the method.
        **choice: For `selectivity`: `how`, `k`, `at_least`, `at_most`, `draws`, `progress`.

    Raises:
        MissingData: The model sees no images, or there is no such task.
    """
    asked = skills(model, n, seed, rank_on=rank_on)
    ranked = score(model, method, asked.rank, seed=seed, **(options or {}))
    ranked = ranked if layers is None else ranked.in_layers(layers)
    return selectivity(model, ranked, asked.visual, asked.text, asked.train, seed=seed, **choice)
