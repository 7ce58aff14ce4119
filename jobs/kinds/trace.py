"""The kind `trace`: which parts of a model bring the answer about an image back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from ...analysis.vision.tracing import about_objects, trace
from ..planner import Planner
from ..steps import Data, Found, Inputs, Step, Task, Unit, kind
from ..studies import kept, put_together, short_name


@kind("trace")
class Trace(Step):
    """Noise the image, restore one component of one layer at one group of tokens, and see what returns."""

    table: ClassVar[str] = "trace"

    kind: Literal["trace"] = "trace"
    n: int = Field(default=32, ge=1, le=100_000)
    """Questions, where they are made."""
    sigma: float = Field(default=2.0, gt=0)
    """Standard deviation of the noise, in units of the processor's normalised pixels."""
    min_gap: float = Field(default=0.1, gt=0, lt=1)
    """Prompts whose answer loses less probability under noise are dropped."""
    data: Data | None = None
    """Prompts with an image, an answer, the box `object` and the span `word`; by default questions about scenes."""

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one unit."""
        model = at.model(self)
        given = (
            [at.prompts(self.data, default="scene-exists", model=model, seed=self.seed)] if self.data else []
        )
        params = {"n": self.n, "sigma": self.sigma, "min_gap": self.min_gap}
        yield at.task(self, f"trace-{short_name(model.name)}", model=model, params=params, data=given)

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Trace."""
        how, seed = unit.task.params, unit.task.seed
        asked = (
            inputs.prompts[unit.task.data[0]]
            if unit.task.data
            else about_objects(model, "scene-exists", how["n"], seed)
        )
        found = trace(
            model, asked, sigma=how["sigma"], min_gap=how["min_gap"], seed=seed, progress=inputs.progress
        )
        return kept(found, dropped=found.dropped, prompts=len(found.gaps), notes=found.notes)

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write the rates and the heat map."""
        return put_together(task, found, folder, "tracing")
