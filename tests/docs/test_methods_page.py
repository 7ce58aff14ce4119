"""docs/methods.md names every registered method with its paper, and nothing that is not there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import method_tables
import pytest
from typer.testing import CliRunner

import headscope.cli
from headscope.analysis import registry
from headscope.analysis.circuits import discoveries
from headscope.analysis.steering.presets import PRESETS
from headscope.analysis.vision.mitigation import METHODS as MITIGATION

ROOT = Path(__file__).resolve().parents[2]
ROWS = method_tables.rows()
READ = {"code", "paper", "abstract", "notes", "memory", "field", "ours"}
REGISTRIES = {
    "Scores": {name: one.reference for name, one in registry.methods().items()},
    "Circuits": {name: one.reference for name, one in discoveries().items()},
    "Steering": {name: one.reference for name, one in PRESETS.items() if name not in MITIGATION},
    "Models that see": {name: one.reference for name, one in MITIGATION.items()},
}
QUICK = [
    (command, what)
    for row in ROWS
    for command, what in row.claims()
    if command.startswith("headscope score") and "organism/planted" in command
]


def of(section: str) -> list[method_tables.Row]:
    return [row for row in ROWS if row.section == section and row.table == "name"]


@pytest.mark.parametrize("section", REGISTRIES)
def test_every_registered_method_has_one_row_and_every_row_a_method(section):
    assert sorted(row.name for row in of(section)) == sorted(REGISTRIES[section])


@pytest.mark.parametrize("section", REGISTRIES)
def test_a_row_gives_the_papers_that_the_code_gives(section):
    for row in of(section):
        reference = REGISTRIES[section][row.name]
        named = set(re.findall(r"\d{4}\.\d{5}", reference))
        assert named <= row.papers, f"{row.name}: the code refers to {reference}"
        if not named:
            assert reference.split()[0] in row.cells[1], f"{row.name}: the code refers to {reference}"


def test_every_way_to_steer_that_the_page_shows_under_images_is_a_preset_too():
    assert set(MITIGATION) <= set(PRESETS)


def test_every_row_is_full_and_says_what_was_read():
    assert len(ROWS) > 50
    for row in ROWS:
        assert len(row.cells) == method_tables.COLUMNS and all(row.cells), row
        assert set(row.cells[4].split(", ")) <= READ, row.cells[4]


def test_every_paper_that_the_package_cites_stands_on_the_page():
    rooms = ("analysis", "datasets", "hooks", "jobs", "organisms", "commands")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    cited = {
        found: path.relative_to(ROOT)
        for path in files
        for found in re.findall(r"arXiv:(\d{4}\.\d{5})", path.read_text(encoding="utf-8"))
    }
    page = method_tables.PAGE.read_text(encoding="utf-8")
    assert len(cited) > 40
    assert not {found: str(path) for found, path in cited.items() if found not in page}


def test_the_page_has_numbers_to_hold():
    assert len(QUICK) > 10 and all(what for _, what in QUICK)


@pytest.mark.parametrize("command, what", QUICK, ids=[command for command, _ in QUICK])
def test_a_number_of_the_page_is_printed_by_its_command(command, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(headscope.cli.app, shlex.split(command)[1:], prog_name="headscope")
    assert done.exit_code == 0, done.stderr
    assert [one for one in what if not method_tables.printed(one, done.stdout)] == [], done.stdout
