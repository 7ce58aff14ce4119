"""The kind `selective`: what tasks with and without an image lose without the top heads of a score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from ...analysis.vision.selective import selective_heads
from ...hooks.interventions import uniform, zero
from ..planner import Planner
from ..steps import Found, Inputs, Step, Task, Unit, kind
from ..studies import kept, put_together, short_name

_HOW = {"uniform": uniform, "zero": zero}


@kind("selective")
class Selective(Step):
    """Take top heads away, as many as training asks for; see what is lost on fresh scenes and without images."""

    table: ClassVar[str] = "selective"

    kind: Literal["selective"] = "selective"
    method: str = "vhd"
    """What ranks the heads."""
    how: Literal["uniform", "zero"] = "zero"
    """What is done to them."""
    k: tuple[int, ...] = Field(default=(1, 2, 3, 4, 5, 6, 7, 8), min_length=1)
    """Numbers of heads."""
    n: int = Field(default=200, ge=4, le=100_000)
    """Held-out prompts a task."""
    rank_on: Literal["all", "exists", "color", "where", "count"] = "all"
    """The visual task that heads are ranked on."""
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Layers whose heads are ranked; by default all."""
    at_least: float = Field(default=0.3, ge=0, le=1)
    """What visual tasks should lose on average in training: chooses k."""
    at_most: float = Field(default=0.05, ge=0, le=1)
    """What each text-only task may lose less than."""
    draws: int = Field(default=3, ge=1)
    """Random sets of heads at each k."""

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one unit: k is chosen before anything is told."""
        model = at.model(self)
        names = ("method", "how", "k", "n", "rank_on", "layers", "at_least", "at_most", "draws")
        params = {
            name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names
        }
        title = f"selective-{short_name(model.name)}-{self.method}-{self.rank_on}"
        yield at.task(self, title, model=model, params=params)

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Rank, choose and measure."""
        how = dict(unit.task.params)
        change = _HOW[how.pop("how")]
        found = selective_heads(
            model, how.pop("method"), how=change, seed=unit.task.seed, progress=inputs.progress, **how
        )
        heads = [str(head) for head in found.heads]
        return kept(found, k=found.k, heads=heads, conclusion=found.conclusion(), notes=found.notes)

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write the costs and the figure."""
        return put_together(task, found, folder, "selectivity")
