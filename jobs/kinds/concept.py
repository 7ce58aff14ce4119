"""The kind `concept`: heads of a concept are turned around or reinforced, and its words are counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from ...analysis.concept import GAINS, concept_study
from ...analysis.steering.methods import halves
from ...analysis.vision.skills import to_describe
from ..planner import Planner
from ..steps import Data, Found, Inputs, Step, Task, Unit, kind
from ..studies import kept, put_together, short_name


@kind("concept")
class ConceptStep(Step):
    """Find a concept's heads by Head Pursuit where the model is about to write it; scale them; count its words."""

    table: ClassVar[str] = "concept"

    kind: Literal["concept"] = "concept"
    words: tuple[str, ...] = Field(min_length=1)
    """Of the concept."""
    gains: tuple[float, ...] = Field(default=GAINS, min_length=1)
    """Factors on what the heads write."""
    k: tuple[int, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    """Numbers of heads."""
    atoms: int = Field(default=8, ge=1)
    """Tokens that may explain a head's output."""
    n: int = Field(default=100, ge=4, le=100_000)
    """Scenes to describe, where they are drawn; as many to find the heads on."""
    draws: int = Field(default=3, ge=1)
    """Random sets of heads at each gain and k."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Longest text."""
    stop: str | None = None
    """Text that ends one."""
    data: Data | None = None
    """Prompts to continue, every second one to find the heads on; by default scenes to describe."""

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one unit: heads are found before texts are counted."""
        model = at.model(self)
        given = [at.prompts(self.data, default="repeated", model=model, seed=self.seed)] if self.data else []
        names = ("words", "gains", "k", "atoms", "n", "draws", "max_new_tokens", "stop")
        params = {
            name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names
        }
        title = f"concept-{short_name(model.name)}-{self.words[0]}"
        yield at.task(self, title, model=model, params=params, data=given)

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Find and count."""
        how, seed = dict(unit.task.params), unit.task.seed
        n, words, _ = how.pop("n"), how.pop("words"), how.pop("data", None)
        train, test = (
            halves(inputs.prompts[unit.task.data[0]]) if unit.task.data else to_describe(model, n, seed)
        )
        found = concept_study(model, words, train, test, seed=seed, progress=inputs.progress, **how)
        return kept(
            found,
            words=words,
            heads=[str(head) for head in found.scores.top(max(how["k"]))],
            conclusion=found.conclusion(),
            examples=found.examples,
            notes=found.notes,
        )

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write the counts and the figure."""
        return put_together(task, found, folder, "concept")
