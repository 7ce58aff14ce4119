"""Clicks on the page of all heads in a real browser: one selection at a time, and a second click clears it."""

from __future__ import annotations

from typing import Any

import pytest

from headscope.app import heads

pytestmark = pytest.mark.slow


def _place(page: Any, plot: int, across: float, down: float) -> tuple[float, float]:
    box = page.locator(".js-plotly-plot").nth(plot).locator(".nsewdrag").first.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def _click(page: Any, plot: int, across: float, down: float) -> None:
    page.mouse.move(2, 2)  # a click counts where the mouse was moved to, as a hand does it
    page.mouse.click(*_place(page, plot, across, down))


def _grid(page: Any, layer: int, head: int) -> None:
    _click(page, 0, (head + 0.5) / 4, (layer + 0.5) / 3)  # the planted model has 3 × 4 heads


def _shown(page: Any, head: str) -> None:
    page.locator("h3", has_text=head).wait_for(timeout=120_000)


def test_clicks_select_one_head_and_a_second_click_clears(page: Any, url: str) -> None:
    page.goto(f"{url}/?model=organism/planted&layer=0&head=0", timeout=120_000)
    _shown(page, "L0H0")
    page.locator(".js-plotly-plot").nth(2).wait_for(timeout=120_000)
    _grid(page, 2, 1)
    _shown(page, "L2H1")
    assert "layer=0" not in page.url and "head=0" not in page.url
    _grid(page, 2, 1)
    page.get_by_text(heads.HINT).wait_for(timeout=120_000)
    _grid(page, 2, 1)
    _shown(page, "L2H1")


def test_the_list_answers_to_clicks_beside_its_shortest_bars(page: Any, url: str) -> None:
    page.goto(f"{url}/?model=organism/planted&layer=2&head=1", timeout=120_000)
    _shown(page, "L2H1")
    page.locator(".js-plotly-plot").nth(2).wait_for(timeout=120_000)
    _click(page, 2, 0.5, 1.5 / 12)
    page.locator("h3:not(:has-text('L2H1'))").wait_for(timeout=120_000)
    assert page.locator("h3").count() == 1
