"""The Vision page says what is missing."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest


def test_a_text_model_has_no_image_to_attend_to(open_page: Callable[..., AppTest]):
    at = open_page("vision")
    assert not at.exception and not at.error
    assert "reads text only" in at.info[0].value
