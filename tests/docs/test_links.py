"""Links in README and docs/ lead somewhere: files, headings and pictures are there; addresses have the right form."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest

SOURCES = [*pages.PAGES, *(pages.ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
ALL = {page.relative_to(pages.ROOT).as_posix(): page for page in SOURCES if page.exists()}
# Pages that are made when the site is built: no file of the checkout, and checked in the built site.
GENERATED = re.compile(r"docs/(reference|notebooks)/[\w./-]+\.md")
EXTERNAL = re.compile(r"https://[a-z0-9.-]+\.[a-z]{2,}(/[\w./%@+=:?&~-]*)?(#[\w./-]+)?")


def prose(page: Path) -> str:
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(\s*([^)\s]+)(?:\s+\"[^\"]*\")?\s*\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a code host and the site make them."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+?)\s*$", text, flags=re.M):
        named = re.search(r"\{#([\w.-]+)\}", heading)
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*_]", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        found |= {named[1]} if named else {slug, re.sub(r"-+", "-", slug)}
    return found


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_links_of(name):
    page = ALL[name]
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert EXTERNAL.fullmatch(link), f"{name}: {link} is no https address"
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.relative_to(pages.ROOT).as_posix()
        if GENERATED.fullmatch(inside):
            continue
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert target.suffix == ".md" and anchor in anchors(target), f"{name}: {link}: no such heading"


def test_every_picture_says_what_it_shows_and_is_used():
    used = set()
    for page in ALL.values():
        for words, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", prose(page)):
            assert len(words.split()) >= 4, f"{page.name}: {path}"
            used.add((page.parent / path).resolve())
    assert set((pages.ROOT / "docs").rglob("*.png")) <= used


def test_a_wrong_link_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# One two\n\n[there](#one-two) [not](#three) `[code](x)`\n\n```text\n[nor](y)\n```\n")
    assert links(page) == ["#one-two", "#three"] and anchors(page) == {"one-two"}
