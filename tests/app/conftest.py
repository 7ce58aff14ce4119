"""Open a page of the workbench without a browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

SCRIPT = """
import importlib
from headscope.app import state, widgets
state.settle()
widgets.framed(importlib.import_module("headscope.app.{module}").page)
"""


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    """Return a function that opens a page's module at an address: `open_page("patterns", layer=2, head=1)`.

    The model is `organism/planted` unless the address names one.
    """

    def opened(module: str, **address: object) -> AppTest:
        at = AppTest.from_string(SCRIPT.format(module=module), default_timeout=300)
        for name, value in ({"model": "organism/planted"} | address).items():
            at.query_params[name] = str(value)
        return at.run()

    return opened
