"""The site that `make docs` builds: complete, every link leads somewhere, nothing comes from the network."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pages
import pytest
from browser_driver import PATIENCE

sys.path.insert(0, str(pages.ROOT / "docs" / "generate"))
import reference_commands
import reference_pages

pytestmark = pytest.mark.slow

_LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page of the site has (anchors and the text below them), links to, and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: dict[str, int] = {}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self._hidden = 0
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if "id" in given:
            self.ids[given["id"]] = len(self.text)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in _LOADS and given.get(_LOADS[tag]) and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given[_LOADS[tag]])
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Path]:
    """The site, built as `make docs` builds it: a warning is an error."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(pages.ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.run_event("startup", command="build", dirty=False)
    build(config)
    yield folder


@cache
def read(path: Path) -> Page:
    return Page(path)


def html(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def test_every_page_of_docs_is_there_and_in_the_navigation(site):
    navigation = {link.split("#")[0] for link in read(site / "index.html").links}
    for page in (pages.ROOT / "docs").rglob("*.md"):
        name = page.relative_to(pages.ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / name).exists()
        assert name in navigation, f"docs/{name}: no entry in mkdocs.yml"


def test_every_link_anchor_and_picture_leads_somewhere(site):
    for path in html(site):
        page = read(path)
        for link in {*page.links, *page.loads}:
            if re.match(r"(https?|mailto|data|javascript):", link):
                continue
            where, _, anchor = link.partition("#")
            target = (path.parent / where.split("?")[0]).resolve() if where else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert anchor in read(target).ids, f"{path.relative_to(site)}: {link}: no such anchor"


def test_nothing_is_loaded_from_the_network(site):
    for path in html(site):
        for address in read(path).loads:
            assert not re.match(r"(\w+:)?//", address), f"{path.relative_to(site)} loads {address}"
    for path in [*site.rglob("*.css"), *html(site)]:
        outside = re.findall(r"(?:url\(|@import\s)['\"]?((?:https?:)?//[^'\")]+)", path.read_text("utf-8"))
        assert not outside, f"{path.relative_to(site)} loads {outside}"
    # Addresses in scripts: names of formats, a comment's, and what is asked only for a repository that none is set for.
    harmless = (
        r"www\.w3\.org|clipboardjs\.com|api\.github\.com|bit\.ly|reactivex\.io|lunrjs\.com|tartarus\.org|\$\{"
    )
    for path in [path for path in site.rglob("*.js") if path.name != "search_index.js"]:  # words of pages
        for address in re.findall(r"https?://[^\s\"'`)]+", path.read_text("utf-8")):
            assert re.match(rf"https?://({harmless})", address), f"{path.name}: {address}"


def plain(text: str) -> str:
    """Letters, digits and spaces."""
    return " ".join(re.findall(r"\w+", text))


def test_every_public_name_has_an_entry_with_its_description(site):
    """Of the front door, of all modules, of every registry, and every command, kind of step and recipe."""
    found = list(reference_pages.names())
    places = [(page, anchor) for page, anchor, _ in found]
    assert len(places) == len(set(places)) > 900
    for page, anchor, line in found:
        shown = read(site / "reference" / f"{page}.html")
        assert anchor in shown.ids, f"reference/{page}: no entry for {anchor}"
        assert len(line.split()) >= 2, f"{anchor} has no description"
        below = plain("".join(shown.text[shown.ids[anchor] :])[:20_000])
        assert plain(line)[:60] in below, f"reference/{page}: {anchor} does not say {line!r}"


def test_the_front_door_says_what_every_argument_is():
    import headscope

    functions = [value for name in headscope.__all__ if inspect.isfunction(value := getattr(headscope, name))]
    assert len(functions) > 15
    for function in functions:
        text = inspect.getdoc(inspect.unwrap(function)) or ""
        for name in inspect.signature(function).parameters:
            assert re.search(rf"^ +\*{{0,2}}(\w+, )*{name}(, \w+)*:", text, flags=re.M), (
                f"{function.__name__}: {name}"
            )


def test_the_reference_is_made_from_all_there_is():
    import headscope
    from headscope.analysis.circuits.discover import discoveries
    from headscope.analysis.registry import methods

    entries = {(page, anchor) for page, anchor, _ in reference_pages.names()}
    assert {("headscope", f"headscope.{name}") for name in headscope.__all__} <= entries
    for page, known in (("methods", methods()), ("circuit-methods", discoveries())):
        ours = {name for name, one in known.items() if one.function.__module__.startswith("headscope.")}
        assert {(page, name) for name in ours} <= entries
    words = {" ".join(words) for words, _ in reference_commands.commands()}
    assert {"headscope score", "headscope circuit find", "headscope runs export"} <= words
    assert ("api/headscope.hooks", "headscope.hooks.load.load") in entries
    assert ("errors", "NoEffect") in entries
    assert ("interventions", "Zero") in entries and ("steering", "juice") in entries


def test_in_a_browser_it_opens_from_disk_asks_nobody_and_finds_words(site, browser):
    asked: list[str] = []
    errors: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").click()
    page.keyboard.type("split_softmax")
    page.wait_for_selector(".md-search-result__item a")
    page.locator(".md-search-result__item a").first.click()
    page.wait_for_load_state()
    assert "split" in page.locator("article").inner_text().lower()
    page.close()
    assert not errors
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))]
