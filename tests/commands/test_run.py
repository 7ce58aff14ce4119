"""`headscope run` and `headscope jobs`, as they are typed; and the processes that they start."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from simulated_jobs import computed, fork, simulated, wait
from typer.testing import CliRunner

from headscope.analysis.files import read_json, read_table
from headscope.cli import app
from headscope.jobs.events import read_events
from headscope.jobs.local import environment
from headscope.jobs.run import run_job, shard_of
from headscope.jobs.spec import read_job
from headscope.jobs.store import JobStore
from headscope.jobs.work import Work
from headscope.jobs.worker import Models, loop

SIMULATED = """
name: numbers
steps:
  - kind: simulated
    units: {units}
    seconds: {seconds}
    fails: {fails}
    log: {log}
"""
REAL = """
name: real
model: organism/planted
steps:
  - kind: score
    data: {name: repeated, n: 8}
    sweep: {method: [previous-token, duplicate-token]}
run: {shards: 4, batch: 2}
"""


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the job's page, which takes longer than these jobs."""
    monkeypatch.setattr("headscope.jobs.run._report", lambda folder: None)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def job_file(folder: Path, *, units: int = 4, seconds: float = 0, fails: str = "[]") -> Path:
    path = folder / "job.yaml"
    path.write_text(SIMULATED.format(units=units, seconds=seconds, fails=fails, log=folder / "log"))
    return path


def test_a_job_runs_resumes_from_its_file_or_folder_and_says_where_it_is(tmp_path: Path):
    path = job_file(tmp_path)
    first = invoke("run", path, "--out", tmp_path, "--json", "--quiet")
    assert first.exit_code == 0, first.output
    record = json.loads(first.stdout)
    assert (record["state"], record["planned"], record["done"]) == ("done", 4, 4)
    assert record["tables"] == ["simulated.parquet"]
    for again in (path, record["folder"]):
        done = invoke("run", again, "--out", tmp_path)
        assert done.exit_code == 0 and "All 4 units are done." in done.stdout
    assert len(computed(tmp_path / "log")) == 4
    stands = invoke("jobs", "status", tmp_path)
    assert re.search(r"numbers-\w+: done; 4 of 4 units done", stands.stdout), stands.output


def test_a_failed_unit_gives_exit_status_1_and_is_listed(tmp_path: Path):
    done = invoke("run", job_file(tmp_path, fails="[2]"), "--out", tmp_path)
    assert done.exit_code == 1
    assert "3 of 4 units are done, 1 are missing." in done.stdout
    assert (
        "missing: simulated numbers (number=2): BadPrompts: this one is wrong (prompt 2: 'x')" in done.stdout
    )


def test_a_wrong_job_gives_exit_status_2_and_nothing_is_made(tmp_path: Path):
    path = job_file(tmp_path)
    path.write_text(path.read_text() + "    unit: 3\n")
    done = invoke("run", path, "--out", tmp_path / "runs")
    assert done.exit_code == 2 and "job.yaml:9: steps[0].unit: there is no such setting" in done.stderr
    assert not (tmp_path / "runs").exists()
    for wrong in (["--shard", "5/4"], ["--engine", "slurm"], ["--set", "a"]):
        done = invoke("run", job_file(tmp_path), "--out", tmp_path / "runs", *wrong)
        assert done.exit_code == 2 and not (tmp_path / "runs").exists(), done.output
    done = invoke("run", tmp_path)
    assert done.exit_code == 2 and "Error" not in done.stderr.split(":")[0]


def test_a_dry_run_prints_units_and_cost_and_what_is_done_and_makes_nothing(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(REAL)
    plan = invoke("run", path, "--dry-run", "--json", "--out", tmp_path / "runs")
    assert plan.exit_code == 0, plan.output
    record = json.loads(plan.stdout)["plan"]
    assert [task["units"] for task in record["tasks"]] == [4, 4] and len(record["units"]) == 8
    assert record["cost"] == 2 * 8 * 64 and record["cost_unit"] == "tokens × forward passes"
    assert not (tmp_path / "runs").exists()
    job = read_job(path)
    store = JobStore.create(tmp_path / "runs", job)
    (tmp_path / "runs" / job.folder_name / "units").mkdir()
    store.path(record["units"][0]["unit"]).touch()
    text = invoke("run", path, "--dry-run", "--out", tmp_path / "runs").stdout
    assert "score previous-token-planted of organism/planted: 4 units, 1 done, cost 512" in text
    assert "8 units in 2 results, 1 done, 7 to compute." in text


def test_a_dry_run_asks_the_network_for_nothing(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(REAL)
    text = invoke("run", path, "--dry-run", "--set", "model=somebody/not-here", "--out", tmp_path)
    assert text.exit_code == 0, text.output
    assert "score score of somebody/not-here: model not here, units unknown" in text.stdout


def test_shards_of_a_job_array_share_the_units_and_the_last_one_puts_them_together(tmp_path: Path):
    path = job_file(tmp_path, units=7)
    for number in (1, 2):
        done = invoke("run", path, "--out", tmp_path, "--shard", f"{number}/3", "--quiet")
        assert done.exit_code == 0 and "left to other processes" in done.stdout
        assert not list(tmp_path.glob("numbers-*/simulated.parquet"))
    done = invoke("run", path, "--out", tmp_path, "--shard", "3/3", "--quiet")
    assert done.exit_code == 0 and "All 7 units are done." in done.stdout
    assert len(read_table(next(tmp_path.glob("numbers-*/simulated.parquet")))) == 35
    assert sorted(computed(tmp_path / "log")) == sorted(set(computed(tmp_path / "log")))
    picked = [shard_of(f"{i}/3") for i in (1, 2, 3)]
    assert all(sum(take(index) for take in picked if take) == 1 for index in range(20))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_a_job_that_goes_on(sent: signal.Signals, tmp_path: Path):
    path, log = job_file(tmp_path, units=20, seconds=0.1), tmp_path / "log"

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        done = invoke("run", path, "--out", tmp_path, "--quiet")
        (tmp_path / "said").write_text(f"{done.exit_code}\n{done.stderr}")

    pid = fork(run)
    while len(computed(log)) < 3:
        time.sleep(0.01)
    os.kill(pid, sent)
    assert wait(pid) == 0
    (folder,) = tmp_path.glob("numbers-*")
    status, said = (tmp_path / "said").read_text().split("\n", 1)
    assert status == "130" and f"go on with: headscope run {folder}" in said
    assert read_json(folder / "manifest.json")["state"] == "stopped"
    assert not list(folder.glob("claims/*"))
    assert invoke("run", folder).exit_code == 0
    assert len(computed(log)) <= 21


def test_the_schema_and_the_kinds_are_printed(tmp_path: Path):
    printed = invoke("jobs", "schema")
    assert json.loads(printed.stdout)["title"] == "Headscope job"
    written = invoke("jobs", "schema", "--out", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(printed.stdout), written.output
    assert "score: Score every head of a model by one method." in invoke("jobs", "kinds").stdout


@pytest.mark.slow
def test_two_processes_of_this_machine_compute_what_one_does(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(REAL)
    one = run_job(read_job(path), tmp_path / "one")
    two = run_job(read_job(path), tmp_path / "two", workers=2)
    assert two.state == one.state == "done"
    left, right = (read_table(place / "scores.parquet") for place in (one.folder, two.folder))
    assert left.drop(columns="score").columns.equals(right.drop(columns="score").columns)
    assert (
        abs(
            left.set_index(["method", "layer", "head"])["score"]
            - right.set_index(["method", "layer", "head"])["score"]
        ).max()
        < 1e-6
    )
    store = JobStore(two.folder)
    pids = {store.read(unit).meta["pid"] for unit in store.done()}
    assert 1 <= len(pids) <= 2 and os.getpid() not in pids


class Forked:
    """A child of this process in the place of a started one, so that it knows the simulated kind."""

    def __init__(
        self, work: Work, index: int, workers: int, device: str | None, devices: int, trusted: bool
    ) -> None:
        def compute() -> None:
            own = Work(work.store, work.plan, session=work.session, retries=work.retries)
            loop(own, Models())

        self.pid, self.status = fork(compute), None

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, timeout: float) -> int | None:
        until = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.status

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def test_a_process_that_crashes_is_started_again_and_its_unit_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("headscope.jobs.local._start", Forked)
    log = tmp_path / "log"
    Path(f"{log}.dies").touch()
    job = simulated(units=12, seconds=0.02, dies=(3,), log=log)
    outcome = run_job(job, tmp_path, workers=2)
    assert (outcome.state, outcome.done) == ("incomplete", 11)
    assert outcome.missing[0]["error"].startswith("the process that computed it")
    crashed = [event for event in read_events(outcome.folder) if event["what"] == "crashed"]
    assert len(crashed) == 2  # tried again once
    counts = Counter(computed(log))
    assert counts.pop(outcome.missing[0]["unit"]) == 2 and set(counts.values()) == {1}
    Path(f"{log}.dies").unlink()
    assert run_job(job, tmp_path, workers=2).state == "done"


def test_ctrl_c_ends_all_processes_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headscope.jobs.local._start", Forked)
    log = tmp_path / "log"
    job = simulated(units=100, seconds=0.05, log=log)

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            run_job(job, tmp_path, workers=2)

    pid = fork(run)
    while len(computed(log)) < 6:
        time.sleep(0.01)
    os.kill(pid, signal.SIGINT)
    assert wait(pid) == 0
    n = len(computed(log))
    time.sleep(0.3)
    assert len(computed(log)) == n < 100
    assert not list(tmp_path.glob("test-*/claims/*"))


def test_processes_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert environment(0, 4, None, 1, 0)["OMP_NUM_THREADS"] == "2"
    seen = [environment(index, 4, None, 1, 2)["CUDA_VISIBLE_DEVICES"] for index in range(4)]
    assert seen == ["0", "1", "0", "1"]
    assert environment(1, 2, None, 2, 4)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "CUDA_VISIBLE_DEVICES" not in environment(0, 2, "cpu", 1, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert environment(1, 2, None, 1, 2)["CUDA_VISIBLE_DEVICES"] == "7"
