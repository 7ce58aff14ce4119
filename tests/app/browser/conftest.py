"""The workbench in a real browser; skipped, with the reason, where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser_driver
import pytest


@pytest.fixture(scope="session")
def url(chromium_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running app with an empty folder of runs."""
    folder = tmp_path_factory.mktemp("app")
    with browser_driver.served(folder / "runs", folder / "log") as address:
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab of its own; fails if anything ran that must not, or was asked of another machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
            else wrong.append(f"request: {request.url}")
        ),
    )
    yield opened
    context.close()
    assert not wrong
