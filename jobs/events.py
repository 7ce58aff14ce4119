"""What happens in a job, as lines of JSON: each process appends to a file of its own, readers merge them.

A process that is killed leaves at most one torn line at the end of its file, which readers pass over.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..analysis.files import jsonable


class Events:
    """The file that this process appends to. It is made with the first event.

    A full disk must not end a computation for the sake of its diary: an event that cannot be written is dropped, and
    counted in `lost`.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = (
            Path(folder)
            / "events"
            / f"{int(time.time() * 1000)}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.jsonl"
        )
        self._handle: int | None = None
        self._pid = os.getpid()
        self.lost = 0

    def tell(self, what: str, **facts: Any) -> None:
        """Append one event: `at` (seconds since the epoch), `what`, and the facts."""
        line = json.dumps(jsonable({"at": time.time(), "what": what, **facts}), ensure_ascii=False) + "\n"
        try:
            if self._handle is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(self._handle, line.encode())
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Tail:
    """Follows the events of a folder: each `read` gives what is new since the last."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder) / "events"
        self._read: dict[str, int] = {}

    def read(self) -> list[dict[str, Any]]:
        """Return new events of all processes, oldest first."""
        found: list[dict[str, Any]] = []
        for name in sorted(_names(self._folder)):
            start = self._read.get(name, 0)
            try:
                with open(self._folder / name, "rb") as file:
                    file.seek(start)
                    data = file.read()
            except OSError:
                continue
            whole = data[
                : data.rfind(b"\n") + 1
            ]  # what stands behind the last line end is still being written
            self._read[name] = start + len(whole)
            found += _parsed(whole)
        return sorted(found, key=lambda event: event["at"])


def read_events(folder: str | Path, after: float | None = None) -> list[dict[str, Any]]:
    """Return the events of a job, oldest first; with `after`, only those later than that time."""
    return [event for event in Tail(folder).read() if after is None or event["at"] > after]


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if entry.name.endswith(".jsonl") and entry.is_file())
    except OSError:
        return


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except (
            ValueError,
            RecursionError,
        ):  # torn by a crash, and followed by lines of a process that reused the name
            continue
        if isinstance(event, dict) and isinstance(event.get("at"), (int, float)) and "what" in event:
            yield event
