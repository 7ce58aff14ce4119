"""The patterns page: loads, follows its address, and survives what is wrong in it."""

from __future__ import annotations

import pytest

EVIL = "<img src=x onerror=alert(1)> beach"


def test_the_page_shows_all_heads_one_head_and_the_text(open_page):
    at = open_page("patterns", layer=2, head=1)
    assert not at.exception and not at.error
    assert at.title[0].value == "Patterns"
    assert any("L2H1" in caption.value for caption in at.caption)
    assert len(at.get("plotly_chart")) == 2


@pytest.mark.parametrize("view", ["Text", "Lines", "Neurons"])
@pytest.mark.parametrize("token", [None, 3])
def test_every_view_opens_from_its_address(open_page, view, token):
    at = open_page("patterns", view=view, layer=2, head=1, **({} if token is None else {"token": token}))
    assert not at.exception and not at.error
    assert at.number_input(key="token").value == token


def test_clean_and_corrupted_stand_side_by_side(open_page):
    at = open_page("patterns", beside="its corrupted form")
    assert not at.exception and [one.value for one in at.subheader] == ["Prompt", "Corrupted"]
    assert len(at.get("plotly_chart")) == 4


def test_two_prompts_of_different_length_stand_side_by_side(open_page):
    at = open_page("patterns", beside="another prompt", other="beach fossil", token=30, view="Neurons")
    assert not at.exception and not at.error
    assert len(at.subheader) == 2


@pytest.mark.parametrize(
    "address",
    [
        {"token": 999},
        {"token": "x"},
        {"view": "Nonsense"},
        {"show": "nonsense"},
        {"beside": "nonsense"},
        {"view": "Neurons", "token": 5, "key": 9},
        {"view": "Lines", "also": "L9H9"},
        {"prompt": EVIL},
        {"prompt": "beach"},
    ],
)
def test_wrong_values_in_the_address_do_not_stop_the_page(open_page, address):
    at = open_page("patterns", **address)
    assert not at.exception and not at.error
    assert at.title[0].value == "Patterns"


def test_a_prompt_that_is_too_long_is_one_sentence_and_the_next_one_works(open_page):
    at = open_page("patterns", prompt="beach " * 400)
    (error,) = at.error
    assert "401 tokens" in error.value and "at most 256" in error.value
    assert not at.exception
    at.text_area(key="prompt").set_value("beach fossil beach").run()
    assert not at.error and len(at.get("plotly_chart")) == 2


def test_weighted_attention_is_named_on_its_scale(open_page):
    at = open_page("patterns", show="weighted by ‖v·W_O‖")
    assert "W_O" in at.get("plotly_chart")[1].proto.spec
