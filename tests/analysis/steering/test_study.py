"""A study chooses on one split and reports on another; on the shipped model it finds what steering can do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from headscope.analysis.context.juice import JuiceGains
from headscope.analysis.scores import Source
from headscope.analysis.steering import methods as steering_methods
from headscope.analysis.steering import result
from headscope.analysis.steering import study as studying
from headscope.analysis.steering.beside import controls
from headscope.analysis.steering.methods import METHODS, Candidate, halves
from headscope.analysis.steering.presets import PRESETS
from headscope.analysis.steering.result import Arm, Study
from headscope.analysis.steering.study import steering_study
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, EmptyPromptSet, MissingData, NoEffect
from headscope.hooks.directions import Directions
from headscope.hooks.heads import Head
from headscope.hooks.steering import Replay


def arm(
    name: str, strength: float, right: int, *, label: str = "", draw: int = 0, perplexity: float = 3.0
) -> Arm:
    answers = pd.DataFrame(
        {"right": [i < right for i in range(10)], "lured": [False] * 10, "text": [""] * 10}
    )
    return Arm(name, label, draw, strength, answers, perplexity, f"L0H{draw}" if draw else "")


def test_the_choice_is_the_most_right_answers_in_training_and_nothing_where_nothing_helps():
    candidates = [Candidate(PRESETS["focus"], label) for label in ("k=1", "k=2")]
    tried = [
        arm("clean", 0, 4),
        arm("chosen", 0.5, 6, label="k=1"),
        arm("chosen", 1.0, 6, label="k=1", perplexity=9.0),
        arm("chosen", 1.0, 9, label="k=2", perplexity=9.0),
    ]
    assert studying._choose(candidates, tried, 0, None) == (candidates[1], 1.0)
    assert studying._choose(candidates, tried, 0, 1.5) == (candidates[0], 0.5)
    assert studying._choose(candidates, tried[:3], 0, None) == (candidates[0], 0.5), (
        "the smaller of two equals"
    )
    worse = [arm("clean", 0, 4), arm("chosen", 0.5, 3, label="k=1"), arm("chosen", 1, 4, label="k=2")]
    assert studying._choose(candidates, worse, 0, None) == (candidates[1], 0)


def test_random_heads_stand_for_chosen_ones_of_their_layer_in_the_same_role(tiny):
    model = tiny("llama")
    few = Candidate(PRESETS["juice"], "", (Head(1, 0),))
    beside = controls(few, model, 5, 0)[0]
    assert [one.name for one in beside] == ["random heads"] * 3 + ["random heads anywhere"] * 2, (
        "its layer has 3 others"
    )
    assert sorted(one.heads for one in beside[:3]) == ["L1H1", "L1H2", "L1H3"]
    candidate = Candidate(
        PRESETS["juice"], "", (Head(2, 0), Head(0, 1)), (Head(1, 3),), options={"ratio": 2.0}
    )
    found, notes = controls(candidate, model, 5, 0)
    assert len(found) == 5 and not notes
    for one in found:
        boost, suppress = one.at(1.5).interventions
        assert one.heads == f"{', '.join(map(str, boost.heads))}; suppressed {suppress.heads[0]}"
        assert one.name == "random heads" and isinstance(boost, Replay) and isinstance(suppress, Replay)
        assert (boost.gain, suppress.gain) == (1.5, -3.0)
        assert sorted(head.layer for head in boost.heads) == [0, 2]
        assert [head.layer for head in suppress.heads] == [1]
        assert not {*boost.heads, *suppress.heads} & {*candidate.heads, *candidate.suppressed}


def test_random_heads_that_break_the_model_are_told_apart():
    """One of three draws has all right answers, at a perplexity that a chosen strength may not cost."""
    drawn = [(2, 3.1), (10, 9.0), (1, 4.0)]
    random = [
        arm("random heads", 1, right, draw=draw, perplexity=cost)
        for draw, (right, cost) in enumerate(drawn, 1)
    ]
    arms = (arm("clean", 0, 2), arm("chosen", 1, 8, perplexity=5.0), *random)
    source = Source("x", "0")
    found = Study(
        "juice-memory", "memory", (), Candidate(PRESETS["juice"]), 1.0, 0.0, arms[:1], arms, source, source, source, 0,
        limit=2.0,
    )  # fmt: skip
    row = found.summary().set_index("arm").loc["random heads"]
    assert row["effect"] == pytest.approx((0 + 0.8 - 0.1) / 3) and row["broken"] == 1
    assert row["unbroken"] == pytest.approx(-0.05)
    assert (row["median"], row["foremost"]) == (0, "L0H2")
    assert (
        "3 draws from -10 to +80, L0H2; median +0; 1 cost more than 2 times the perplexity: -5 points without)"
        in found.conclusion()
    )


def test_where_nothing_helps_settings_are_shown_at_the_best_strength_in_training():
    train = (arm("clean", 0, 5), arm("chosen", 1, 2), arm("chosen", 2, 4), arm("chosen", 3, 4))
    labels = ["a"] * 5 + ["b"] * 5
    arms = tuple(replace(one, answers=one.answers.assign(form=labels)) for one in train)
    source = Source("x", "0")
    no = Candidate(PRESETS["juice"])
    found = Study("juice-memory", "memory", ("form",), no, 0.0, 0.0, train, arms, source, source, source, 0)
    rows = found.settings().set_index(["arm", "setting"])
    assert set(rows.loc["chosen", "strength"]) == {2.0} and set(rows.loc["clean", "strength"]) == {0.0}
    assert rows.loc[("chosen", "a"), "accuracy"] == 0.8 and rows.loc[("chosen", "b"), "effect"] == 0
    assert rows.loc[("chosen", "a"), "effect"] == pytest.approx(-0.2) and len(rows) == 4
    assert "it does not help here" in found.conclusion()


def _three_heads(costs: float) -> JuiceGains:
    """Gains in which boosting L0H0 helps, and suppressing L0H1 and L0H2; the latter costs something in one form."""
    more, less = np.zeros((2, 3, 1, 1, 3))
    more[..., 0], less[..., 1], less[..., 2] = 0.1, 0.2, 0.3
    less[0, ..., 2] = -costs
    return JuiceGains(("clean", "substitution", "coherent"), {"positive": more, "negative": less})


def test_the_two_gains_of_juice_are_chosen_apart(monkeypatch):
    monkeypatch.setattr(steering_methods, "juice_gains", lambda *_, **__: _three_heads(costs=-0.01))
    tried = list(METHODS["juice-memory"].fit(None, PromptSet("x", ()), k=(1, 2)))
    gains = {(len(one.heads), len(one.suppressed), one.options.get("ratio", 1.0)) for one in tried}
    assert gains == {
        (1, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0), *((1, size, ratio) for size in (1, 2) for ratio in (0.5, 1.0, 2.0)),
    }  # fmt: skip
    assert len(tried) == len({one.label for one in tried}) == 9, "both tolerances give the same lists"


def test_juice_tries_heads_that_cost_a_little_beside_those_that_cost_nothing(monkeypatch):
    monkeypatch.setattr(steering_methods, "juice_gains", lambda *_, **__: _three_heads(costs=0.01))

    def suppressed(**options):
        tried = METHODS["juice-memory"].fit(None, PromptSet("x", ()), k=(2,), **options)
        return {one.label: list(map(str, one.suppressed)) for one in tried if not one.heads}

    strict = {"k=2, suppress": ["L0H1"]}
    assert suppressed(tolerance=(0.0,)) == strict and suppressed(tolerance=(0.0, 0.005)) == strict
    assert list(suppressed(tolerance=0.02).values()) == [["L0H1", "L0H2"]], "one number is one to try"
    with pytest.raises(BadOption, match="tolerance=-0.1"):
        suppressed(tolerance=-0.1)
    assert suppressed() == strict | {"k=2, suppress, tolerance 0.02": ["L0H1", "L0H2"]}


def test_a_number_with_many_values_is_shown_in_thirds_of_its_range():
    few, many = pd.Series([4.0, 8.0, 6.0]), pd.Series([0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9])
    assert result._binned(few).tolist() == [4.0, 8.0, 6.0]
    assert result._binned(pd.Series(["coherent", "clean"])).tolist() == ["coherent", "clean"]
    words = ["0 to 0.3", "0.3 to 0.6", "0.6 to 0.9"]
    assert result._binned(many).tolist() == [words[0]] * 3 + [words[1]] * 3 + [words[2]] * 2


def test_wrong_calls_are_refused(planted):
    for wrong in ({"n": 4}, {"draws": -1}, {"limit": 0.5}, {"k": ()}, {"k": (0,)}):
        with pytest.raises(BadOption):
            steering_study(planted, "focus", **wrong)
    with pytest.raises(BadOption, match="Nearest: focus"):
        steering_study(planted, "focuss")
    with pytest.raises(EmptyPromptSet):
        steering_study(planted, "focus", train=PromptSet("x", ()), test=PromptSet("y", ()))
    with pytest.raises(MissingData, match="too few to hold half"):
        halves(PromptSet("x", (Prompt("a"),)))
    with pytest.raises(MissingData, match="--contrast"):
        steering_study(planted, "add")


@pytest.fixture(scope="module")
def text():
    from headscope.hooks.load import load

    return load("organism/text")


@pytest.fixture(scope="module")
def juice(text):
    calls = []
    found = steering_study(
        text,
        "juice-memory",
        n=40,
        k=(4,),
        strengths=(1.0, 2.0),
        draws=8,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1)) and calls[-1][0] == calls[-1][1]
    return found


@pytest.mark.slow
def test_juice_makes_the_organism_answer_from_memory_and_random_heads_do_not(juice):
    """At least 40 points more on countries that nothing was chosen on, with the heads that copy from the context."""
    table = juice.summary().set_index("arm")
    assert table.loc["chosen", "effect"] >= 0.4 and table.loc["chosen", "low"] > 0.25
    assert {str(head) for head in juice.candidate.suppressed} >= {"L1H6", "L2H2", "L2H3"}
    assert ", tolerance 0.02). Random heads: " in juice.conclusion(), "the paper's rule leaves L2H2 out"
    random = table.loc["random heads"]
    assert abs(random["effect"]) < 0.05 and random["draws"] == 8
    assert table.loc["chosen", "p"] < 0.001 and table.loc["chosen", "broken"] == 0
    assert "Perplexity of neutral text" in juice.conclusion()
    assert f"({random['draws']:.0f} draws from " in juice.conclusion()


@pytest.mark.slow
def test_juice_makes_the_organism_answer_from_the_context_where_memory_contradicts_it(text):
    """Clearly more, most of it where one false sentence stands against memory; docs/methods.md has it on 480 items."""
    found = steering_study(text, "juice-context", n=60, k=(2,), strengths=(3.0,), draws=4)
    clean = found.arms[0]
    assert 0.1 <= clean.accuracy <= 0.6, "there is room"
    settings = found.settings().set_index(["setting", "arm"])
    alone = settings.loc[("substitution", "chosen")]
    assert alone["effect"] >= 0.3 and alone["low"] > 0.15
    table = found.summary().set_index("arm")
    assert table.loc["chosen", "effect"] >= 0.25 and table.loc["chosen", "low"] > 0.15
    assert table.loc["random heads", "effect"] < 0.05 and table.loc["chosen", "broken"] == 0
    assert {str(head) for head in found.candidate.suppressed} == {"L1H4", "L1H7"}


@pytest.mark.slow
def test_a_study_counts_what_it_says_and_saves_it(juice, tmp_path):
    table = juice.table()
    test = table[table["split"] == "test"]
    assert set(test["arm"]) == {"clean", "chosen", "random heads"} and (test["n"] == 40).all()
    clean = test[test["arm"] == "clean"].iloc[0]
    assert clean["strength"] == 0 and clean["accuracy"] == clean["right"] / 40
    own = juice.summary().set_index("arm").loc["chosen"]
    at = test[(test["arm"] == "chosen") & (test["strength"] == juice.strength)].iloc[0]
    assert own["accuracy"] == pytest.approx(at["accuracy"])
    assert own["effect"] == pytest.approx(at["accuracy"] - clean["accuracy"])
    settings = juice.settings()
    assert set(settings["setting"]) == {"substitution", "coherent"}
    of_chosen = settings[settings["arm"] == "chosen"]
    assert np.average(of_chosen["accuracy"], weights=of_chosen["n"]) == pytest.approx(at["accuracy"])
    assert np.average(of_chosen["effect"], weights=of_chosen["n"]) == pytest.approx(own["effect"])
    curves = test[test["arm"] == "random heads"].groupby("strength")["draw"].nunique()
    assert curves[juice.strength] == 8 and set(curves.drop(juice.strength)) == {3}
    folder = juice.save(tmp_path / "study")
    assert {path.name for path in folder.iterdir()} == {
        "steering.parquet", "settings.parquet", "answers.parquet", "steering.json", "steering.html",
    }  # fmt: skip
    record = json.loads((folder / "steering.json").read_text())
    assert record["suppressed"] and record["conclusion"] == juice.conclusion()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "steering.parquet"), table)
    names = [trace.name for trace in juice.figure().data if trace.showlegend is not False]
    assert {"steered", "random heads"} <= set(names)


@pytest.mark.slow
def test_attention_on_the_gold_document_helps_where_the_organism_is_distracted(text):
    """It errs in 20 to 50 % of held-out prompts; told where to look, it errs less, and random heads change little."""
    found = steering_study(text, "split-softmax", n=36, k=(2,), strengths=(0.5, 0.75), draws=1)
    table = found.summary().set_index("arm")
    clean = found.arms[0].accuracy
    assert 0.5 <= clean <= 0.8
    assert table.loc["chosen", "effect"] >= 0.1 and table.loc["chosen", "low"] > 0
    assert abs(table.loc["random heads", "effect"]) < 0.1
    assert {"distractors", "depth"} == set(found.settings()["by"])


@pytest.mark.slow
def test_directions_of_requests_are_fitted_saved_and_loaded(text, tmp_path):
    found = steering_study(text, "add", n=12, strengths=(1.0,), draws=1)
    assert {one.name for one in found.train} == {"clean", "chosen"} and len(found.train) == 1 + 4
    assert "random directions" in set(found.table()["arm"])
    folder = found.save(tmp_path)
    assert Directions.load(folder / "directions.safetensors") == found.candidate.directions


@pytest.mark.parametrize(
    ("helps", "kept"),
    [({"L0H1", "L2H3"}, "L0H1 L2H3"), (set(), "all"), (None, "")],
    ids=["two", "none", "no sinks"],
)
def test_act_keeps_the_heads_that_help_alone(tiny, monkeypatch, helps, kept):
    """By answers made up: heads that help, heads that do not, and heads that have nothing to calibrate."""

    def made_up(model, prompts, steered):
        heads = {str(head) for one in steered.interventions for head in one.heads}
        if heads and helps is None:
            raise NoEffect("no second sink")
        return pd.DataFrame({"right": [bool(heads & (helps or set())), True]})

    monkeypatch.setattr(steering_methods, "answered", made_up)
    fit = METHODS["act"].fit
    if not kept:
        with pytest.raises(NoEffect, match="no head has an attention sink other than its first"):
            list(fit(tiny("llama"), PromptSet("x", (Prompt("the cat"),))))
        return
    [found] = fit(tiny("llama"), PromptSet("x", (Prompt("the cat"),)))
    if kept == "all":
        assert len(found.heads) == 12 and "none helps alone" in found.label
    else:
        assert " ".join(map(str, found.heads)) == kept and found.label == "k=2"


def test_every_method_has_a_preset_and_makes_its_prompts():
    for method in METHODS.values():
        assert method.preset in PRESETS
        train, test = (method.data("organism", 8, 0, split) for split in ("train", "test"))
        assert len(test) == 8 and not {one.text for one in train} & {one.text for one in test}
        assert all(f"{part}=" in one.label for one in test for part in method.by)


@pytest.mark.slow
def test_a_study_without_random_sets_says_that_none_was_asked_for(text):
    found = steering_study(text, "sorting", n=8, strengths=(1.0,), draws=0)
    assert any(note.startswith("No random set was asked for") for note in found.notes)
    assert not any("has no random counterpart" in note for note in found.notes)
