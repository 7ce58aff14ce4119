"""The way through the workbench, clicked and typed in a real browser."""

from __future__ import annotations

import csv
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from browser_driver import PATIENCE, settle, visit

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)> beach <script>alert(2)</script> ![x](http://127.0.0.9/x.png)"
PLANTED = {"model": "organism/planted"}


def address(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


def head(page: Any) -> tuple[str, str]:
    return tuple(page.get_by_label(label, exact=True).input_value() for label in ("Layer", "Head"))


def wait_for_head(page: Any, layer: int, index: int) -> None:
    caption = page.get_by_text(f"L{layer}H{index}: each row is a token that looks")
    caption.wait_for(timeout=1000 * PATIENCE)
    settle(page)
    assert head(page) == (str(layer), str(index))


def click_cell(page: Any, layer: int, index: int, shape: tuple[int, int] = (3, 4)) -> None:
    """Click the middle of a cell of the grid of patterns."""
    box = (
        page.locator(".js-plotly-plot")
        .first.locator(".layer-below .imagelayer image, .imagelayer image")
        .first
    )
    frame = box.bounding_box()
    x = frame["x"] + (index + 0.5) * frame["width"] / shape[1]
    y = frame["y"] + (layer + 0.5) * frame["height"] / shape[0]
    page.mouse.move(x, y)
    page.mouse.click(x, y)


def test_a_click_on_the_grid_opens_the_right_head_and_the_address_says_so(page, url):
    visit(page, url, "patterns", **PLANTED)
    click_cell(page, 1, 3)
    wait_for_head(page, 1, 3)
    assert (address(page)["layer"], address(page)["head"]) == ("1", "3")
    click_cell(page, 0, 2)
    wait_for_head(page, 0, 2)
    page.get_by_role("button", name="Next").click()
    wait_for_head(page, 0, 3)
    click_cell(page, 0, 2)  # plotly calls this a second click on the same point
    wait_for_head(page, 0, 2)


def test_arrow_keys_move_between_heads_but_not_while_typing(page, url):
    visit(page, url, "patterns", layer=1, head=1, **PLANTED)
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    wait_for_head(page, 1, 2)
    page.keyboard.press("ArrowLeft")
    wait_for_head(page, 1, 1)
    page.get_by_label("Prompt", exact=True).click()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(800)
    assert head(page) == ("1", "1")


def test_an_address_shows_the_same_view_elsewhere(page, url, browser):
    visit(page, url, "patterns", **PLANTED)
    page.get_by_label("Prompt", exact=True).fill("beach fossil beach")
    page.keyboard.press("Control+Enter")
    page.get_by_text("“beach” looks at").wait_for(timeout=1000 * PATIENCE)
    click_cell(page, 2, 1)
    wait_for_head(page, 2, 1)
    other = browser.new_context().new_page()
    other.goto(page.url, timeout=1000 * PATIENCE)
    settle(other)
    assert head(other) == ("2", "1")
    assert other.get_by_label("Prompt", exact=True).input_value() == "beach fossil beach"
    assert other.get_by_text("3 “beach” looks at 2 “fossil”").count() == 1
    other.context.close()


def test_hovering_paints_and_a_click_keeps_the_token(page, url):
    visit(page, url, "patterns", layer=0, head=2, prompt="beach fossil crystal ginger", **PLANTED)
    words = page.locator(".words span")
    says = page.locator(".says")
    words.nth(2).hover()
    assert says.inner_text().startswith("2 “fossil” looks at 1 “beach”")
    words.nth(3).click()
    page.wait_for_function("() => location.search.includes('token=3')", timeout=1000 * PATIENCE)
    settle(page)
    words.nth(2).hover()
    assert says.inner_text().startswith("3 “crystal”")
    words.nth(3).click()
    page.wait_for_function("() => !location.search.includes('token=')", timeout=1000 * PATIENCE)


@pytest.mark.parametrize("view", ["Text", "Lines", "Neurons"])
def test_a_prompt_with_markup_is_shown_as_text_everywhere(page, url, view):
    visit(page, url, "patterns", prompt=EVIL, view=view, token=2, **PLANTED)
    assert page.get_by_label("Prompt", exact=True).input_value() == EVIL
    assert page.locator("img[src='x']").count() == 0
    assert page.locator("[onerror]").count() == 0
    if view == "Text":
        shown = page.locator(".words").inner_text()
        assert EVIL.split("beach")[0].strip() in shown or "<unk>" in shown


@pytest.mark.parametrize("path", ["", "patterns", "intervene", "safety", "circuits", "vision", "runs"])
def test_no_page_turns_a_prompt_or_an_address_into_markup(page, url, path):
    visit(page, url, path, prompt=EVIL, method=EVIL, beside=EVIL, also=EVIL, **PLANTED)
    assert page.locator("img[src='x'], [onerror]").count() == 0
    assert page.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ({"change": "split-softmax", "keys": EVIL, "at": EVIL}, "write whole numbers with commas between"),
        ({"change": "juice", "less": EVIL}, "is not a head"),
        ({"change": "add", "along": EVIL, "gain": EVIL}, "in the address is not"),
        ({"from": "typed", "heads": EVIL, "change": EVIL}, "is not a head"),
    ],
    ids=["keys", "suppressed", "directions", "heads"],
)
def test_what_is_asked_of_a_change_is_never_markup(page, url, address, said):
    visit(page, url, "intervene", **address, **PLANTED)
    alerts = "\n".join(page.locator("[data-testid=stAlert]").all_inner_texts())
    assert said in alerts and "<img" in alerts
    assert page.locator("img[src='x'], [onerror]").count() == 0
    assert page.locator("[data-testid=stException]").count() == 0


def test_two_tabs_with_different_models_do_not_disturb_each_other(page, url, browser):
    visit(page, url, "patterns", layer=2, head=1, prompt="beach fossil beach", **PLANTED)
    other = browser.new_context().new_page()
    visit(other, url, "patterns", layer=2, head=1)
    before = page.locator(".says").inner_text()
    page.get_by_role("button", name="Next").click()
    other.get_by_role("button", name="Next").click()
    wait_for_head(page, 2, 2)
    wait_for_head(other, 2, 2)
    page.get_by_role("button", name="Previous").click()
    wait_for_head(page, 2, 1)
    assert page.locator(".says").inner_text() == before
    assert page.locator("[data-testid=stException], [data-testid=stAlert]").count() == 0
    other.context.close()


def test_find_inspect_and_export(page, url, tmp_path):
    visit(page, url, "patterns", prompt="beach fossil beach", **PLANTED)
    click_cell(page, 2, 1)
    wait_for_head(page, 2, 1)
    with page.expect_download(timeout=1000 * PATIENCE) as download:
        page.get_by_role("button", name="Download the pattern as CSV").click()
    file = tmp_path / "pattern.csv"
    download.value.save_as(file)
    assert download.value.suggested_filename == "planted-L2H1.csv"
    rows = list(csv.DictReader(file.open()))
    strongest = max((row for row in rows if row["query"] == "3"), key=lambda row: float(row["weight"]))
    assert (strongest["query_token"].strip(), strongest["key_token"].strip()) == ("beach", "fossil")
    assert float(strongest["weight"]) > 0.9


def test_every_page_opens_without_an_error_and_every_control_has_a_label(page, url):
    visit(page, url, "", **PLANTED)
    for name in ("Patterns", "Intervene", "Safety", "Circuits", "Vision", "Runs", "Heads"):
        page.get_by_role("link", name=name, exact=True).click()
        settle(page)
        assert page.locator("[data-testid=stException]").count() == 0, name
        assert "organism/planted" in page.locator("[data-testid=stSidebar]").inner_html()
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, select')]
                .filter((e) => e.offsetParent && !e.labels?.length)
                .filter((e) => !e.ariaLabel && !e.getAttribute('aria-labelledby'))
                .map((e) => e.outerHTML.slice(0, 200))"""
        )
        assert not unnamed, name


def choose(page: Any, label: str, option: str) -> None:
    """Pick an option of a select box by its label."""
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()
    settle(page)


def test_the_whole_way_find_inspect_intervene_export(page, url, tmp_path):
    visit(page, url, "", model="organism/text", layer=0, head=0)
    choose(page, "Score", "retrieval")
    grid = page.locator(".js-plotly-plot").first.locator(".nsewdrag").first.bounding_box()
    page.mouse.move(2, 2)  # a click counts where the mouse was moved to, as a hand does it
    page.mouse.click(grid["x"] + 2.5 / 8 * grid["width"], grid["y"] + 2.5 / 4 * grid["height"])
    page.locator("h3", has_text="L2H2").wait_for(timeout=1000 * PATIENCE)
    settle(page)
    assert page.get_by_text("rank 1 of 32", exact=False).count() == 1
    page.get_by_role("link", name="Intervene", exact=True).click()
    page.get_by_role("heading", name="Changed", exact=True).wait_for(timeout=1000 * PATIENCE)
    settle(page)
    assert head(page) == ("2", "2")
    for title in ("Clean", "Random control"):
        assert page.get_by_role("heading", name=title, exact=True).is_visible()
    assert page.get_by_text("uniform of L2H2", exact=True).is_visible()
    page.get_by_role("button", name="Measure").click()
    export = page.get_by_role("button", name="Download CSV")
    export.wait_for(timeout=1000 * PATIENCE)
    settle(page)
    with page.expect_download(timeout=1000 * PATIENCE) as download:
        export.click()
    file = tmp_path / "effect.csv"
    download.value.save_as(file)
    rows = {row["arm"]: row for row in csv.DictReader(file.open())}
    assert list(rows) == ["clean", "changed", "control", "changed - control"]
    assert {row["n"] for row in rows.values()} == {"24"}
    assert float(rows["changed"]["high"]) < -0.1, (
        "without its induction head the model forgets what it repeats"
    )
    assert abs(float(rows["control"]["effect"])) < 0.01 and float(rows["changed - control"]["p"]) < 0.01


def test_a_first_visitor_sees_a_head_that_does_something_and_links_stay_true(page, url, browser):
    visit(page, url, "patterns")
    wait_for_head(page, 2, 2)
    assert not {"layer", "head", "model"} & address(page).keys()
    click_cell(page, 0, 0, shape=(4, 8))
    wait_for_head(page, 0, 0)
    assert (address(page)["layer"], address(page)["head"]) == ("0", "0")
    other = browser.new_context().new_page()
    other.goto(page.url, timeout=1000 * PATIENCE)
    wait_for_head(other, 0, 0)
    choose(other, "Model", "organism/planted")
    wait_for_head(other, 0, 0)
    assert (address(other)["layer"], address(other)["head"]) == ("0", "0")
    other.context.close()
    click_cell(page, 2, 2, shape=(4, 8))
    wait_for_head(page, 2, 2)
    assert not {"layer", "head"} & address(page).keys()
    choose(page, "Model", "organism/planted")
    wait_for_head(page, 2, 1)
    assert not {"layer", "head"} & address(page).keys()


@pytest.mark.parametrize(
    "source", [{}, {"circuit": "by the weights", "threshold": "0"}], ids=["found", "weights"]
)
def test_a_node_of_the_circuit_leads_to_its_head_card(page, url, source):
    visit(page, url, "circuits", **source, **PLANTED)
    for name in ("L1H1", "L0H2"):
        box = page.locator(".js-plotly-plot text", has_text=name).first.bounding_box()
        page.mouse.move(2, 2)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.get_by_role("link", name=f"Open the card of {name}").wait_for(timeout=1000 * PATIENCE)
        settle(page)
    page.get_by_role("link", name="Open the card of L0H2").click()
    page.locator("h3", has_text="L0H2").wait_for(timeout=1000 * PATIENCE)
    settle(page)
    assert page.get_by_role("heading", name="Heads", exact=True).is_visible()
    assert address(page) == {"model": "organism/planted", "layer": "0", "head": "2"}


def test_a_position_of_a_longer_prompt_gives_way_to_the_shorter_ones(page, url):
    words = "beach fossil beach poem mirror closet poem"
    visit(page, url, model="organism/planted", card="Writes", prompt=words, written_at=7)
    assert page.get_by_label("At token").input_value() == "7"
    page.get_by_label("Prompt", exact=True).fill("beach fossil")
    page.keyboard.press("Control+Enter")
    settle(page)
    page.wait_for_timeout(500)
    settle(page)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.get_by_label("At token").input_value() == "2"
