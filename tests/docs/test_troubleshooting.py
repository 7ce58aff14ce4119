"""The page of errors names every error, and every recipe for a change is true to the package."""

from __future__ import annotations

import inspect
from itertools import pairwise

import pages

from headscope import errors

PAGE = pages.ROOT / "docs" / "how-to" / "troubleshooting.md"
BASES = {"HeadscopeError", "CallError", "RunError"}


def test_every_error_has_its_place():
    text = PAGE.read_text(encoding="utf-8")
    known = {
        name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)
    }
    headings = " ".join(line for line in text.splitlines() if line.startswith("### "))
    assert known - BASES <= set(headings.replace(",", " ").split())


def test_the_common_ones_are_provoked_and_their_words_compared():
    found = pages.blocks(PAGE)
    provoked = {block.fails for block in found if block.fails}
    assert len(provoked) >= 10
    assert all(after.prints for block, after in pairwise(found) if block.fails and not block.title)
