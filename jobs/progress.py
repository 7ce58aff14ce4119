"""Show how a job goes: a live table in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import HeadscopeError
from ..printable import printable
from .status import Status, Watch
from .store import JobStore

_EVERY = 1.0  # seconds between two looks in a terminal
_LINE = 30.0  # seconds between two lines of a log
_RECENT = 5  # failures that the table shows


def display(store: JobStore, *, to: TextIO | None = None) -> Iterator[None]:
    """Return a context manager that shows the job's progress while it is open.

    Args:
        store: The job.
        to: Where; standard error by default. The table is drawn where this is a terminal, else lines are written.
    """
    console = Console(file=to or sys.stderr, highlight=False)
    return _live(store, console) if console.is_terminal else _lines(store, console.file)  # type: ignore[return-value]


def quiet(store: JobStore) -> Iterator[None]:
    """Return a context manager that shows nothing."""
    return _nothing()  # type: ignore[return-value]


def table(name: str, now: Status, failures: list[str]) -> Group:
    """Draw the status as a table, with the last failures below."""
    drawn = Table(title=Text(printable(name)), title_justify="left", show_edge=False, pad_edge=False)
    cells = {
        "units": str(now.planned),
        "done": str(now.done),
        "running": str(now.running),
        "failed": str(now.failed),
        "a second": f"{now.rate:.2f}" if now.rate else "-",
        "time left": span(now.seconds_left),
    }
    for heading in cells:
        drawn.add_column(heading, justify="right")
    drawn.add_row(*cells.values(), style="" if not now.failed else "yellow")
    return Group(drawn, *(Text(printable(failure), style="yellow") for failure in failures[-_RECENT:]))


def line(now: Status) -> str:
    """Write the status in a line."""
    return (
        f"{now.done} of {now.planned} units done, {now.failed} failed, {now.running} running, "
        f"{now.rate:.2f} a second, time left {span(now.seconds_left)}"
    )


def span(seconds: float | None) -> str:
    """Write a duration.

    >>> span(45), span(3725), span(None)
    ('45 s', '1 h 02 min', '-')
    """
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )


@contextmanager
def _live(store: JobStore, console: Console) -> Iterator[None]:
    watch, failures = Watch(store.folder, since=time.time()), []

    watch.look()  # events of earlier runs are not news

    def draw() -> Group:
        now = watch.look()
        failures.extend(
            f"failed: {event['title']}: {event['error']}" for event in watch.last if event["what"] == "failed"
        )
        return table(store.folder.name, now, failures)

    with Live(
        draw(), console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        with _repeat(lambda: live.update(draw(), refresh=True), _EVERY):
            yield
        live.update(draw(), refresh=True)


@contextmanager
def _lines(store: JobStore, to: TextIO) -> Iterator[None]:
    watch = Watch(store.folder, since=time.time())

    def write() -> None:
        now = watch.look()
        for event in watch.last:
            if event["what"] == "failed":
                print(printable(f"failed: {event['title']}: {event['error']}"), file=to, flush=True)
        print(line(now), file=to, flush=True)

    watch.look()  # events of earlier runs are not news
    with _repeat(write, _LINE):
        yield
    write()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _repeat(call: object, every: float) -> Iterator[None]:
    """Call a function again and again in another thread; a look that fails once is no reason to stop a job."""
    stop = threading.Event()

    def again() -> None:
        while not stop.wait(every):
            with suppress(OSError, HeadscopeError):
                call()  # type: ignore[operator]

    thread = threading.Thread(target=again, name="headscope-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5.0)
