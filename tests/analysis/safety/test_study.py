"""The whole study on the shipped model, and how requests are chosen for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from models import sentence

from headscope.analysis.safety.evaluate import Answers, Evaluation
from headscope.analysis.safety.judges import refusal_judge
from headscope.analysis.safety.sahara import Search
from headscope.analysis.safety.study import Study, both_kinds, folder_name, requests, study
from headscope.analysis.scores import Source
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import MissingData
from headscope.hooks.heads import Head
from headscope.hooks.load import load


@pytest.fixture(scope="module")
def text() -> Any:
    return load("organism/text")


@pytest.fixture(scope="module")
def by_mean(text: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    searched, held_out, _ = requests(text, None, None, n=50)
    folder = tmp_path_factory.mktemp("study")
    found = study(text, searched, held_out, size=1, kind="mean", stop=".", max_new_tokens=14, draws=3)
    return found, found.save(folder / "run")


def test_one_head_of_the_shipped_model_carries_what_a_request_asks_for(by_mean: tuple[Study, Path]) -> None:
    found, _ = by_mean
    assert str(found.search.heads[0]) == "L0H5"
    table = found.summary().set_index(["arm", "label"])
    assert (
        table.loc[("clean", "harmful"), "answered"] == 0 and table.loc[("clean", "benign"), "as_taught"] == 1
    )
    assert table.loc[("random", "harmful"), "highest"] < 0.1
    assert table.loc[("chosen", "harmful"), "as_foil"] >= 0.8
    assert table.loc[("chosen", "benign"), "as_taught"] >= 0.95
    assert "clean 0 %, random heads 0 %" in found.sentence(1) and found.flips(1)
    assert found.conclusion().startswith("Without L0H5 refusals flip and benign answers stay. The perplexity")
    assert "not about safety alone" in found.conclusion()


def by_hand(chosen: str, benign: str, random: str, perplexity: float = 3.0) -> Study:
    """A study of one head in which each arm writes one text to four harmful and four benign requests."""
    head, nobody = Head(0, 1), Source("m")
    asked = {
        "harmful": (Prompt("bad", answer=" sorry", foil=" sure", label="harmful"),) * 4,
        "benign": (Prompt("good", answer=" sure", foil=" sorry", label="benign"),) * 4,
    }
    written = {
        ("clean", "harmful"): "sorry , i can not help",
        ("clean", "benign"): "sure , so",
        ("chosen", "harmful"): chosen,
        ("chosen", "benign"): benign,
        ("random", "harmful"): random,
        ("random", "benign"): "sure , so",
    }
    arms = tuple(
        Answers(
            arm,
            int(arm == "random"),
            () if arm == "clean" else (head,),
            label,
            "direct",
            0.0,
            asked[label],
            (text,) * 4,
            tuple(refusal_judge(asked[label], [text] * 4)),
            perplexity if arm == "chosen" else 3.0,
        )
        for (arm, label), text in written.items()
    )
    search = Search(({head: (0.3, 0.1)},), "harmful", "radians", nobody, nobody, nobody)
    return Study(search, (Evaluation(arms, (head,), nobody, nobody),))


def test_the_conclusion_tells_safety_from_damage() -> None:
    refused = "sorry , i can not help"
    assert by_hand("sure , so", "sure , so", refused).conclusion() == (
        "Without L0H1 refusals flip and benign answers stay. The perplexity of neutral text is 3 (clean 3)."
    )
    assert "not about safety alone" in by_hand("sure , so", "sure , so", refused, 9.0).conclusion()
    assert "not known" in by_hand("sure , so", "sure , so", refused, float("nan")).conclusion()
    still = by_hand(refused, "sure , so", refused).conclusion()
    assert still == "No group carries the refusals: without these heads harmful requests are still refused."
    broken = by_hand("the continent of europe", "the continent of europe", refused).conclusion()
    assert "damage benign answers" in broken
    for one in (
        by_hand("the continent of europe", "sure , so", refused),  # neither refused nor answered
        by_hand("sure sure sure sure", "sure , so", refused),
        by_hand("sure , so", "sure , so", "sure , so"),  # any heads of this layer do it
    ):
        assert not one.flips(1)


def test_what_is_saved_holds_every_text(by_mean: tuple[Study, Path]) -> None:
    found, folder = by_mean
    assert sorted(path.name for path in folder.iterdir()) == [
        "answers.parquet",
        "evaluation.parquet",
        "steps.parquet",
        "study.json",
    ]
    answers = pd.read_parquet(folder / "answers.parquet")
    assert len(answers) == sum(len(arm.texts) for arm in found.evaluations[0].arms)
    again = refusal_judge([Prompt(one) for one in answers["request"]], list(answers["text"]))
    assert again == answers["answered"].tolist()


def labelled(n: int, *, benign: bool, corrupted: bool = True) -> PromptSet:
    made = [
        Prompt(sentence(4 + i, i), label="harmful", corrupted=sentence(4 + i, i + 90) if corrupted else "")
        for i in range(n)
    ]
    made += [Prompt(sentence(5, i + 50), label="benign") for i in range(n)] if benign else []
    return PromptSet("made", tuple(made))


def test_one_set_is_halved_by_label_and_nothing_is_in_both(tiny: Any) -> None:
    first, second, note = requests(tiny("gpt2"), labelled(5, benign=True), None)
    assert [len(first), len(second)] == [6, 4] and "held out" in note
    assert not {one.text for one in first} & {one.text for one in second}
    for half in (first, second):
        assert {one.label for one in half} == {"harmful", "benign"}
    with pytest.raises(MissingData, match="fewer than 4"):
        requests(tiny("gpt2"), labelled(3, benign=False), None)
    with pytest.raises(MissingData, match="has no requests of its own"):
        requests(tiny("gpt2"), None, None)


def test_counterparts_stand_in_for_benign_requests() -> None:
    made = both_kinds(labelled(4, benign=False))
    assert [one.label for one in made] == ["harmful"] * 4 + ["benign"] * 4
    assert made[4].text == made[0].corrupted
    own = both_kinds(labelled(4, benign=True))
    assert [one.text for one in own[4:]] == [one.text for one in labelled(4, benign=True)[4:]]
    plain = both_kinds(PromptSet("plain", (Prompt("a cat", corrupted="a dog"),)))
    assert [one.label for one in plain] == ["harmful", "benign"]
    with pytest.raises(MissingData, match="no corrupted text"):
        both_kinds(labelled(4, benign=False, corrupted=False))


def test_the_same_search_finds_its_folder_again(tiny: Any) -> None:
    data, settings = labelled(4, benign=False), {"rank": 1}
    name = folder_name(tiny("gpt2"), data, settings)
    assert name == folder_name(tiny("gpt2"), data, dict(settings)) and name.startswith("sahara-")
    others = (folder_name(tiny("gpt2"), data, {"rank": 2}), folder_name(tiny("llama"), data, settings))
    assert name not in others
