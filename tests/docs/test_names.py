"""What the pages name in running text exists: functions and modules, files, commands and their options."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("analysis", "app", "datasets", "hooks", "jobs", "organisms", "headscope")
ALL = {page.relative_to(ROOT).as_posix(): page for page in pages.PAGES}
PLACEHOLDER = re.compile(r"…|\.\.\.|\b[A-Z]{4,}\b|<|\||\bi/n\b")


def said(page: Path) -> list[str]:
    """The spans of code in a page's text, outside its blocks, on one line each."""
    prose = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def resolve(path: str) -> object:
    """Import the longest module that a dotted path begins with, and take the rest from it."""
    parts = path.split(".")
    if parts[0] != "headscope":
        parts = ["headscope", *parts]
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def dotted(spans: list[str]) -> list[str]:
    """The spans that name something of this package, without what it is called with."""
    called = (re.match(r"[\w.]+", span) for span in spans if " " not in span.split("(")[0])
    names = (found[0].rstrip(".") for found in called if found)
    return [name for name in names if name.split(".")[0] in ROOMS and "." in name and not _is_file(name)]


def files(spans: list[str]) -> list[str]:
    """The spans that name a file or folder of the repository."""
    words = (span.removeprefix("python ").split()[0] for span in spans)
    return [
        word
        for word in words
        if "/" in word and word.split("/")[0] in {*ROOMS, "benchmarks", "docs", "tests"}
    ]


def commands(spans: list[str]) -> list[str]:
    """The spans that are whole calls of the command line, without those that hold a placeholder."""
    return [span for span in spans if span.startswith("headscope ") and not PLACEHOLDER.search(span)]


def _is_file(name: str) -> bool:
    return name.rpartition(".")[2] in {"py", "md", "yaml", "json", "jsonl", "parquet", "html", "sh"}


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_a_page_names_exists(name):
    spans = said(ALL[name])
    missing = []
    for path in dict.fromkeys(dotted(spans)):
        try:
            resolve(path)
        except (ModuleNotFoundError, AttributeError) as error:
            missing.append(f"{path}: {error}")
    missing += [word for word in files(spans) if not any(ROOT.glob(word.rstrip("/")))]
    assert missing == []


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_commands_in_a_page_s_text_exist(name):
    # Calls that differ in their values only have the same help, which is what takes the time.
    kinds = {
        (line.split()[1], *sorted(re.findall(r" (-[-\w]+)", line))): line
        for line in commands(said(ALL[name]))
    }
    for line in kinds.values():
        pages.check_exists(line)


def test_a_wrong_name_is_found():
    with pytest.raises(AttributeError):
        resolve("analysis.circuits.mib.read_bim")
    with pytest.raises(AssertionError):
        pages.check_exists("headscope score induction --modle organism/text")
    assert dotted(["hooks.capture.each_pattern", "headscope.load(name)", "a.b", "jobs/recipes/"]) == [
        "hooks.capture.each_pattern",
        "headscope.load",
    ]
    assert files(["jobs/recipes/", "python benchmarks/jobs.py --only rate", "organism/text"]) == [
        "jobs/recipes/",
        "benchmarks/jobs.py",
    ]
