"""The page of all heads: loads, deep links, wrong addresses, what was not run, and what its buttons make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from headscope.app import heads, models, results, widgets
from headscope.app.results import Asked
from headscope.hooks.heads import Head

MAIN = Path(heads.__file__).with_name("main.py")
Open = Callable[..., AppTest]


@pytest.fixture
def open_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens the app with the planted model and an address."""
    monkeypatch.setenv("HEADSCOPE_APP_RUNS", str(tmp_path))

    def run(**address: str) -> AppTest:
        app = AppTest.from_file(str(MAIN), default_timeout=600)
        for name, value in {"model": "organism/planted", **address}.items():
            app.query_params[name] = value
        return app.run()

    yield run
    results._box.clear()  # what one test made is not run in the next


def words(app: AppTest) -> str:
    """Everything written on the page."""
    kinds = (app.markdown, app.caption, app.warning, app.error, app.info, app.subheader, app.title)
    return "\n".join(str(one.value) for kind in kinds for one in kind).replace("\\", "")


def button(app: AppTest, key: str):
    return next(one for one in app.button if one.key == key)


def test_it_opens_with_a_scored_grid_and_a_card(open_app: Open) -> None:
    app = open_app(layer="2", head="1")
    assert not app.exception and not app.error
    assert "L2H1" in words(app) and "rank 1 of 12" in words(app)
    assert "From attention alone" in words(app)


def test_a_deep_link_opens_the_head_the_score_and_the_tab(open_app: Open) -> None:
    app = open_app(layer="0", head="2", method="previous-token", card="Neighbours")
    assert not app.exception and not app.error
    assert "L0H2" in words(app) and "previous-token" in words(app)
    assert "there is no layer before" in words(app) and "These read what it writes" in words(app)


def test_wrong_values_in_the_address_give_a_sentence_each_and_the_page_goes_on(open_app: Open) -> None:
    app = open_app(
        layer="99", head="x", method="inducton", against="foo", metric="bar", flow="up", card="Nope"
    )
    assert not app.exception
    said = words(app)
    for part in ("'inducton'", "'foo'", "'bar'", "'up'", "'Nope'", "99", "head=x"):
        assert part in said, part
    assert "rank" in said and "induction" in said


def test_hostile_values_in_the_address_stay_text(open_app: Open) -> None:
    app = open_app(method="<img src=x onerror=alert(1)>", card="[a](javascript:alert(1))")
    assert not app.exception
    said = [one.value for one in app.warning]
    assert any(r"\<img src\=x" in one or r"\<img src=x" in one for one in said)
    assert not any("](javascript" in one for one in said)


def test_scores_that_were_not_run_say_so_until_they_are(open_app: Open) -> None:
    app = open_app(layer="2", head="1")
    table = next(one.value for one in app.dataframe if "state" in one.value)
    states = dict(zip(table["name"], table["state"], strict=True))
    assert states["entropy"] == "not run" and states["induction"] == "from attention alone"
    assert table.set_index("name").loc["entropy", "score"] != 0
    button(app, "heads_all").click()
    app.run()
    table = next(one.value for one in app.dataframe if "state" in one.value)
    states = dict(zip(table["name"], table["state"], strict=True))
    assert states["entropy"] == "from attention alone"
    assert not app.exception


def test_the_effects_of_the_planted_induction_head_are_run_by_a_button(open_app: Open) -> None:
    app = open_app(layer="2", head="1", card="Effects", data="repeated")
    assert "through all later layers" in words(app)
    button(app, "heads_effects").click()
    app.run()
    assert not app.exception
    assert "zero: -5.87" in words(app) and "of 12 heads by size" in words(app)


def test_between_the_steps_of_a_check_other_tabs_have_their_turn(
    open_app: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked = []

    def hooks_now(choice: models.Choice) -> None:
        with models.using(choice) as model:
            hooked.append(any(point.fwd_hooks for point in model.hook_dict.values()))

    monkeypatch.setattr(models, "let_others", hooks_now)
    app = open_app(method="induction", layer="2", head="1")
    button(app, "heads_check").click()
    app.run()
    assert len(hooked) >= 3 and not any(hooked), "nobody may come in while a hook is on the model"


def test_the_causal_check_replaces_the_mark(open_app: Open) -> None:
    app = open_app(layer="2", head="1")
    button(app, "heads_check").click()
    app.run()
    assert not app.exception and not app.error
    assert "From attention alone" not in words(
        app
    ) and "number 1 of the 4 heads that the causal check changed; its verdict on the score: causal" in words(
        app
    )


def test_what_it_writes_adds_up_and_usual_examples_come_from_all_parts(open_app: Open) -> None:
    app = open_app(layer="2", head="1", card="Writes")
    assert not app.exception and "L2H1 adds 11" in words(app) and "OV circuit" in words(app)
    app = open_app(layer="2", head="1", card="Usually")
    assert not app.exception
    assert all(f"{part} of 10" in words(app) for part in range(1, 11)) and "first token is left out" in words(
        app
    )


def test_clear_closes_the_card_and_another_head_opens_it(open_app: Open) -> None:
    app = open_app(layer="2", head="1")
    button(app, "heads_clear").click()
    app.run()
    assert heads.HINT in words(app) and not app.subheader
    button(app, "sidebar_after").click()
    app.run()
    assert heads.HINT not in words(app) and app.subheader[0].value == "L2H2"


def test_a_second_click_clears_and_a_miss_changes_nothing() -> None:
    a, b = Head(0, 1), Head(2, 3)
    assert heads.next_selection(None, a) == a
    assert heads.next_selection(a, b) == b
    assert heads.next_selection(a, a) is None
    assert heads.next_selection(a, None) == a
    event = {"selection": {"points": [{"customdata": [2, 3]}]}}
    assert heads.next_selection(a, widgets.head_of(event)) == b


def test_scores_of_runs_are_offered_and_marked(open_app: Open, tmp_path: Path, planted) -> None:
    from headscope.analysis.run import save_run
    from headscope.analysis.score import default_prompts, score

    prompts = default_prompts(planted, "repeated", 0, n=3)
    made = score(planted, "self", prompts)
    folder = save_run(tmp_path, made, model=planted, prompts=prompts, command="headscope score self")
    app = open_app(method=f"run: {folder.name}")
    assert not app.exception and not app.error
    assert "n=3" in words(app)


def test_what_is_copied_makes_the_same_score(open_app: Open) -> None:
    app = open_app(layer="2", head="1")
    code = [one.value for one in app.code]
    assert "headscope score induction --model organism/planted --seed 0" in code
    assert any("headscope.score(model, 'induction', seed=0)" in one for one in code)


def test_an_effect_asks_for_its_prompts_metric_and_flow() -> None:
    assert Asked("induction") == Asked("induction", "", "", "")
    assert Asked("zero-effect", "ioi", "accuracy", "direct") != Asked(
        "zero-effect", "ioi", "accuracy", "total"
    )


@pytest.mark.parametrize("name", ["llava#tower", "vit"])
def test_heads_that_read_images_are_scored_after_a_click(open_app: Open, model_folder, name: str) -> None:
    """Few methods suit them, so that both axes begin with the same one."""
    folder, _, part = name.partition("#")
    app = open_app(model=f"{model_folder(folder)}{'#' + part if part else ''}", layer="0", head="1")
    assert not app.exception
    assert [one.key for one in app.button if str(one.key).startswith("heads_run")] == [
        "heads_run_attention-distance"
    ]
    button(app, "heads_run_attention-distance").click()
    app.run()
    assert not app.exception
    assert "attention-distance across, attention-distance up" in words(app)
