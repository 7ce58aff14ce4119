"""Measure what a job costs beyond its computation: `python benchmarks/jobs.py`.

Printed: units a second for 1 and 2 processes (and Ray with 2 actors, where it is installed) on the shipped model, the
overhead per unit beyond the computation, and the peak memory over many units that cost nothing. `--only soak` runs the
command itself over as many real units and follows the memory of its processes; it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import psutil

from headscope.jobs.events import read_events
from headscope.jobs.planner import Planner
from headscope.jobs.run import run_job
from headscope.jobs.spec import job_of
from headscope.jobs.steps import Found, Inputs, Step, Task, Unit, kind

_BAR = 0.05  # of a unit that takes one second


@kind("cheap")
class Cheap(Step):
    """A unit that costs nothing, and gives what a score of 16 prompts of a 12-layer model gives."""

    table: ClassVar[str] = "cheap"

    kind: Literal["cheap"] = "cheap"
    units: int = 10
    rows: int = 2304

    def problems(self, before: Sequence[str], base: Path) -> Iterable[tuple[str, str]]:
        """Nothing can be wrong; there is no model."""
        return ()

    def plan(self, at: Planner) -> Iterable[Task]:
        """One part a unit."""
        parts = [{"number": number} for number in range(self.units)]
        yield at.task(self, "cheap", params={"units": self.units, "rows": self.rows}, parts=parts)

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Give a table."""
        _PEAK.append(_memory())
        return Found(pd.DataFrame({"score": range(self.rows)}, dtype="float64"))

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Keep one number a unit."""
        return pd.DataFrame({"score": [one.table["score"].sum() for one in found if one is not None]})


_PEAK: list[float] = []


def main() -> int:
    """Run the measurements and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=10_000, help="units for the memory and the soak")
    parser.add_argument("--only", choices=["memory", "overhead", "rate", "soak"])
    parser.add_argument("--shards", type=int, default=64, help="units on the shipped model")
    given = parser.parse_args()
    import headscope.jobs.run as running

    running._report = lambda folder: None  # the page is no part of what is measured
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        if given.only in (None, "overhead"):
            failed |= overhead(Path(folder))
        if given.only in (None, "memory"):
            failed |= memory(Path(folder), given.units)
        if given.only in (None, "rate"):
            rate(Path(folder), given.shards)
        if given.only == "soak":
            failed |= soak(Path(folder), given.units)
    return int(failed)


def overhead(folder: Path) -> bool:
    """Time what stands around a unit: claim, events, file, flush to the disk."""
    n = 300
    begun, cpu = time.perf_counter(), time.process_time()
    found = _run(folder, [{"kind": "cheap", "units": n}])
    whole, cpu = (time.perf_counter() - begun) / n, (time.process_time() - cpu) / n
    done = [event["at"] for event in read_events(found) if event["what"] == "done"]
    per_unit = (done[-1] - done[0]) / (n - 1)
    print(
        f"overhead per unit: {1000 * per_unit:.1f} ms, {100 * per_unit:.2f} % of a one-second unit (bar 5 %)"
    )
    print(
        f"  with planning and putting together: {1000 * whole:.1f} ms, of which {1000 * cpu:.1f} ms of one core"
    )
    return per_unit > _BAR


def memory(folder: Path, n: int) -> bool:
    """Follow the memory of a process over many units; the disk is not waited for, which takes no memory."""
    _PEAK.clear()
    real, os.fsync = os.fsync, lambda handle: None
    begun = time.perf_counter()
    _run(folder, [{"kind": "cheap", "units": n, "rows": 144}])
    seconds = time.perf_counter() - begun
    os.fsync = real
    early, late = max(_PEAK[: max(1, n // 10)]), max(_PEAK)
    print(
        f"memory over {n:,} units: {early:.0f} MB over the first tenth, {late:.0f} MB over all, "
        f"{_memory():.0f} MB after putting together; {n / seconds:.0f} units a second"
    )
    return late > 1.05 * early + 10


def rate(folder: Path, shards: int) -> None:
    """Count units a second on the shipped model, the loading of processes and of models left out."""
    steps = [
        {
            "kind": "score",
            "method": "previous-token",
            "model": "organism/text",
            "data": {"name": "repeated", "n": 1024},
        }
    ]
    engines: list[tuple[str, int]] = [("local", 1), ("local", 2)]
    try:
        import ray  # noqa: F401

        engines.append(("ray", 2))
    except ImportError:
        print("Ray is not installed: left out")
    for engine, workers in engines:
        place = folder / f"{engine}-{workers}"
        found = _run(place, steps, shards=shards, engine=engine, workers=workers)
        done = sorted(event["at"] for event in read_events(found) if event["what"] == "done")
        warm = done[workers:]  # the first unit of each process waits for its model
        print(
            f"{engine}, {workers} process{'es' if workers > 1 else ''}: "
            f"{(len(warm) - 1) / (warm[-1] - warm[0]):.2f} units a second ({len(done)} units of "
            f"{1024 // shards} prompts)"
        )


def soak(folder: Path, n: int) -> bool:
    """Run `headscope run` over n units of two prompts in two processes, and follow what they hold of memory."""
    data = {"name": "repeated", "n": 2 * n}
    step = {"kind": "score", "method": "induction", "model": "organism/planted", "data": data}
    (folder / "job.json").write_text(
        json.dumps({"name": "soak", "steps": [step], "run": {"shards": n, "batch": 2}})
    )
    call = [sys.executable, "-m", "headscope", "run", str(folder / "job.json"), "--out", str(folder / "runs")]
    process = psutil.Popen([*call, "--workers", "2", "--quiet"])
    held: list[tuple[int, float]] = []
    while process.poll() is None:
        time.sleep(2)
        done = sum(1 for _ in folder.glob("runs/*/units/**/*.parquet"))
        with suppress(psutil.Error):
            family = [process, *process.children(recursive=True)]
            held.append((done, sum(one.memory_info().rss for one in family) / 1e6))
    for tenth in range(1, 11):
        reached = [mb for done, mb in held if n * (tenth - 1) < 10 * done <= n * tenth]
        print(
            f"{n * tenth // 10:6,} units: at most {max(reached, default=float('nan')):.0f} MB in all processes"
        )
    early = max(mb for done, mb in held if 10 * done <= 2 * n)
    late = max(mb for done, mb in held if done < n)
    print(f"exit status {process.returncode}; {held[-1][0]:,} units in {2 * len(held)} s or a little more")
    return process.returncode != 0 or late > 1.1 * early


def _run(folder: Path, steps: list[dict[str, Any]], *, shards: int = 1, **settings: Any) -> Path:
    job = job_of({"name": "benchmark", "steps": steps, "run": {"shards": shards}})
    shutil.rmtree(folder / job.folder_name, ignore_errors=True)
    outcome = run_job(job, folder, **settings)
    assert outcome.state == "done", outcome
    return outcome.folder


def _memory() -> float:
    """Resident memory of this process, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
