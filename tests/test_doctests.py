"""Every example in a docstring of the package runs."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import headscope

ROOT = Path(headscope.__file__).parent
ROOMS = ("analysis", "datasets", "hooks", "organisms", "jobs", "app")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def names() -> list[str]:
    files = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
    with_examples = [file for file in files if ">>>" in file.read_text(encoding="utf-8")]
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in with_examples]
    return sorted(".".join(["headscope", *(part for part in path if part != "__init__")]) for path in parts)


@pytest.mark.parametrize("name", names())
def test_examples_of(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0, (
        f"{result.failed} of {result.attempted} examples failed; see the captured output"
    )
    assert result.attempted > 0, ">>> stands in the module, but outside any docstring"


def test_there_are_examples():
    assert len(names()) >= 5
