"""The kind `mitigate`: whether a method makes a model that sees hallucinate less, over its strengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from ...analysis.scores import Source
from ...analysis.vision.mitigation import Mitigation, mitigate, scenes_for
from ...analysis.vision.mitigation_methods import METHODS
from ...analysis.vision.tracing import trace
from ..planner import Planner
from ..steps import Found, Inputs, Step, Task, Unit, kind


@kind("mitigate")
class Mitigate(Step):
    """Let a model describe drawn scenes at several strengths of a method, and count what is not there."""

    table: ClassVar[str] = "mitigate"

    kind: Literal["mitigate"] = "mitigate"
    method: Literal["vhr", "var", "iri", "rebalance"]
    """What is done."""
    strengths: tuple[float, ...] | None = None
    """By default the method's usual ones."""
    n: int = Field(default=100, ge=2, le=100_000)
    """Scenes that are described, and questions that are asked."""
    draws: int = Field(default=3, ge=0)
    """Random controls at each strength."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Longest description."""
    stop: str | None = None
    """Text that ends a description."""

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one unit: the scenes are drawn from the seed, and all strengths are compared on the same ones."""
        model = at.model(self)
        names = ("method", "strengths", "n", "draws", "max_new_tokens", "stop")
        short = model.name.rstrip("/").split("/")[-1]
        params = json.loads(json.dumps({name: getattr(self, name) for name in names}))
        yield at.task(self, f"mitigate-{short}-{self.method}", model=model, params=params)

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Describe, ask and count."""
        how, seed = dict(unit.task.params), unit.task.seed
        described, asked, words, traced_on = scenes_for(model, how["n"], seed)
        traced = trace(model, traced_on, seed=seed) if how["method"] == "iri" else None
        found = mitigate(
            model, how["method"], described, asked, words, strengths=how["strengths"], traced=traced,
            draws=how["draws"], max_new_tokens=how["max_new_tokens"], stop=how["stop"], seed=seed,
            progress=inputs.progress,
        )  # fmt: skip
        record = {
            "wrong": found.wrong.astype(int).tolist(),
            "of_model": found.model._asdict(),
            "of_data": found.data._asdict(),
            "notes": list(found.notes),
        }
        return Found(found.table(), record)

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write the table, the conclusion and the figure."""
        [one] = found
        if one is None:
            return None
        meta = one.meta
        whole = Mitigation(
            METHODS[self.method],
            np.array(meta["wrong"], dtype=bool),
            one.table,
            Source(**meta["of_model"]),
            Source(**meta["of_data"]),
            task.seed,
            tuple(meta["notes"]),
        )
        whole.save(folder)
        return one.table.assign(model=meta["of_model"]["name"], method=self.method)
