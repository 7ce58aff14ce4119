"""The Circuits page: the planted edge stands out, and what is missing is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def texts(at: AppTest) -> str:
    parts = [*at.markdown, *at.caption, *at.error, *at.warning, *at.info]
    return "\n".join(part.value for part in parts).replace("\\", "")


def test_it_shows_composition_beside_the_stated_circuit(open_page: Open):
    at = open_page("circuits", layer=2, head=1)
    assert not at.exception and not at.error and not at.warning
    assert "not in the package yet" in texts(at) and "L0H2 feeds the keys of L2H1" in texts(at)
    assert at.dataframe[0].value.iloc[0]["writer"] == "L0H2"


def test_the_address_holds_the_threshold_and_the_way_in(open_page: Open):
    at = open_page("circuits", through="K", threshold=0)
    assert not at.exception and not at.warning
    assert set(at.dataframe[0].value["through"]) == {"K"} and len(at.dataframe[0].value) == 48


@pytest.mark.parametrize("address", [{"through": "Z"}, {"threshold": "high"}, {"threshold": "-3"}])
def test_wrong_addresses_are_said_and_the_page_goes_on(open_page: Open, address):
    at = open_page("circuits", **address)
    assert not at.exception and "in the address is not" in texts(at)
    assert len(at.dataframe[0].value)
