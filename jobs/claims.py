"""Who computes which unit: a file per claim, taken over when its owner gives no sign of life.

Claims save work, and nothing depends on them for being right: a unit that two workers compute all the same is written
twice with the same content. So no lock is needed that a network disk may not have, and no clock is compared: a claim
is dead when its owner is a process of this machine that is gone, or when its file has not been touched for `lease`
seconds of the observer's own clock.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..datasets.plain import plain
from ..errors import CannotWrite

SESSION = "session-"  # begins the name of what a process claims for as long as it works on a job


class Claims:
    """The claims of one process.

    Args:
        folder: The job's folder.
        lease: Seconds without a sign of life after which a claim is dead.
        session: Names the run that this process is part of.

    Attributes:
        crashed: Units whose dead claim this process has removed, and whose holder was part of the same run.
    """

    def __init__(self, folder: str | Path, lease: float = 60.0, session: str = "") -> None:
        self._session = session
        self.crashed: set[str] = set()
        self._folder = Path(folder) / "claims"
        self._lease = lease
        self._mine: dict[str, str] = {}
        self._seen: dict[str, tuple[str, int, float]] = {}
        self._beat: threading.Thread | None = None
        self._stop = threading.Event()

    def take(self, unit: str) -> bool:
        """Claim a unit; False if another worker holds it.

        Raises:
            CannotWrite: The disk is full, or another refusal.
        """
        path = self._path(unit)
        token = uuid.uuid4().hex
        try:
            for _ in range(2):
                if self._create(path, token):
                    self._mine[unit] = token
                    self._begin()
                    return True
                if not self._dead(unit, path) or not self._clear(unit, path):
                    return False
        except OSError as error:
            raise CannotWrite(
                f"{path}: {error.strerror or error}. Free some space or choose another folder; run again to resume."
            ) from error
        return False

    def release(self, unit: str) -> None:
        """Give a claim back; one that was taken over in the meantime stays."""
        token = self._mine.pop(unit, None)
        if token is not None and (_read(self._path(unit)) or {}).get("token") == token:
            self._path(unit).unlink(missing_ok=True)

    def busy(self) -> bool:
        """Whether this process holds a claim on a unit."""
        return any(not unit.startswith(SESSION) for unit in self._mine)

    def units(self) -> list[str]:
        """Return the units that are claimed, by the living or the dead."""
        try:
            names = [entry.name for entry in os.scandir(self._folder)]
        except OSError:
            return []
        return [
            name.removesuffix(".json")
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        ]

    def alive(self, unit: str) -> bool:
        """Whether a unit is claimed and its owner has given a sign of life."""
        return not self._dead(unit, self._path(unit))

    def held(self) -> bool:
        """Whether any living worker holds a claim on a unit."""
        return any(self.alive(unit) for unit in self.units() if not unit.startswith(SESSION))

    def tidy(self) -> None:
        """Remove the claims of the dead."""
        for unit in self.units():
            if not self.alive(unit):
                self._clear(unit, self._path(unit))

    def bury(self, unit: str) -> bool:
        """Remove the claim of a process of the same run that is dead; False where another process has done so."""
        self._clear(unit, self._path(unit))
        found = unit in self.crashed
        self.crashed.discard(unit)
        return found

    def of(self, pid: int) -> set[str]:
        """Return the units that a process of this machine has claimed, whether it lives or not."""
        found = set()
        for path in self._folder.glob("*.json"):
            owner = _read(path)
            if owner is not None and owner.get("where") == _where() and owner.get("pid") == pid:
                found.add(path.stem)
        return found

    def close(self) -> None:
        """Give all claims back and stop the signs of life."""
        for unit in list(self._mine):
            self.release(unit)
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
            self._beat = None

    def _path(self, unit: str) -> Path:
        return self._folder / f"{unit}.json"

    def _create(self, path: Path, token: str) -> bool:
        """Make the file with its content in one step, so that nobody reads half a claim."""
        fresh = path.with_name(f".{token}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_text(
                json.dumps({"token": token, "session": self._session, **_me()}), encoding="utf-8"
            )
            os.link(fresh, path)
        except FileExistsError:
            return False
        except (PermissionError, NotImplementedError):  # a disk without hard links
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps({"token": token, "session": self._session, **_me()}))
        finally:
            fresh.unlink(missing_ok=True)
        return True

    def _dead(self, unit: str, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        owner = _read(path)
        if owner is not None and owner.get("where") == _me()["where"]:
            return not _alive(owner)
        token = str((owner or {}).get("token", ""))
        before = self._seen.get(unit)
        if before is None or before[:2] != (token, touched):
            self._seen[unit] = (token, touched, time.monotonic())
            return False
        return time.monotonic() - before[2] > self._lease

    def _clear(self, unit: str, path: Path) -> bool:
        """Remove a dead claim, and not the one that a faster worker has put in its place."""
        dead = _read(path)
        aside = path.with_name(f".{uuid.uuid4().hex}.dead")
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return True
        moved = _read(aside)
        mistaken = moved is not None and moved.get("token") != (dead or {}).get("token")
        if mistaken:
            with suppress(OSError):
                os.link(aside, path)
        elif self._session and (moved or {}).get("session") == self._session:
            self.crashed.add(unit)
        aside.unlink(missing_ok=True)
        self._seen.pop(unit, None)
        return not mistaken

    def _begin(self) -> None:
        if self._beat is None:
            self._stop.clear()
            self._beat = threading.Thread(target=self._live, name="headscope-claims", daemon=True)
            self._beat.start()

    def _live(self) -> None:
        while not self._stop.wait(self._lease / 6):
            for unit in list(self._mine):
                with suppress(OSError):
                    os.utime(self._path(unit))


def _me() -> dict[str, Any]:
    """Name this process so that another one of the same machine can tell whether it still lives."""
    return {"where": _where(), "pid": os.getpid(), "born": _born(os.getpid())}


def _where() -> str:
    """The machine since it was started, and the container: elsewhere the same process number is another process."""
    boot = space = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {space}"


def _born(pid: int) -> str:
    """When a process began, by which a reused number is told from it; empty where the system does not say.

    A process that has ended and that its parent has not yet asked after counts as one that never began.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if facts[0] in "ZX" else facts[19]
    except (OSError, IndexError):
        return ""


def _alive(owner: dict[str, Any]) -> bool:
    pid = owner.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _born(pid) == owner.get("born")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(plain(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
