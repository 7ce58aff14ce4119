"""What commands print: answers to standard output, progress and what libraries say to standard error."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..printable import printable, printable_json

if TYPE_CHECKING:
    from ..analysis.scores import HeadScores

_DRAWN_EVERY, _PLAIN_EVERY = 0.1, 2.0  # seconds between two lines of progress on a terminal, and elsewhere


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text of which any part may be foreign: nothing in it is obeyed by a terminal, nothing is hidden."""
    typer.echo(printable(text), err=err, nl=nl)


@contextmanager
def working(what: str = "") -> Iterator[None]:
    """Send what libraries print to standard error, and say there what is being done and how long it took."""
    begun = time.monotonic()
    if what:
        say(f"{what} ...", err=True)
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = _warn
        yield
    if what:
        say(f"{what}: {time.monotonic() - begun:.1f} s", err=True)


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    """Print a warning without the place in the code that it comes from."""
    say(f"Warning: {message}", err=True)


def progress_line() -> Callable[[int, int], None]:
    """Return a counter that rewrites one line of a terminal; elsewhere it adds a line every two seconds."""
    terminal, begun, shown = sys.stderr.isatty(), time.monotonic(), None
    every = _DRAWN_EVERY if terminal else _PLAIN_EVERY

    def count(done: int, total: int) -> None:
        nonlocal shown
        now, last = time.monotonic(), done >= total
        # A file needs no line about work that ended before the first one was due.
        due = now - (shown or begun) >= every or (last and (terminal or shown is not None))
        if not due:
            return
        shown = now
        left = "" if last or not done else f", about {(now - begun) / done * (total - done):.0f} s left"
        line = f"  {done} of {total}{left}"
        end = "\n" if last or not terminal else ""
        typer.echo(f"\r{line:<50}{end}" if terminal else f"{line}{end}", nl=False, err=True)

    return count


def show(as_json: bool, record: Any, lines: Iterable[str]) -> None:
    if as_json:
        from ..analysis.files import jsonable

        # Escaped as JSON does it, it is the same JSON, and no terminal obeys it.
        typer.echo(
            printable_json(json.dumps(jsonable(record), indent=2, ensure_ascii=False, allow_nan=False))
        )
    else:
        say("\n".join(lines))


def show_plan(as_json: bool, **plan: Any) -> None:
    plan = {key: str(value) if isinstance(value, Path) else value for key, value in plan.items()}
    lines = [f"{key}: {value}" for key, value in plan.items()]
    show(as_json, {"plan": plan}, ["Would run:", *(f"  {line}" for line in lines)])


def typed_command() -> str:
    """Return the command line that was typed, as it can be typed again."""
    return shlex.join(["headscope", *sys.argv[1:]])


def score_lines(scores: HeadScores, top: int) -> list[str]:
    table = scores.table().dropna(subset=["score"]).head(top)
    lines = [f"{scores.method} of {scores.model} on {scores.data}; higher = {scores.higher}", ""]
    if not len(table):
        return [*lines, "No head has a score: no prompt counted.", *scores.notes]
    lines += ["head    score    low      high     q        n"]
    for row in table.itertuples(index=False):
        numbers = (
            f"{value:<8.3g}" if value == value else "-       "
            for value in (row.score, row.low, row.high, row.q)
        )
        lines.append(f"{f'L{row.layer}H{row.head}':<7} {' '.join(numbers)} {row.n or '-'}")
    return [*lines, "", *scores.notes]


def score_record(scores: HeadScores) -> dict[str, Any]:
    return {
        "method": scores.method,
        "options": {key: getattr(value, "__name__", value) for key, value in scores.options.items()},
        "model": scores.model._asdict(),
        "data": scores.data._asdict(),
        "seed": scores.seed,
        "higher": scores.higher,
        "causal": scores.causal,
        "notes": list(scores.notes),
        "heads": scores.table().to_dict("records"),
    }


def side_by_side(row: dict[str, str]) -> list[str]:
    names = [name for name in ("clean", "changed") if name in row]
    width = max(20, min(shutil.get_terminal_size((100, 20)).columns, 160) // len(names) - 3)
    columns = [[name, "-" * len(name), *_wrapped(row[name], width)] for name in names]
    height = max(map(len, columns))
    cells = [[*column, *[""] * (height - len(column))] for column in columns]
    return [" | ".join(cell.ljust(width) for cell in line).rstrip(" |") for line in zip(*cells, strict=True)]


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() or [""] for part in textwrap.wrap(line, width) or [""]]
