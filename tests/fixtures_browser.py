"""A headless browser for the tests of a module.

Not for a session: Playwright keeps an event loop running as long as it is open, so that nothing else in the process
could start one, a second browser included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser_driver
import pytest


@pytest.fixture(scope="session")
def chromium_here() -> None:
    """Skip, with the reason, where there is no browser."""
    pytest.importorskip("playwright", reason="the browser tests need the playwright package (extra: test)")
    if not browser_driver.CHROMIUM:
        pytest.skip("the browser tests need Chromium: apt-get install chromium, or name it in CHROMIUM")


@pytest.fixture(scope="module")
def browser(chromium_here: None) -> Iterator[Any]:
    """A headless Chromium."""
    with browser_driver.chromium() as started:
        yield started
