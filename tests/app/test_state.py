"""What stands in the address, and what happens when it is wrong."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from headscope.app import widgets
from headscope.hooks.heads import Head


def selected(at) -> Head:
    return Head(at.session_state["layer"], at.session_state["head"])


def test_an_address_opens_its_head_and_its_prompt(open_page):
    at = open_page("patterns", layer=2, head=1, prompt="beach fossil beach")
    assert not at.exception and not at.warning
    assert selected(at) == (2, 1)
    assert at.text_area(key="prompt").value == "beach fossil beach"
    assert at.number_input(key="layer").value == 2 and at.number_input(key="head").value == 1


def test_an_address_without_a_head_means_the_head_that_the_card_names(open_page):
    assert selected(open_page("patterns")) == (2, 1)
    assert selected(open_page("patterns", layer=0)) == (0, 1)
    assert selected(open_page("patterns", layer=0, head=0)) == (0, 0)


@pytest.mark.parametrize(
    ("address", "sentence", "head"),
    [
        ({"layer": 7, "head": 1}, "organism/planted has layers 0-2, not 7; shown instead: layer 2.", (2, 1)),
        ({"layer": 1, "head": -1}, "organism/planted has heads 0-3, not -1; shown instead: head 0.", (1, 0)),
        ({"layer": "x"}, "layer=x in the address is not a number; shown instead: layer 2.", (2, 1)),
    ],
)
def test_a_wrong_head_in_the_address_is_said_once_and_the_page_goes_on(open_page, address, sentence, head):
    at = open_page("patterns", **address)
    assert [one.value for one in at.warning] == [widgets.md(sentence)]
    assert not at.exception and not at.error
    assert selected(at) == head
    at.run()
    assert not at.warning


def test_a_wrong_model_in_the_address_is_said_and_the_default_is_shown(open_page):
    at = open_page("patterns", model="organism/plantde", layer=1)
    (warning,) = at.warning
    assert "plantde" in warning.value and "Nearest" in warning.value and "Shown instead" in warning.value
    assert not at.exception and at.session_state["model"] in ("organism/text", "organism/planted")
    assert selected(at).layer == 1


def test_buttons_go_through_the_layers_and_around(open_page):
    at = open_page("patterns", layer=0, head=3)
    assert selected(at.button(key="sidebar_after").click().run()) == (1, 0)
    at.button(key="sidebar_before").click().run()
    assert selected(at.button(key="sidebar_before").click().run()) == (0, 2)
    at = open_page("patterns", layer=0, head=0)
    assert selected(at.button(key="sidebar_before").click().run()) == (2, 3)


def test_an_example_prompt_keeps_its_answer(open_page):
    at = open_page("patterns")
    kind = at.selectbox(key="sidebar_example").options[0]
    at.selectbox(key="sidebar_example").set_value(kind).run()
    from headscope.app import models

    example = models.examples(models.Choice("organism/planted"))[kind]
    assert at.text_area(key="prompt").value == example.text and example.answer and example.corrupted


def test_a_folder_that_is_no_model_is_said_and_the_old_one_stays_usable(open_page, tmp_path):
    at = open_page("patterns")
    at.text_input(key="sidebar_another").set_value(str(tmp_path)).run()
    (warning,) = at.warning
    assert "config" in warning.value and not at.exception
    assert at.session_state["model"].startswith("organism/")


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "![x](http://e.org/x.png)", "$x$ :red[a] `b`"]
)
def test_escaped_text_has_no_markdown_left(text):
    escaped = widgets.md(text)
    assert escaped.replace("\\", "") == text
    for index, character in enumerate(escaped):
        if character in "<>[]()`$:!*_":
            assert escaped[index - 1] == "\\"


def test_a_click_is_read_from_what_plotly_reports():
    event = {"selection": {"points": [{"customdata": [3, 1], "x": 1, "y": 3}]}}
    assert widgets.head_of(event) == Head(3, 1)
    assert widgets.head_of({"selection": {"points": []}}) is None and widgets.head_of(None) is None


def test_a_key_names_one_widget_on_all_pages():
    """Pages share the state: what one page's widget left under a key is read by another page's widget of that key."""
    found = defaultdict(set)
    for file in Path(widgets.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            for word in call.keywords:
                if word.arg == "key" and isinstance(word.value, ast.Constant):
                    found[word.value.value].add((call.func.attr, *map(ast.unparse, call.args)))
    assert len(found) > 50 and len(found["seed"]) == 1
    assert {key: widgets for key, widgets in found.items() if len(widgets) > 1} == {}
