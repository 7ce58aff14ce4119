"""What several pages of the reference are made with: where the package is, what counts as its own, bits of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def is_ours(thing: Any) -> bool:
    """Whether a function or class is defined in the package, and not by somebody who registers one."""
    return thing.__module__.startswith("headscope.")


def dotted(thing: Any) -> str:
    """The name by which mkdocstrings finds a function or class."""
    return f"{thing.__module__}.{thing.__qualname__}"


def first_line(text: str) -> str:
    """The first line of a docstring, or nothing."""
    return text.splitlines()[0] if text else ""


def cell(text: str) -> str:
    """A text as one cell of a table: on one line, without bars that would end it."""
    return " ".join(text.split()).replace(" | ", " or ").replace("|", "\\|")


def linked(text: str) -> str:
    """A reference whose arXiv ids lead to the papers."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def entry(name: str, facts: Iterable[tuple[str, str]]) -> list[str]:
    """The lines of a heading with the name as its anchor, and of a table of facts below it."""
    rows = [f"| {key} | {cell(value)} |" for key, value in facts]
    return [f"## {name} {{#{name}}}", "", "| | |", "|---|---|", *rows, ""]
