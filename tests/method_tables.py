"""docs/methods.md as material: its tables by section, the commands in their cells, and what these shall print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
COLUMNS = 5

_COMMAND = re.compile(r"`(headscope [^`]+)`")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_IDS = re.compile(r"\d{4}\.\d{5}")


@dataclass(frozen=True)
class Row:
    """One method: the section and the heading of its table's first column, and its cells."""

    section: str
    table: str
    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.cells[0].strip("`")

    @property
    def papers(self) -> set[str]:
        """The arXiv ids in its second cell."""
        return set(_IDS.findall(self.cells[1]))

    def numbers(self) -> list[str]:
        """The numbers in bold of a row whose command stands above its table; the first follows the row's name there."""
        found = [one for one in _BOLD.findall(self.cells[2]) if one[0].isdigit()]
        return [f"{self.name} {found[0]}", *found[1:]]

    def claims(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield each command in the row with what stands in bold between it and the next one."""
        for cell in self.cells[2:4]:
            places = [*_COMMAND.finditer(cell)]
            ends = [place.start() for place in places[1:]] + [len(cell)]
            for place, end in zip(places, ends, strict=False):
                yield place[1], tuple(_BOLD.findall(cell[place.end() : end]))


def rows() -> list[Row]:
    """Every row of every table, in order."""
    found, section, table = [], "", ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("|") and not line.startswith("|-"):
            cells = tuple(cell.strip() for cell in line.strip().strip("|").split(" | "))
            if cells[1:2] == ("paper",):
                table = cells[0]
            else:
                found.append(Row(section, table, cells))
    return found


def printed(what: str, output: str) -> bool:
    """Whether an output holds these words and numbers, whatever blanks stand between them.

    The name of a head or a method begins a line of a table; the number after it is that of the next columns.
    """
    return " ".join(what.split()) in " ".join(output.split())


def commands_of(page: str, name: str) -> list[str]:
    """The commands that stand in the paragraphs of a section, outside its tables."""
    body = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    prose = "\n".join(line for line in body.splitlines() if not line.startswith("|"))
    return _COMMAND.findall(prose)
