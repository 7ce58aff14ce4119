"""How far a job is, read from its folder: what a terminal shows and the app polls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .claims import Claims
from .events import Tail
from .store import JobStore, units_in

_WINDOW = 120.0  # seconds over which the rate is taken


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        state: `running`, `done`, `incomplete` (units failed), or `stopped`; `running` with `alive` false is a job
            whose processes are gone.
        planned: Units of the plan; 0 until it is made.
        done: Units whose file is there.
        failed: Units that failed and are not done since.
        running: Units that a living process computes now.
        rate: Units a second over the last two minutes; 0 where none was finished then.
        seconds_left: At that rate; None where there is none.
        alive: Whether a process is at work.
    """

    state: str
    planned: int
    done: int
    failed: int
    running: int
    rate: float
    seconds_left: float | None
    alive: bool


class Watch:
    """Looks at a job again and again, and reads only what is new.

    Args:
        folder: The job's folder.
        since: Units that were finished before this time do not count for the rate.
    """

    def __init__(self, folder: str | Path, since: float = 0.0) -> None:
        self._since = since
        self.store = JobStore(folder)
        self._claims = Claims(folder)
        self._tail = Tail(folder)
        self._finished: list[float] = []
        self._planned: tuple[int, frozenset[str]] = (0, frozenset())
        self.last: list[dict[str, Any]] = []

    def look(self) -> Status:
        """Return the status now; `last` holds the events since the look before."""
        planned = self._units()
        done = self.store.done() & planned
        failed = {str(note["unit"]) for note in self.store.failures()} & planned
        self.last = self._tail.read()
        now = time.time()
        self._finished += [float(event["at"]) for event in self.last if event["what"] == "done"]
        self._finished = [at for at in self._finished if at > max(now - _WINDOW, self._since)]
        begun = max(now - _WINDOW, self._since or self._finished[0] if self._finished else now)
        span = max(1.0, now - begun)
        rate = len(self._finished) / span
        left = len(planned) - len(done) - len(failed)
        living = [claim for claim in self._claims.units() if self._claims.alive(claim)]
        return Status(
            state=str(self.store.manifest.get("state", "")),
            planned=len(planned),
            done=len(done),
            failed=len(failed),
            running=sum(claim in planned for claim in living),
            rate=rate,
            seconds_left=left / rate if rate else None,
            alive=bool(living),
        )

    def _units(self) -> frozenset[str]:
        path = self.store.folder / "units.json"
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return frozenset()
        if changed != self._planned[0]:
            self._planned = (changed, frozenset(units_in(path)))
        return self._planned[1]


def status(folder: str | Path) -> Status:
    """Look at a job once; `Watch` is cheaper for looking again and again.

    Raises:
        BadRun: The folder is no job.
    """
    return Watch(JobStore.open(folder).folder).look()
