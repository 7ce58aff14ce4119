"""Run a job: plan it, compute what is not there, put it together, and say what is missing."""

from __future__ import annotations

import importlib.util
import re
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..analysis.run import versions
from ..errors import BadOption
from .assemble import Assembled, assemble
from .claims import SESSION
from .engines import get_engine
from .plan import Plan, make_plan
from .spec import Job
from .store import JobStore
from .work import Work

Display = Callable[[JobStore], Any]  # makes a context manager that shows progress while it is open

_TOGETHER = f"{SESSION}together"  # claimed by the process that puts results together
_LOOK = 0.2  # seconds between two looks at that claim
_ROUNDS = 3  # times that damaged units are computed again before a disk is given up


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        folder: The job's folder.
        state: `done`; `incomplete`, where units failed; `waiting`, where units are left to other processes.
        planned: Number of units.
        done: Number of units that are there.
        missing: One entry per unit that is not: its title, its last error, and on which prompt, where known.
        refused: Results that could not be put together although their units are there.
    """

    folder: Path
    state: str
    planned: int
    done: int
    missing: tuple[dict[str, Any], ...]
    refused: tuple[dict[str, Any], ...] = ()

    @property
    def words(self) -> str:
        """The outcome in one sentence."""
        if self.state == "done":
            return f"All {self.planned} units are done."
        tail = {"waiting": "left to other processes", "incomplete": "missing"}[self.state]
        return f"{self.done} of {self.planned} units are done, {self.planned - self.done} are {tail}."


def plan_job(
    job: Job, folder: str | Path | None = None, *, fetch: bool = True, trust_remote_code: bool = False
) -> Plan:
    """Say what a job computes; no model is loaded.

    Args:
        job: As `read_job` gives it.
        folder: The job's folder, if what planning finds out shall be kept there.
        fetch: Whether a model is fetched from the hub where it is not here; else its steps stand in `unknown`.
        trust_remote_code: As for `load`.
    """
    store = JobStore(folder) if folder is not None else None
    return make_plan(job, store, fetch=fetch, trust_remote_code=trust_remote_code)


def run_job(
    job: Job | str | Path,
    out: str | Path = "runs",
    *,
    engine: str = "local",
    workers: int = 1,
    shard: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    command: str = "",
    display: Display | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a job, or go on with it: what is done is not computed again.

    Args:
        job: A job, or the folder of one.
        out: The folder that holds the job's folder.
        engine: `local` or `ray`.
        workers: Number of processes (`local`) or actors (`ray`).
        shard: `i/n`, to compute every n-th unit only, from the i-th of 1 to n: for a job array whose processes share
            the folder.
        device: Such as `cpu`; None for a GPU if there is one.
        trust_remote_code: As for `load`, for all models of the job. It is not kept: whoever goes on says it again.
        command: The command line, for the manifest.
        display: Shows progress, see `progress.display`.
        stopping: Says whether to stop after the current unit.

    Raises:
        CannotWrite: Results cannot be kept. What was done before is there; run again to resume.
        HeadscopeError: The job is wrong, or a model or a file of it.
    """
    compute = get_engine(engine)
    mine = shard_of(shard)
    begun = time.monotonic()
    if isinstance(job, Job):
        plan = make_plan(job, JobStore(Path(out) / job.folder_name), trust_remote_code=trust_remote_code)
        store = JobStore.create(out, job, started=_now(), command=command)
    else:
        store = JobStore.open(job)
        job = store.job
        plan = make_plan(job, store, trust_remote_code=trust_remote_code)
    before = float(store.manifest.get("seconds") or 0.0)
    store.update(job=job.record(), state="running", versions=versions())
    store.planned = [unit.digest for unit in plan.units]
    reported = _outcome(store, plan, None)
    work = _work(store, plan, mine, stopping)
    session = f"{SESSION}{work.session}"
    work.claims.take(session)
    try:
        with display(store) if display is not None else nullcontext():
            for _ in range(_ROUNDS):
                compute(
                    work,
                    workers=workers,
                    device=device,
                    devices=job.run.devices,
                    trust_remote_code=trust_remote_code,
                )
                work.claims.take(session)  # the engine has given all claims back
                found = _assembled(work) if _settled(work) else None
                if found is None or not found.damaged:
                    break
                work.close()
                work = _work(store, plan, mine, stopping)
            work.claims.tidy()
            outcome = _outcome(store, plan, found)
            seconds = round(before + time.monotonic() - begun, 1)
            store.update(
                state="stopped" if outcome.state == "waiting" and not mine else outcome.state,
                seconds=seconds,
                units={
                    "planned": outcome.planned,
                    "done": outcome.done,
                    "missing": len(outcome.missing),
                },
                missing=outcome.missing[:1000],
                **({} if found is None else {"results": found.results, "refused": found.refused}),
            )
            if found is not None and (
                reported.done != outcome.done
                or reported.missing != outcome.missing
                or not (store.folder / "report.html").exists()
            ):
                _report(store.folder)
    except KeyboardInterrupt:
        store.update(state="stopped", seconds=round(before + time.monotonic() - begun, 1))
        raise
    finally:
        work.close()
    return outcome


def shard_of(text: str) -> Callable[[int], bool] | None:
    """Read `i/n`.

    >>> [index for index in range(6) if shard_of("2/3")(index)]
    [1, 4]

    Raises:
        BadOption: It is not of this form.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise BadOption(f"--shard {text}: expected i/n with i from 1 to n, such as 3/16.")
    return lambda index: index % count == number - 1


def _work(store: JobStore, plan: Plan, mine: Any, stopping: Callable[[], bool]) -> Work:
    settings = plan.job.run
    return Work(
        store,
        plan,
        session=uuid.uuid4().hex,
        retries=settings.retries,
        lease=settings.lease,
        mine=mine,
        stopping=stopping,
    )


def _assembled(work: Work) -> Assembled:
    """Put the results together, one process at a time; the next one finds them made."""
    while not work.claims.take(_TOGETHER):
        time.sleep(_LOOK)
    try:
        return assemble(work)
    finally:
        work.claims.release(_TOGETHER)


def _settled(work: Work) -> bool:
    """Whether nothing more will come: every unit is done, has failed, or needs one that has."""
    done, failed = work.store.done(), {str(note["unit"]) for note in work.store.failures()}
    lost: set[str] = set()
    for task in work.plan.tasks:
        blocked = any(one.digest in lost for one in task.needs)
        here = [unit.digest for unit in task.units if unit.digest not in done]
        if here and not blocked and any(unit not in failed for unit in here):
            return False
        if here:
            lost.add(task.digest)
    return True


def _outcome(store: JobStore, plan: Plan, found: Assembled | None) -> Outcome:
    done = store.done()
    notes = {str(note["unit"]): note for note in store.failures()}
    missing = []
    for unit in plan.units:
        if unit.digest not in done:
            note = notes.get(unit.digest, {})
            needs = [
                task.title for task in unit.task.needs if any(one.digest not in done for one in task.units)
            ]
            error = note.get("error") or (f"needs {', '.join(needs)}" if needs else "not computed yet")
            missing.append(
                {
                    "unit": unit.digest,
                    "title": unit.title,
                    "error": error,
                    "prompt": note.get("prompt", ""),
                    "tries": note.get("tries", 0),
                }
            )
    refused = () if found is None else found.refused
    state = "waiting" if found is None else "incomplete" if missing or refused else "done"
    return Outcome(
        store.folder, state, len(plan.units), len(plan.units) - len(missing), tuple(missing), refused
    )


def _report(folder: Path) -> None:
    """Write the job's page; a job whose page cannot be drawn is done all the same."""
    if importlib.util.find_spec(f"{__package__}.reports") is None:
        return
    module = importlib.import_module(f"{__package__}.reports")
    write = getattr(module, "write_job_report", None)
    if write is not None:
        write(folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
