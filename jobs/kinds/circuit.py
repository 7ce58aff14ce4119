"""The kind `circuit`: methods that find circuits, each on several sets of prompts, held against a known circuit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field, field_validator

from ...analysis.circuits import truth
from ...analysis.circuits.circuit import Circuit
from ...analysis.circuits.comparison import measures_of
from ...analysis.circuits.discover import discover, get_discovery, resolve
from ...analysis.circuits.task import CIRCUIT_TASKS
from ...analysis.circuits.task import task as make_task
from ...analysis.files import read_json, write_json
from ...errors import BadOption, UnknownMethod, UnknownOption
from ..planner import Planner
from ..steps import Data, Found, Inputs, Step, Task, Unit, kind


@kind("circuit")
class CircuitStep(Step):
    """Find the circuit of a task by one or more methods, on several sets of prompts."""

    version: ClassVar[int] = 1
    table: ClassVar[str] = "circuits"

    kind: Literal["circuit"] = "circuit"
    task: str
    """A task that has prompts for the model, such as ioi; or a name for the prompts of `data`."""
    methods: tuple[str, ...]
    """Names from `headscope circuit methods`."""
    options: dict[str, dict[str, Any]] = Field(default={})
    """Of methods, by name."""
    n: int = Field(default=16, ge=1, le=100_000)
    """Prompts of each set, where they are generated."""
    seeds: int = Field(default=3, ge=1, le=1000)
    """Sets of prompts; given prompts are one set, and the seeds are those of the methods."""
    truth: str = ""
    """A file with the true circuit; by default the one that is known for this model, if there is."""
    curves: bool = True
    """Measure CPR and CMD over sizes as well, for methods that score edges."""
    data: Data | None = None
    """Prompts with answer, foil and corrupted text; by default generated."""

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(get_discovery(name).name for name in names)
        except UnknownMethod as error:
            raise ValueError(str(error)) from None

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        try:
            for name, given in options.items():
                resolve(name, given)
        except (UnknownMethod, UnknownOption, BadOption) as error:
            raise ValueError(str(error)) from None
        return options

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one unit for each method and set of prompts."""
        model = at.model(self)
        parts = [{"method": name, "seed": seed} for name in self.methods for seed in range(self.seeds)]
        kept = []
        for seed in range(self.seeds):
            source = self.data or Data(name=self.task, n=self.n, seed=self.seed + seed)
            kept.append(at.prompts(source, default=self.task, model=model, seed=self.seed + seed))
        right = None if not self.truth else read_json(Path(self.truth).expanduser())
        yield at.task(
            self,
            f"circuit-{self.task}-{model.name.rstrip('/').split('/')[-1]}",
            model=model,
            params={
                "task": self.task,
                "methods": list(self.methods),
                "options": {name: resolve(name, self.options.get(name, {})) for name in self.methods},
                "curves": self.curves,
                "truth": right,
            },
            parts=parts,
            data=kept,
        )

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Run one method on one set of prompts."""
        name, seed, params = unit.part["method"], unit.part["seed"], unit.task.params
        one = make_task(self.task, prompts=inputs.prompts[unit.task.data[seed]])
        found = discover(model, one, name, seed=seed, progress=inputs.progress, **params["options"][name])
        right = Circuit.from_record(params["truth"]) if params["truth"] else truth.known(model, self.task)
        row = measures_of(model, one, found, right, seed, self.curves)
        return Found(pd.DataFrame([row]), {"circuit": found.record()})

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Keep every circuit as a file, and return one row a method and set of prompts."""
        rows = []
        for unit, one in zip(task.parts, found, strict=True):
            if one is not None:
                write_json(folder / f"{unit['method']}-{unit['seed']}.json", one.meta["circuit"])
                rows.append(one.table)
        if not rows:
            return None
        table = pd.concat(rows, ignore_index=True)
        return table.assign(task=self.task, model=task.model.name if task.model else "")


__all__ = ["CIRCUIT_TASKS", "CircuitStep"]
