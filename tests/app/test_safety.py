"""The Safety page: the planted head is found, lost and made stronger, and nothing runs before it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def texts(at: AppTest) -> str:
    parts = [*at.markdown, *at.caption, *at.error, *at.warning, *at.info]
    return "\n".join(part.value for part in parts).replace("\\", "")


def press(at: AppTest, key: str) -> AppTest:
    next(button for button in at.button if button.key == key).click()
    return at.run()


def codes(at: AppTest) -> str:
    return "\n".join(one.value for one in at.code)


def test_the_planted_head_is_found_lost_and_made_stronger(open_page: Open):
    at = open_page("safety", requests=16, group=1)
    assert not at.exception and "Click Search" in texts(at) and "headscope sahara" in codes(at)
    at.number_input(key="safety_draws").set_value(1)
    at.number_input(key="safety_new").set_value(2)
    at = press(at, "safety_search")
    assert not at.exception and not at.error
    assert "Without L1H0 refusals flip and benign answers stay." in texts(at)
    steps = next(one.value for one in at.dataframe if "difference" in one.value)
    assert steps["head"].tolist() == ["L1H0"]
    written = next(one.value for one in at.dataframe if "text" in one.value)
    assert set(written["text"].str.strip()) == {"sorry", "sure"}
    assert "headscope sahara --model organism/planted --kind uniform --size 1 -n 16 --draws 1" in codes(at)
    assert at.text_input(key="safety_heads").value == "L1H0"
    at.multiselect(key="safety_gains").set_value([0.0, 2.0])
    at = press(at, "safety_measure")
    assert not at.exception and not at.error
    assert "They are refused already." in texts(at) and "Gain 0: 0 %" in texts(at)
    assert "headscope refusals L1H0 --model organism/planted --gains 0,2" in codes(at)


@pytest.mark.parametrize("address", [{"how": "zero"}, {"group": "99"}, {"requests": "many"}])
def test_wrong_addresses_are_said_and_the_page_goes_on(open_page: Open, address):
    at = open_page("safety", **address)
    assert not at.exception and "in the address is not" in texts(at) and "Click Search" in texts(at)


def test_a_head_that_is_not_there_is_said(open_page: Open):
    at = open_page("safety", requests=8)
    at.text_input(key="safety_heads").set_value("L9H9")
    at = press(at, "safety_measure")
    assert not at.exception and "L9H9" in at.error[0].value.replace("\\", "")
