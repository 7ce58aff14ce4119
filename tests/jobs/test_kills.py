"""Jobs that are killed, run twice at the same time, on a full disk, and on a damaged one."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from simulated_jobs import computed, fork, simulated, wait

from headscope.analysis.files import read_json, read_table
from headscope.analysis.run import load_run
from headscope.errors import CannotWrite
from headscope.jobs.events import read_events
from headscope.jobs.run import run_job
from headscope.jobs.spec import job_of
from headscope.jobs.store import DamagedUnit, JobStore

KILLS = 50


def tables(folder: Path) -> dict[str, bytes]:
    """Every table of a job that people read, as bytes."""
    files = [
        *folder.glob("*.parquet"),
        *folder.glob("results/*/*.parquet"),
        *folder.glob("results/*/*.jsonl"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def mixed(log: Path) -> Any:
    """Simulated units beside units of a real model."""
    steps = [
        {"kind": "simulated", "units": 150, "seconds": 0.004, "log": str(log)},
        {
            "kind": "score",
            "method": "previous-token",
            "model": "organism/planted",
            "data": {"name": "repeated", "n": 60},
        },
        {"kind": "verify", "k": [1], "draws": 1, "data": {"name": "repeated", "n": 4}},
    ]
    return job_of({"name": "mixed", "steps": steps, "run": {"shards": 30, "batch": 2}})


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the job's page, which takes longer than these jobs."""
    monkeypatch.setattr("headscope.jobs.run._report", lambda folder: None)


@pytest.fixture
def loaded(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every child the loading of the model."""
    monkeypatch.setattr("headscope.hooks.load.load", lambda *args, **kwargs: planted)
    monkeypatch.setattr("headscope.hooks.outline.outline", lambda *args, **kwargs: planted)


def units_done(folder: Path) -> int:
    return len(list((folder / "units").glob("*.parquet")))


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_no_byte_and_repeat_only_what_was_in_flight(
    tmp_path: Path, loaded: None
):
    log = tmp_path / "log"
    job, drawn = mixed(log), random.Random(0)
    assert wait(fork(lambda: run_job(job, tmp_path / "whole"))) == 0
    whole = tables(tmp_path / "whole" / job.folder_name)
    n_units = len(computed(log))
    log.unlink()
    folder = tmp_path / "killed" / job.folder_name
    for _ in range(KILLS):
        pid, target = (
            fork(lambda: run_job(job, tmp_path / "killed")),
            units_done(folder) + drawn.randint(0, 5),
        )
        while units_done(folder) < target:
            time.sleep(0.001)
        time.sleep(drawn.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL, "the run ended before it was killed"
    assert units_done(folder) < 181
    assert wait(fork(lambda: run_job(job, tmp_path / "killed"))) == 0
    assert tables(folder) == whole
    assert {"scores.parquet", "simulated.parquet", "verify.parquet"} <= set(whole)
    assert load_run(next(folder.glob("results/previous-token-planted-verified-*"))).verification is not None
    begun = Counter(computed(log))
    assert len(begun) == n_units == 150
    assert sum(begun.values()) - n_units <= KILLS
    done = [event["unit"] for event in read_events(folder) if event["what"] == "done"]
    assert max(Counter(done).values()) == 1, "a unit that was done was computed again"
    assert not list(folder.glob("claims/*.json"))


@pytest.mark.slow
def test_kills_while_results_are_put_together_change_no_byte(tmp_path: Path, loaded: None):
    job, drawn = mixed(tmp_path / "log"), random.Random(1)
    assert wait(fork(lambda: run_job(job, tmp_path))) == 0
    folder = tmp_path / job.folder_name
    whole = tables(folder)
    for _ in range(10):
        for path in [*folder.glob("rows/*"), *folder.glob("*.parquet")]:
            path.unlink()
        pid = fork(lambda: run_job(job, tmp_path))
        while not list(folder.glob("rows/*.parquet")) and not list(folder.glob("results/.*.tmp")):
            time.sleep(0.001)
        time.sleep(drawn.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    assert wait(fork(lambda: run_job(job, tmp_path))) == 0
    assert tables(folder) == whole


def test_two_workers_on_the_same_folder_compute_no_unit_twice(tmp_path: Path):
    log = tmp_path / "log"
    job = simulated(units=60, seconds=0.01, log=log)
    pids = [fork(lambda: run_job(job, tmp_path)) for _ in range(2)]
    assert [wait(pid) for pid in pids] == [0, 0]
    begun = [line.split() for line in log.read_text().splitlines()]
    assert sorted(Counter(unit for unit, _ in begun).values()) == [1] * 60
    assert {int(pid) for _, pid in begun} == set(pids), "one process did all the work"
    assert len(read_table(tmp_path / job.folder_name / "simulated.parquet")) == 300
    assert read_json(tmp_path / job.folder_name / "manifest.json")["state"] == "done"


def test_processes_that_end_together_put_results_together_one_after_the_other(tmp_path: Path):
    job = simulated(units=20)
    folder = run_job(job, tmp_path).folder
    whole = tables(folder)
    for _ in range(5):
        for path in (folder / "rows").iterdir():
            path.unlink()
        pids = [fork(lambda: run_job(job, tmp_path)) for _ in range(4)]
        assert [wait(pid) for pid in pids] == [0] * 4
        assert tables(folder) == whole
    assert not list(folder.glob("claims/*"))


def test_a_worker_takes_over_what_a_killed_one_held(tmp_path: Path):
    log = tmp_path / "log"
    job = simulated(units=3, seconds=0.2, log=log)
    pid = fork(lambda: run_job(job, tmp_path))
    while not computed(log):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    (claim,) = [
        path for path in (tmp_path / job.folder_name / "claims").glob("*.json") if "session" not in path.name
    ]
    assert claim.stem == computed(log)[0]
    begun = time.monotonic()
    assert run_job(job, tmp_path).state == "done"  # the dead child has not even been waited for
    assert time.monotonic() - begun < 10 < job.run.lease
    wait(pid)
    assert Counter(computed(log))[claim.stem] == 2


def test_a_disk_that_fills_up_ends_the_run_with_one_error_and_leaves_it_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = simulated(units=30)
    real, room = os.fsync, [40]

    def full(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"No space left on device\. Free some space"):
        run_job(job, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / job.folder_name
    n_done = len(JobStore(folder).done())
    assert 0 < n_done < 30
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert run_job(job, tmp_path).done == 30
    done = [event["unit"] for event in read_events(folder) if event["what"] == "done"]
    assert len(done) == len(set(done)) == 30


def test_a_file_that_may_not_grow_is_an_error_and_no_torn_unit(tmp_path: Path):
    job = simulated(units=4, rows=20_000)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(CannotWrite, match="File too large"):
            run_job(job, tmp_path)

    assert wait(fork(limited)) == 0
    assert not list((tmp_path / job.folder_name).rglob("*.parquet"))
    assert run_job(job, tmp_path).state == "done"


def test_a_tiny_disk_really_filled(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        job = simulated(units=200, rows=500)
        with pytest.raises(CannotWrite, match="No space left on device"):
            run_job(job, disk)
        store = JobStore(disk / job.folder_name)
        assert 0 < len(store.done()) < 200
        for unit in store.done():
            store.read(unit)  # none is torn
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert run_job(job, disk).state == "done"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_damaged_unit_is_found_set_aside_and_computed_again(tmp_path: Path):
    log = tmp_path / "log"
    job = simulated(units=8, rows=200, log=log)
    folder = run_job(job, tmp_path).folder
    before = (folder / "simulated.parquet").read_bytes()
    store = JobStore(folder)
    broken, cut = sorted(store.done())[:2]
    data = bytearray(store.path(broken).read_bytes())
    data[len(data) // 3] ^= 1
    store.path(broken).write_bytes(bytes(data))
    store.path(cut).write_bytes(store.path(cut).read_bytes()[:-20])
    with pytest.raises(DamagedUnit, match=r"damaged \(.*\)\. Run the job again"):
        store.read(broken)
    (folder / "simulated.parquet").unlink()
    for rows in (folder / "rows").iterdir():
        rows.unlink()
    log.unlink()
    assert run_job(job, tmp_path).state == "done"
    assert sorted(computed(log)) == sorted([broken, cut])
    assert (folder / "simulated.parquet").read_bytes() == before
    assert {path.stem for path in folder.glob("units/*.damaged")} == {broken, cut}
    assert sum(event["what"] == "damaged" for event in read_events(folder)) == 2


def test_every_flipped_bit_of_a_unit_is_harmless_or_found(tmp_path: Path):
    folder = run_job(simulated(units=1), tmp_path).folder
    store = JobStore(folder)
    (unit,) = store.done()
    whole, right = store.path(unit).read_bytes(), store.read(unit)
    found = 0
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        store.path(unit).write_bytes(bytes(data))
        try:
            read = store.read(unit)
        except DamagedUnit:
            found += 1
        else:
            assert read.table.equals(right.table) and dict(read.meta) == dict(right.meta)
    assert found > len(whole) / 7 / 4
