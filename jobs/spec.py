"""Job files: what they may say, read so that every mistake is reported with its line, all at once.

```yaml
name: induction everywhere
seed: 0
sweep:
  model: [organism/text, organism/planted]
steps:
  - kind: score
    sweep: {method: [induction, previous-token]}
  - kind: verify
    k: [1, 2, 4]
run: {shards: 8}
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ..errors import BadJob, nearest
from .steps import Data, Frozen, Step, digest_of, kinds, revive
from .sweeps import points, set_values
from .tree import Place, Tree, complain, read_tree

_INHERITED = ("model", "dtype", "seed", "data")  # what the job says for all its steps


class RunSettings(Frozen):
    """How a job is computed. None of it but `batch` can change a number."""

    shards: int = Field(default=1, ge=1, le=100_000)
    """Units that a task over prompts is split into."""
    batch: int = Field(default=16, ge=1)
    """Prompts that are computed together. Another batch changes scores in the last digits of float32."""
    retries: int = Field(default=1, ge=0)
    """How often a failed unit is tried again."""
    lease: float = Field(default=60.0, gt=0)
    """Seconds without a sign of life after which another worker may take over a unit."""
    devices: int = Field(default=1, ge=1)
    """GPUs that one model is spread over."""


class JobHead(Frozen):
    """The part of a job file that stands above its steps."""

    name: str = Field(min_length=1, max_length=80)
    """Of the job; its folder is called after it."""
    model: str = ""
    """For all steps: organism/NAME, a folder, or a hub id."""
    dtype: str = "float32"
    """For all steps."""
    seed: int = Field(default=0, ge=0)
    """For all steps."""
    data: Data | None = None
    """For all steps."""
    run: RunSettings = RunSettings()
    """How it is computed."""
    sweep: dict[str, list[Any]] = {}  # noqa: RUF012 - pydantic copies it
    """Places in the job, such as model or steps.score.method, each with a list of values: all combinations are run."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """What is computed, in order; a step may have a sweep of its own."""


class Cell(Frozen):
    """One point of the sweep: what is set there, and its steps."""

    point: dict[str, Any]
    steps: tuple[Step, ...]


class Job(Frozen):
    """A job file after its sweeps: cells of steps with every setting."""

    name: str
    run: RunSettings
    cells: tuple[Cell, ...]
    base: str = "."

    @property
    def digest(self) -> str:
        """Names the job: of its steps and the batch, not of how they are spread over workers."""
        cells = [[step.model_dump(mode="json") for step in cell.steps] for cell in self.cells]
        return digest_of({"name": self.name, "cells": cells, "batch": self.run.batch})[:10]

    @property
    def folder_name(self) -> str:
        """`<name>-<digest>`, safe as a folder's name."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name).strip('-.')[:80] or 'job'}-{self.digest}"

    def record(self) -> dict[str, Any]:
        """Return the JSON form; `from_record` makes the job again."""
        cells = [
            {"point": cell.point, "steps": [step.model_dump(mode="json") for step in cell.steps]}
            for cell in self.cells
        ]
        return {"name": self.name, "run": self.run.model_dump(), "base": self.base, "cells": cells}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Job:
        """Read what `record` gave."""
        cells = tuple(
            Cell.model_construct(point=cell["point"], steps=tuple(map(revive, cell["steps"])))
            for cell in record["cells"]
        )
        run = RunSettings.model_validate(record["run"])
        return cls.model_construct(name=record["name"], run=run, base=record["base"], cells=cells)


def read_job(path: str | Path, sets: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: The YAML file.
        sets: `place=value` items that replace what the file says.

    Raises:
        MissingData: There is no such file.
        BadJob: The file has mistakes; all are listed, each with its line.
    """
    path = Path(path).expanduser()
    return _job(set_values(read_tree(path), sets), path.resolve().parent)


def job_of(value: Mapping[str, Any], base: str | Path = ".") -> Job:
    """Make a job of what a file would hold, as Python values.

    Raises:
        BadJob: As for `read_job`.
    """
    return _job(Tree(json.loads(json.dumps(value))), Path(base).resolve())


def schema() -> dict[str, Any]:
    """Return the JSON schema of job files, for editors."""
    whole = JobHead.model_json_schema()
    definitions = whole.setdefault("$defs", {})
    for name, cls in kinds().items():
        one = cls.model_json_schema()
        definitions.update(one.pop("$defs", {}))
        one["properties"]["sweep"] = whole["properties"]["sweep"]
        one["required"] = ["kind"]  # the rest may come from the job or from a sweep
        definitions[f"step_{name}"] = one
    steps = whole["properties"]["steps"]
    steps["items"] = {"oneOf": [{"$ref": f"#/$defs/step_{name}"} for name in kinds()]}
    # What is given as text for short; pydantic's schema does not know of it.
    definitions["Data"] = {"anyOf": [{"type": "string"}, definitions["Data"]]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": "Headscope job",
        "description": "A batch of steps over models and prompts, run by `headscope run`.",
    }


def _job(tree: Tree, base: Path) -> Job:
    wrong: list[tuple[str, str]] = []
    if not isinstance(tree.value, dict):
        raise BadJob(f"{tree.origin(())}: a job file holds name: and steps:, this one {_what(tree.value)}.")
    if not isinstance(tree.value.get("sweep", {}), dict):
        raise BadJob(f"{tree.origin(('sweep',))}: sweep: expected places with lists of values")
    head: JobHead | None = None
    cells = []
    for point, here in points(tree):
        head = _head(here, wrong) or head
        if isinstance(here.value.get("steps"), list):
            cells.append(
                Cell.model_construct(point=point, steps=tuple(_steps(here, base, wrong)))
            )  # fmt: skip
    complain(tree.name, wrong)
    assert head is not None
    return Job.model_construct(name=head.name, run=head.run, cells=tuple(cells), base=str(base))


def _head(tree: Tree, wrong: list[tuple[str, str]]) -> JobHead | None:
    try:
        return JobHead.model_validate(tree.value)
    except ValidationError as error:
        wrong += _listed(error, tree, ())
        return None


def _steps(tree: Tree, base: Path, wrong: list[tuple[str, str]]) -> Iterator[Step]:
    """Validate every step, swept ones at each of their points."""
    seen: dict[str, int] = {}
    for index, raw in enumerate(tree.value["steps"]):
        at: Place = ("steps", index)
        if not isinstance(raw, dict):
            continue  # the head has said so
        name = raw.get("name") or raw.get("kind")
        if isinstance(name, str):
            if name in seen:
                both = f"steps {seen[name]} and {index} are both called {name}; give one a name of its own"
                wrong.append((tree.origin(at), both))
            seen.setdefault(name, index)
        try:
            swept = list(points(tree, at))
        except BadJob as error:
            origin, _, message = str(error).partition(": ")
            wrong.append((origin, message))
            continue
        for _, here in swept:
            step = _step(here, at, wrong)
            if step is not None:
                before = [one for one, place in seen.items() if place < index]
                wrong += [
                    (here.origin((*at, where)), f"{_shown((*at, where))}: {message}")
                    for where, message in step.problems(before, base)
                ]
                yield step


def _step(tree: Tree, at: Place, wrong: list[tuple[str, str]]) -> Step | None:
    known, raw = kinds(), tree.value["steps"][at[1]]
    if (
        not isinstance(raw.get("kind"), str) or raw["kind"] not in known
    ):  # a list or a mapping cannot be looked up
        what = f"{raw['kind']!r} is no kind of step" if "kind" in raw else "a step needs its kind"
        tail = nearest(str(raw.get("kind", "")), known)
        wrong.append((tree.origin((*at, "kind")), f"{_shown(at)}: {what}.{tail}"))
        return None
    cls = known[raw["kind"]]
    given = {key: tree.value[key] for key in _INHERITED if key in tree.value and key in cls.model_fields}
    try:
        return cls.model_validate({**given, "name": raw["kind"], **raw})
    except ValidationError as error:
        wrong += _listed(error, tree, at)
        return None


def _listed(error: ValidationError, tree: Tree, at: Place) -> Iterator[tuple[str, str]]:
    for one in error.errors(include_url=False):
        place: Place = (*at, *one["loc"])
        inherited = (
            len(one["loc"]) and one["loc"][0] in _INHERITED and (*at, one["loc"][0]) not in tree.origins
        )
        if at and inherited and (one["loc"][0],) in tree.origins:
            place = tuple(one["loc"])  # it stands above the steps
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "there is no such setting"
        elif one["type"] == "missing":
            message = "is missing"
        elif one["type"] == "tuple_type":
            given = one["input"]
            message = "expected a list" + (
                f", such as [{given}]" if isinstance(given, (float, int, str)) else ""
            )
        elif not isinstance(one.get("input"), (dict, list)):
            message += f", not {one.get('input')!r}"
        yield tree.origin(place), f"{_shown(place)}: {message}"


def _shown(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _what(value: Any) -> str:
    return "is empty" if value is None else f"holds a {type(value).__name__}"
