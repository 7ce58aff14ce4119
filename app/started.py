"""Runs that were started here: each a `headscope score` in its own process group, to be watched and stopped."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

_SHOWN = 4000  # characters of output at the end
_PATIENCE = 5.0  # seconds between asking a process to end and ending it
_KEPT = 12


@dataclass
class Started:
    """One process.

    Attributes:
        arguments: What stands behind `headscope`.
        log: The file that receives its output.
        process: The process, which leads its own group.
        begun: When it was started, in seconds since the epoch.
        ended: When it was first seen to have ended.
        stopped: Whether somebody stopped it.
    """

    arguments: tuple[str, ...]
    log: Path
    process: subprocess.Popen
    begun: float = field(default_factory=time.time)
    ended: float | None = None
    stopped: bool = False

    @property
    def command(self) -> str:
        """The command line, as it can be typed."""
        return shlex.join(["headscope", *self.arguments])

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        if self.process.poll() is None:
            return True
        self.ended = self.ended or time.time()
        return False

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (time.time() if self.running else self.ended or time.time()) - self.begun

    @property
    def words(self) -> str:
        """What became of it."""
        if self.running:
            return "stopping" if self.stopped else "running"
        if self.process.returncode == 0:
            return "done"
        return "stopped" if self.stopped else f"failed with exit status {self.process.returncode}"

    def output(self) -> str:
        """The end of what it printed."""
        try:
            text = self.log.read_bytes()[-_SHOWN:].decode("utf-8", "replace")
        except OSError:
            return ""
        return text.replace("\r", "\n").strip()

    def stop(self) -> None:
        """Ask the whole group to end, and end it if it does not."""
        if not self.running:
            return
        self.stopped = True
        _signal(self.process, signal.SIGINT)
        timer = threading.Timer(
            _PATIENCE, lambda: self.process.poll() is None and _signal(self.process, signal.SIGKILL)
        )
        timer.daemon = True
        timer.start()


@st.cache_resource(show_spinner=False)
def started() -> list[Started]:
    """All that were started while this server runs, newest first; every tab sees them."""
    found: list[Started] = []
    atexit.register(_end, found)
    return found


def start(arguments: tuple[str, ...]) -> Started:
    """Start `headscope` with these arguments, in a process of its own and without a shell."""
    folder = Path(tempfile.mkdtemp(prefix="headscope-job-"))
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # -P: the folder that the server runs in must not lend its modules to the run.
            [sys.executable, "-P", "-m", "headscope", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    one = Started(arguments, log, process)
    known = started()
    known.insert(0, one)
    for old in [job for job in known[_KEPT:] if not job.running]:
        known.remove(old)
        shutil.rmtree(old.log.parent, ignore_errors=True)
    return one


def score_arguments(
    method: str,
    model: str,
    out: Path,
    *,
    data: str = "",
    n: int = 0,
    seed: int = 0,
    options: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Write the arguments of `headscope score`; foreign text stands behind an equals sign, so it is never an option."""
    given = ["score", method, f"--model={model}", f"--out={out}", f"--seed={seed}"]
    given += [f"--data={data}"] if data else []
    given += ["-n", str(n)] if n else []
    return (*given, *(f"--set={option}" for option in options))


def _end(jobs: list[Started]) -> None:
    """Leave no process and no log behind when the server ends."""
    for job in jobs:
        if job.running:
            _signal(job.process, signal.SIGKILL)
        shutil.rmtree(job.log.parent, ignore_errors=True)


def _signal(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
