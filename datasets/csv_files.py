"""Read requests from a CSV file by column name, such as AdvBench, JailbreakBench and MaliciousInstruct are published.

Only the standard library is used. The files stay where the user has them.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from ..errors import BadPrompts, EmptyPromptSet, MissingData, nearest
from .plain import plain
from .prompts import Prompt, PromptSet

COLUMNS = ("goal", "input", "prompt", "query", "instruction", "request", "behavior", "question", "text")
"""Names under which requests are published, tried in this order, whatever their case."""

_SHOWN = 20  # bad rows that a message lists


def from_csv(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    label: str = "harmful",
    matched: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> PromptSet:
    """Read one request from each row of a CSV file with a header.

    Args:
        path: The file, in UTF-8, with or without byte-order mark.
        column: Name of the column with the requests; by default the first of `COLUMNS` that is there.
        label: Label of every request.
        matched: A file of the same form and length whose rows are the matched counterparts; they become `corrupted`.
        name: Name of the set; the file's stem by default.

    Raises:
        MissingData: There is no such file, or it has no such column; the columns that it has are listed.
        BadPrompts: The file is no UTF-8 table, a row has no request, or the matched file has another length.
        EmptyPromptSet: The file has a header only.
    """
    path = Path(path)
    requests = _column(path, column)
    others = [""] * len(requests) if matched is None else _column(Path(matched), column)
    if len(others) != len(requests):
        raise BadPrompts(
            f"{matched}: {len(others)} rows, but {path} has {len(requests)}; matched requests stand in the same row."
        )
    return PromptSet(
        path.stem if name is None else name,
        tuple(
            Prompt(text, corrupted=other, label=label) for text, other in zip(requests, others, strict=True)
        ),
    )


def _column(path: Path, column: str | None) -> list[str]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in rows.fieldnames or []]
        if not any(header):
            raise EmptyPromptSet(f"{path}: the file is empty; it needs a header and one request a row.")
        rows.fieldnames = header
        chosen = _choose(path, header, column)
        found = [(rows.line_num, (row[chosen] or "").strip()) for row in rows]
    except csv.Error as error:
        raise BadPrompts(f"{path}:{rows.line_num}: not readable as CSV ({error}).") from error
    if not found:
        raise EmptyPromptSet(f"{path}: there is a header, and no request below it.")
    empty = [line for line, text in found if not text]
    if empty:
        shown = ", ".join(map(str, empty[:_SHOWN])) + (", ..." if len(empty) > _SHOWN else "")
        raise BadPrompts(f"{path}: column {chosen!r} is empty in line {shown}. Fill it, or remove the rows.")
    return [text for _, text in found]


def _choose(path: Path, header: list[str], column: str | None) -> str:
    if column is not None:
        if column in header:
            return column
        raise MissingData(f"{path}: there is no column {column!r}.{nearest(column, header)}")
    lowered = {name.lower(): name for name in reversed(header)}
    for name in COLUMNS:
        if name in lowered:
            return lowered[name]
    raise MissingData(f"{path}: none of the columns {', '.join(header)} is known to hold requests; name it.")


def _text(path: Path) -> str:
    try:
        return plain(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(one.name for one in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        hint = nearest(path.name, near) if near else f" There is no .csv file in {path.parent}."
        raise MissingData(f"{path}: no such file.{hint}") from None
    except UnicodeDecodeError as error:
        raise BadPrompts(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise MissingData(f"{path}: {error.strerror or error}") from error
