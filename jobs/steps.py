"""What a job is made of: steps as a file writes them, tasks they turn into, and units that are computed.

A *step* is an entry of the job file with a `kind`. A kind is one class in a module of `kinds/`, with three functions:

- `plan` turns the step into tasks, each with its parts;
- `run` computes one part with a loaded model and returns a table;
- `assemble` puts the parts of a task together.

A *task* is one result. A *unit* is one part of it: the smallest thing that is computed, kept or done again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..datasets.prompts import PromptSet
from ..errors import BadOption, CallError, HeadscopeError, RunError
from ..hooks.find import find_model

if TYPE_CHECKING:
    from .planner import Planner

S = TypeVar("S", bound="type[Step]")
_KINDS: dict[str, type[Step]] = {}
_FORMAT = 1  # of what a unit's digest is made of


class UnitFailed(RunError):
    """A unit could not be computed.

    Attributes:
        prompt: On which prompt, where that is known.
        final: Whether another try is pointless, because the input itself is wrong.
    """

    def __init__(self, message: str, prompt: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.prompt = prompt
        self.final = final

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.prompt, self.final)


def failed(error: BaseException, prompt: str = "") -> UnitFailed:
    """Say in one line what went wrong, as the failure of a unit."""
    if isinstance(error, UnitFailed):
        return error
    text = " ".join(str(error).split())
    message = f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
    return UnitFailed(message, prompt, final=isinstance(error, CallError))


class Frozen(BaseModel):
    """A part of a job file: no unknown key, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Data(Frozen):
    """Prompts: a name (`repeated`), a file (`asked.jsonl`), or a mapping with more to say."""

    name: str = ""
    """Prompts made for the model, as for `headscope score --data`."""
    file: str = ""
    """A .jsonl or .csv file; a relative path starts at the job file."""
    n: int | None = Field(default=None, ge=1, le=100_000)
    """Number of prompts: made, or taken from the front of the file."""
    seed: int | None = Field(default=None, ge=0)
    """Of made prompts; by default the step's."""
    column: str = ""
    """Of a .csv file: where the text stands."""
    matched: str = ""
    """Of a .csv file: another one with the matched counterparts, row by row."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"file" if value.endswith((".jsonl", ".csv")) else "name": value}
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if bool(self.name) == bool(self.file):
            raise ValueError("give either a name or a file")
        if not self.file.endswith(".csv") and (self.column or self.matched):
            raise ValueError("column and matched belong to a .csv file")
        return self


class Step(Frozen):
    """Base of every kind: what all steps can say. A subclass adds its own settings as fields.

    Attributes:
        version: Of the computation. Raise it when the same settings give other numbers: old units are then not used.
        table: Name of the job's table that `assemble` returns rows of; none if it returns nothing.
    """

    version: ClassVar[int] = 1
    table: ClassVar[str] = ""

    kind: str
    name: str = ""
    """What other steps call this one; by default its kind."""
    model: str = ""
    """organism/NAME, a folder, or a hub id; by default the job's."""
    dtype: str = "float32"
    """Of the weights."""
    seed: int = Field(default=0, ge=0)
    """By default the job's."""

    def problems(self, before: Sequence[str], base: Path) -> Iterable[tuple[str, str]]:
        """Name what is wrong with the settings although each has the right type: (field, message) for each.

        Args:
            before: Names of the steps above this one.
            base: Where relative paths start.
        """
        if not self.model and "model" in type(self).model_fields:
            yield "model", "is missing: name one here, or for all steps at the top of the job"
        elif self.model.startswith("organism/"):
            try:
                find_model(self.model)
            except HeadscopeError as error:
                yield "model", str(error)
        data = getattr(self, "data", None)
        if isinstance(data, Data):
            for name in filter(None, (data.file, data.matched)):
                if not (base / Path(name).expanduser()).is_file():
                    yield "data", f"{name}: no such file in {base}"

    def plan(self, at: Planner) -> Iterable[Task]:
        """Say what is to be computed, without loading a model: one `at.task(...)` for every result."""
        raise NotImplementedError

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Compute one unit. The same unit must give the same table wherever and whenever it is computed.

        Args:
            unit: `unit.part` is the part, `unit.task` the task, `unit.seed` a seed of its own.
            model: The loaded bridge; None for a task without a model.
            inputs: The prompts and the earlier results that the task asked for.
        """
        raise NotImplementedError

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Put the parts together.

        Args:
            task: What was planned.
            found: One entry per part, in order; None where the unit failed.
            inputs: As for `run`.
            folder: A fresh folder for files of the result; it is published when this returns.

        Returns:
            Rows for the job's table `<table>.parquet`, the same columns from every task; None for no rows.
        """
        raise NotImplementedError


class ModelRef(NamedTuple):
    """A model as units know it: what `load` takes, the name to show, the digest of its weights, and the dtype."""

    load: str
    name: str
    digest: str
    dtype: str = "float32"


@dataclass(frozen=True)
class Found:
    """What a unit gave.

    Attributes:
        table: A long table: plain columns, no index.
        meta: Whatever else belongs to it and has a JSON form.
    """

    table: pd.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """What a unit needs beside the model. It can be sent to another machine.

    Attributes:
        prompts: Prompt sets by digest: those of `task.data`.
        results: What the units of each needed task gave, by the task's digest.
        progress: Called with (done, total) by computations that take long; None where nobody looks.
    """

    prompts: Mapping[str, PromptSet] = field(default_factory=dict)
    results: Mapping[str, Sequence[Found]] = field(default_factory=dict)
    progress: Callable[[int, int], None] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Task:
    """One result that is asked for.

    Attributes:
        step: The step it came from, with every setting.
        title: A short name for people, safe as the name of a folder.
        model: None where no model is needed.
        params: All that determines the result beside the model, the seed, the kind and its version; JSON values.
        parts: One mapping per unit, JSON values. The result must not depend on where the borders between parts lie.
        seed: Of the task.
        data: Digests of the prompt sets that are read; they belong into `params` too.
        needs: Tasks whose units must be done before.
        costs: Of each part, tokens × forward passes; None where unknown.
    """

    step: Step
    title: str
    model: ModelRef | None
    params: Mapping[str, Any]
    parts: tuple[Mapping[str, Any], ...]
    seed: int = 0
    data: tuple[str, ...] = ()
    needs: tuple[Task, ...] = ()
    costs: tuple[float | None, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Names the result: equal for equal questions, wherever the borders between the parts lie."""
        return digest_of(
            {
                "format": _FORMAT,
                "kind": self.step.kind,
                "version": self.step.version,
                "model": None if self.model is None else [self.model.digest, self.model.dtype],
                "params": self.params,
                "seed": self.seed,
                "needs": [task.digest for task in self.needs],
            }
        )

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The parts as units, in order."""
        return tuple(
            Unit(self, index, digest_of({"task": self.digest, "part": part}))
            for index, part in enumerate(self.parts)
        )


class Unit(NamedTuple):
    """The smallest thing that is computed: one part of a task.

    Attributes:
        task: The task.
        index: Which of its parts.
        digest: Names the unit and its file.
    """

    task: Task
    index: int
    digest: str

    @property
    def part(self) -> Mapping[str, Any]:
        """The part, as `plan` wrote it."""
        return self.task.parts[self.index]

    @property
    def cost(self) -> float | None:
        """Tokens × forward passes, None where unknown."""
        return self.task.costs[self.index] if self.task.costs else None

    @property
    def seed(self) -> int:
        """A seed of its own, from the task's and the part."""
        return derived_seed(self.task.seed, self.digest)

    @property
    def title(self) -> str:
        """What the unit is, for people."""
        own = " ".join(f"{key}={value}" for key, value in self.part.items())
        model = "" if self.task.model is None else f" of {self.task.model.name}"
        return f"{self.task.step.kind} {self.task.title}{model}{f' ({own})' if own else ''}"


def digest_of(value: object) -> str:
    """Return 16 hex digits that name a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derived_seed(seed: int, *where: object) -> int:
    """Return a seed for one place of a computation, unrelated to those of other places and of other seeds."""
    text = json.dumps([seed, *where])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def kind(name: str) -> Callable[[S], S]:
    """Register a class as the kind of step that job files call `name`.

    Raises:
        ValueError: The name is taken, or the class does not hold it in its field `kind`.
    """

    def register(cls: S) -> S:
        if name in _KINDS:
            raise ValueError(f"kind {name!r} is already registered by {_KINDS[name].__module__}")
        if cls.model_fields["kind"].annotation != Literal[name]:  # what tells the kinds apart in a job file
            raise ValueError(f"{cls.__name__} needs the field `kind: Literal[{name!r}] = {name!r}`")
        _KINDS[name] = cls
        return cls

    return register


def kinds() -> dict[str, type[Step]]:
    """Return all kinds by name, in alphabetical order."""
    room = importlib.import_module(".kinds", __package__)
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
    return dict(sorted(_KINDS.items()))


def revive(record: Mapping[str, Any]) -> Step:
    """Make a step from the JSON form that `model_dump` gave."""
    known = kinds()
    if record.get("kind") not in known:
        raise BadOption(f"{record.get('kind')!r} is no kind of step here; known are {', '.join(known)}.")
    return known[str(record["kind"])].model_validate(record)
