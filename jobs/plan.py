"""All that a job computes: its tasks and their units, found out without loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import HubUnavailable
from .planner import Planner
from .spec import Job
from .steps import Step, Task, Unit
from .store import JobStore


@dataclass(frozen=True)
class Plan:
    """The tasks of a job, each once, in the order in which they are computed.

    Attributes:
        job: The job.
        tasks: Its tasks: those of one model stand together, and what a task needs stands before it.
        names: The names of the prompt sets, by digest.
        unknown: Steps whose model is not here, with the reason, where the plan was asked to pass over them.
    """

    job: Job
    tasks: tuple[Task, ...]
    names: Mapping[str, str]
    unknown: tuple[tuple[Step, str], ...] = ()

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of all tasks, in order."""
        return tuple(unit for task in self.tasks for unit in task.units)

    @property
    def cost(self) -> tuple[float, int]:
        """Tokens × forward passes over all units where it is known, and the number of units where it is not."""
        known = [unit.cost for unit in self.units if unit.cost is not None]
        return sum(known), len(self.units) - len(known)


def make_plan(
    job: Job, store: JobStore | None = None, *, fetch: bool = True, trust_remote_code: bool = False
) -> Plan:
    """Plan a job.

    Args:
        job: The job.
        store: Its folder, where prompts are kept and what planning finds out is remembered; None keeps nothing.
        fetch: Whether a model that is not in the local cache is fetched from the hub; else its steps are `unknown`.
        trust_remote_code: As for `load`.

    Raises:
        HeadscopeError: A model, a prompt file or a name is wrong.
    """
    from ..hooks.load import no_network

    planner = Planner(
        Path(job.base),
        shards=job.run.shards,
        batch=job.run.batch,
        known=store.known if store else None,
        kept=store.prompts if store else None,
        trust_remote_code=trust_remote_code,
    )
    tasks: dict[str, Task] = {}
    unknown: list[tuple[Step, str]] = []
    for cell in job.cells:
        planner.tasks = {}
        for step in cell.steps:
            here = planner.tasks.setdefault(step.name or step.kind, [])
            try:
                with nullcontext() if fetch else no_network():
                    here += [tasks.setdefault(task.digest, task) for task in step.plan(planner)]
            except HubUnavailable as error:
                if fetch:
                    raise
                unknown.append((step, str(error)))
    if store is not None:
        store.keep_prompts(planner.prompt_sets)
        store.known = _plain(planner.known)
    names = {digest: prompts.name for digest, prompts in planner.prompt_sets.items()}
    return Plan(job, tuple(_by_model(list(tasks.values()))), names, tuple(unknown))


def _by_model(tasks: list[Task]) -> list[Task]:
    """Keep the tasks of a model together, so that it is loaded once; what is needed stays before what needs it."""
    order = {ref: place for place, ref in enumerate(dict.fromkeys(task.model for task in tasks))}
    depth: dict[str, int] = {}
    for task in tasks:
        depth[task.digest] = 1 + max((depth[one.digest] for one in task.needs), default=0)
    crossing = any(one.model != task.model for task in tasks for one in task.needs)
    return sorted(
        tasks,
        key=lambda task: (
            (depth[task.digest], order[task.model]) if crossing else (order[task.model], depth[task.digest])
        ),
    )


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(part) if isinstance(part, Mapping) else part for key, part in value.items()}
