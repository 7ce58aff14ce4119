"""Give a target one input after another, and judge each: a result, one clear error, or a fault of ours.

A fault is: an exception that the command line would show as a traceback; more than `LONGEST` seconds; an error without
a message, or with more than one; a file that is written, changed or removed where none may be; a process or a
connection.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import faulthandler
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headscope.errors import CallError, HeadscopeError, RunError

LONGEST = 5.0
_STUCK = 900.0  # seconds for a hundred inputs


class TooLong(BaseException):
    """Raised by the alarm; no `except Exception` may swallow it."""


class Refused(Exception):
    """A call of the command line that ended with an error: `name` is that of its class, or `usage`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Fault(Exception):
    """A target's own finding: not what was promised."""


class Room:
    """A folder in which one target works, with a home, a folder of temporary files, inputs and output of its own.

    Attributes:
        base: All of it.
        inputs: Files that the target lays out before a call. A call may not change them, unless `may_change` says so.
        out: The only folder that a call may write to, and only if it ends in a result.
    """

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="headscope-fuzz-")).resolve()
        self.home, self.tmp, self.cwd = (self.base / name for name in ("home", "tmp", "cwd"))
        self.inputs, self.out = self.cwd / "in", self.cwd / "out"
        for folder in (self.home, self.tmp, self.cwd, self.inputs, self.out):
            folder.mkdir()

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.base, ignore_errors=True)

    def clear(self, *folders: Path) -> None:
        """Empty folders; links in them are not followed."""
        for folder in folders or (self.inputs, self.out):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    def seen(self) -> dict[str, tuple[Any, ...]]:
        """List every file and folder with its kind, size and time; a folder's time does not count."""
        found: dict[str, tuple[Any, ...]] = {}
        waiting = [str(self.base)]
        while waiting:
            for entry in os.scandir(waiting.pop()):
                stat = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    found[entry.path] = ("folder",)
                    waiting.append(entry.path)
                else:
                    found[entry.path] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return found


class Target:
    """One kind of input.

    Attributes:
        name: As on the command line.
        room: Where it works.
    """

    name = ""

    def __init__(self, room: Room) -> None:
        self.room = room

    def make(self, rng: random.Random) -> Any:
        """Draw an input."""
        raise NotImplementedError

    def lay(self, made: Any) -> None:
        """Write the files of an input, before the call."""

    def call(self, made: Any) -> Any:
        """Give the input to the package. A returned text names the kind of result."""
        raise NotImplementedError

    def asked_for(self, made: Any, path: str) -> bool:
        """Whether the input itself names a path outside the room as the place to write to; the system then refuses."""
        return False

    def may_change(self, made: Any, path: str) -> bool:
        """Whether a call that ended in a result may have changed a file outside `room.out`."""
        return False

    def tidy(self, made: Any) -> None:
        """Remove what an input and its call have left."""
        self.room.clear()

    def close(self) -> None:
        """Give back what the target has changed in this process."""


@dataclass
class Tally:
    """What came out.

    Attributes:
        outcomes: `result …`, or the name of the error's class, with counts.
        faults: (index, what, input) of what must not be.
        slowest: Seconds, index and input of the slowest call.
    """

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    slowest: tuple[float, int, str] = (0.0, -1, "")
    seconds: float = 0.0

    @property
    def valid(self) -> int:
        """Inputs that gave a result."""
        return sum(n for name, n in self.outcomes.items() if name.startswith("result"))


def drawn(target: Target, seed: int, index: int) -> Any:
    """Return the input of this seed and number: the same everywhere."""
    return target.make(random.Random(f"{target.name}/{seed}/{index}"))


def fuzz(
    target: Target,
    count: int,
    *,
    seed: int = 0,
    first: int = 0,
    most: int = 50,
    said: Callable[[int, Tally], None] | None = None,
    stuck: bool = False,
) -> Tally:
    """Judge `count` inputs from number `first`.

    Args:
        target: What they are given to.
        count, first: How many, and the number of the first.
        seed: Of all inputs.
        most: Stop after so many faults.
        said: Called after each input with how many are done, and the tally.
        stuck: End the process, with its stack, if a call does not even hear the alarm.
    """
    tally, begun = Tally(), time.monotonic()
    with _placed(target.room):
        for index in range(first, first + count):
            if (
                stuck and (index - first) % 100 == 0
            ):  # starting its thread for every input would cost more than the input
                faulthandler.dump_traceback_later(_STUCK, exit=True, file=sys.__stderr__)
            made = drawn(target, seed, index)
            outcome, seconds, fault = judge(target, made)
            tally.outcomes[outcome] += 1
            if seconds > tally.slowest[0]:
                tally.slowest = (seconds, index, shown(made))
            if fault:
                tally.faults.append((index, fault, shown(made)))
                if len(tally.faults) >= most:
                    break
            if said is not None:
                tally.seconds = time.monotonic() - begun
                said(index + 1 - first, tally)
    if stuck:
        faulthandler.cancel_dump_traceback_later()
    tally.seconds = time.monotonic() - begun
    return tally


def judge(target: Target, made: Any) -> tuple[str, float, str]:
    """Give one input to a target; return the outcome, the seconds, and what is wrong, empty if nothing is."""
    target.lay(made)
    before = target.room.seen()
    outside: list[str] = []
    begun = _own_time()
    try:
        with _watching(target.room, outside), _alarm(begun):
            found = target.call(made)
        outcome, fault = f"result {found}" if isinstance(found, str) else "result", ""
    except HeadscopeError as error:
        outcome, fault = type(error).__name__, _wrong_message(error)
    except Refused as error:
        outcome, fault = error.name, ""
    except Fault as error:
        outcome, fault = "fault", str(error)
    except TooLong:
        outcome, fault = "too long", f"no answer in {LONGEST:g} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)
        near = [
            f"{Path(one.filename).name}:{one.lineno}" for one in place if "site-packages" not in one.filename
        ]
        outcome, fault = "traceback", f"{type(error).__name__}: {str(error)[:150]!r} at {' '.join(near[-4:])}"
    seconds = _own_time() - begun
    if seconds > LONGEST and not fault:
        fault = f"took {seconds:.1f} s"
    outside[:] = [what for what in outside if not target.asked_for(made, what.partition(" ")[2])]
    if outside and not fault:
        fault = f"outside: {'; '.join(outside[:3])}"
    after = target.room.seen()
    if not fault and before != after:
        changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
        fault = _left(target, made, outcome, sorted(changed))
    with contextlib.suppress(OSError):
        target.tidy(made)
        target.room.clear(target.room.tmp, target.room.home)
    return outcome, seconds, fault


def _left(target: Target, made: Any, outcome: str, changed: list[str]) -> str:
    """Say which of the changed files should not have changed."""
    own = f"{target.room.out}{os.sep}"
    wrong = []
    for path in changed:
        within = path.startswith(own) or path == str(target.room.out)
        hidden = Path(path).name.startswith(".") and Path(path).exists()
        if (
            not outcome.startswith("result")
            or (within and hidden)
            or not (within or target.may_change(made, path))
        ):
            wrong.append(path)
    kind = "changed" if outcome.startswith("result") else f"left behind by a refused call ({outcome})"
    return (
        f"{kind}: {', '.join(str(Path(path).relative_to(target.room.base)) for path in wrong[:4])}"
        if wrong
        else ""
    )


def _wrong_message(error: HeadscopeError) -> str:
    """Say what is wrong with an error that is raised where the command line would print it."""
    if not isinstance(error, (CallError, RunError)):
        return f"{type(error).__name__} is neither CallError nor RunError"
    message = str(error)
    if not message.strip():
        return f"{type(error).__name__} has no message"
    if "Traceback (most recent" in message:
        return f"{type(error).__name__} holds a traceback: {message[:200]}"
    return (
        f"{type(error).__name__} has a message of {len(message):,} letters" if len(message) > 300_000 else ""
    )


def shown(made: Any, most: int = 700) -> str:
    """Write an input for people."""
    words = ascii(made)
    return words if len(words) <= most else f"{words[:most]}... ({len(words):,})"


def _own_time() -> float:
    """Seconds on the clock, less those in which this thread waited for a core that others held, where Linux says so."""
    waited = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.perf_counter() - waited / 1e9


@contextlib.contextmanager
def _alarm(begun: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        left = LONGEST - (_own_time() - begun)
        if left <= 0:
            raise TooLong
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _placed(room: Room) -> Iterator[None]:
    """Work in a room: current folder, home and temporary files."""
    wanted = {
        "HOME": str(room.home),
        "TMPDIR": str(room.tmp),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(room.home),
    }
    before = {name: os.environ.get(name) for name in wanted}
    here, temporary, written = Path.cwd(), tempfile.tempdir, sys.dont_write_bytecode
    os.environ.update(wanted)
    os.chdir(room.cwd)
    tempfile.tempdir, sys.dont_write_bytecode = str(room.tmp), True
    try:
        yield
    finally:
        tempfile.tempdir, sys.dont_write_bytecode = temporary, written
        os.chdir(here)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_WATCH: list[tuple[str, list[str]]] = []
_HOOKED: list[bool] = []
_PATHS = {
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}


@contextlib.contextmanager
def _watching(room: Room, outside: list[str]) -> Iterator[None]:
    """Note and refuse whatever Python code writes outside the room, starts, or connects to."""
    if not _HOOKED:
        sys.addaudithook(_heard)
        _HOOKED.append(True)
    _WATCH.append((str(room.base), outside))
    try:
        yield
    finally:
        _WATCH.pop()


def _heard(event: str, given: tuple[Any, ...]) -> None:
    if not _WATCH:
        return
    base, outside = _WATCH[-1]
    if event == "open":
        path, _, flags = given
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return
        _note(event, path, base, outside)
    elif event in _PATHS:
        for path in given[:2] if event in ("os.rename", "os.link") else given[:1]:
            _note(event, path, base, outside)
    elif event in _NEVER:
        outside.append(f"{event} {str(given)[:100]}")
        raise PermissionError(errno.EACCES, f"{event} is not for this room")


def _note(event: str, path: Any, base: str, outside: list[str]) -> None:
    if isinstance(path, int) or path is None:
        return
    name = os.path.abspath(os.fsdecode(path))
    if name != base and not name.startswith(base + os.sep) and name != os.devnull:
        outside.append(f"{event} {name}")
        raise PermissionError(errno.EACCES, "outside the room", name)
