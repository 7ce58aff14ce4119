"""The kind `steer`: a steering method chosen on some prompts and measured on others, beside random heads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from ...analysis.figures.dose import dose_response
from ...analysis.files import write_atomically, write_json, write_table
from ...analysis.steering.methods import SELECT, TOLERANCES, halves, study_method
from ...analysis.steering.study import steering_study
from ...hooks.directions import Directions
from ..planner import Planner
from ..steps import Data, Found, Inputs, Step, Task, Unit, kind

MethodName = Literal[
    "juice-memory", "juice-context", "june-memory", "june-context", "focus", "split-softmax", "reweight", "act",
    "sorting", "buckets", "add",
]  # fmt: skip


@kind("steer")
class Steer(Step):
    """Choose how to steer a model on some prompts; report the dose-response curve on others."""

    table: ClassVar[str] = "steer"

    kind: Literal["steer"] = "steer"
    method: MethodName
    """What is done."""
    strengths: tuple[float, ...] | None = None
    """By default the method's usual ones."""
    k: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1)
    """Numbers of heads to try, where the method takes heads."""
    n: int = Field(default=120, ge=8, le=100_000)
    """Held-out prompts, where they are made; half as many are chosen on."""
    draws: int = Field(default=3, ge=0)
    """Random sets of heads, directions or orders beside the chosen one."""
    limit: float | None = Field(default=None, ge=1)
    """Choose nothing that raises the perplexity of neutral text above this many times the clean one."""
    select: int = Field(default=SELECT, ge=1)
    """For juice: items that heads are chosen on; its authors take 4."""
    tolerance: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=TOLERANCES, min_length=1)
    """For juice: probabilities to try that a head may cost in a form of the conflict; the paper's rule is 0."""
    epochs: int = Field(default=10, ge=1)
    """For focus: how often every prompt is seen."""
    data: Data | None = None
    """Prompts to choose on; by default made ones."""
    held_out: Data | None = None
    """Prompts to report on; by default every second one of `data`, or made ones of another split."""
    contrast: Data | None = None
    """For add: prompts labelled positive and negative."""
    neutral: Data | None = None
    """Texts whose perplexity tells damage; organism/text has its own."""

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one task of one unit: choosing comes before measuring, and both need the model."""
        model = at.model(self)
        given, other, contrast, neutral = (
            at.prompts(one, default="multi-document", model=model, seed=self.seed) if one else None
            for one in (self.data, self.held_out, self.contrast, self.neutral)
        )
        if given is not None and other is None:
            given, other = halves(given)
        if given is None or other is None:
            how = study_method(self.method)
            words = "organism" if model.name == "organism/text" else "english"
            given = how.data(words, max(8, self.n // 2), self.seed, "train")
            other = how.data(words, self.n, self.seed, "test")
        roles = {"train": given, "test": other, "contrast": contrast, "neutral": neutral}
        sets = {role: one for role, one in roles.items() if one is not None}
        for one in sets.values():
            at.prompt_sets[one.digest] = one
        short = model.name.rstrip("/").split("/")[-1]
        settings = {
            name: getattr(self, name)
            for name in ("method", "strengths", "k", "n", "draws", "limit", "select", "tolerance", "epochs")
        }
        yield at.task(
            self,
            f"steer-{short}-{self.method}",
            model=model,
            params={**json.loads(json.dumps(settings)), "roles": list(sets)},
            data=list(sets.values()),
        )

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Choose and measure."""
        how: dict[str, Any] = dict(unit.task.params)
        sets = dict(zip(how["roles"], (inputs.prompts[one] for one in unit.task.data), strict=True))
        options = {name: how[name] for name in ("n", "draws", "limit", "select", "tolerance", "epochs")}
        if "contrast" in sets:
            options["contrast"] = sets["contrast"]
        study = steering_study(
            model,
            how["method"],
            train=sets["train"],
            test=sets["test"],
            neutral=sets.get("neutral"),
            strengths=how["strengths"],
            k=how["k"],
            seed=unit.task.seed,
            progress=inputs.progress,
            **options,
        )
        found = study.candidate.directions
        vectors = (
            None if found is None else {str(place): one.tolist() for place, one in found.vectors.items()}
        )
        at = "" if found is None else found.at
        return Found(study.table(), {"record": study.record(), "at": at, "directions": vectors})

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write the table, the record, the figure and the directions."""
        [one] = found
        if one is None:
            return None
        record = one.meta["record"]
        write_table(folder / "steering.parquet", one.table)
        write_json(folder / "steering.json", record)
        figure = dose_response(
            one.table[one.table["split"] == "test"],
            neutral=record["neutral"],
            chosen=record["strength"],
            title=f"{record['method']} of {task.model.name if task.model else ''}",
        )
        write_atomically(folder / "steering.html", figure.to_html(include_plotlyjs=True, full_html=True))
        if one.meta["directions"]:
            vectors = {
                int(place) if one.meta["at"] == "resid" else place: vector
                for place, vector in one.meta["directions"].items()
            }
            Directions(one.meta["at"], vectors).save(folder / "directions.safetensors")
        name = task.model.name if task.model else ""
        return one.table.assign(step=self.name, model=name, method=record["method"])
