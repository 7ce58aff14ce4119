"""What tasks lose without top heads: planted heads by task, a plain loop, the rule that chooses k, and the words."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from headscope.analysis.defaults import default_prompts
from headscope.analysis.outcomes import needle_accuracy
from headscope.analysis.score import score
from headscope.analysis.scores import Source
from headscope.analysis.selectivity import Selectivity, selectivity
from headscope.errors import BadOption
from headscope.hooks.interventions import zero


@pytest.fixture(scope="module")
def given(planted):
    prompts = {seed: default_prompts(planted, "repeated", seed, n=8) for seed in range(3)}
    return prompts, {"requests": default_prompts(planted, "refusal", 0, n=8)}


@pytest.fixture(scope="module")
def found(planted, given):
    prompts, spared = given
    scores = score(planted, "induction", prompts[0])
    calls = []
    made = selectivity(
        planted, scores, {"repeated": prompts[2]}, spared, {"repeated": prompts[1]}, k=(1, 2), draws=2,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls[-1] == (2 + 2 * 2 * 3,) * 2 and calls == sorted(calls)
    return made


def test_the_planted_head_is_for_its_task_and_for_no_other(found):
    assert found.k == 1 and str(found.heads[0]) == "L2H1"
    curve = found.curve()
    assert curve.loc[1, "repeated"] == curve.loc[1, "mean asked"] == 1 and curve.loc[1, "requests"] == 0
    assert found.curve(arm="same-layers").loc[1, "repeated"] == 0
    said = found.conclusion()
    assert "repeated 100 [100, 100]" in said and "(as many random heads of the same layers: 0)" in said
    assert said.endswith("30 points on average: yes; less than 5 points of each other task: yes.")


def test_a_plain_loop_agrees(planted, given, found):
    prompts, spared = given
    right = needle_accuracy()
    for task, asked in {"repeated": prompts[2], **spared}.items():
        for k in (1, 2):
            lost = right(planted, asked) - right(planted, asked, (zero(found.heads[:k]),))
            assert found.curve().loc[k, task] == pytest.approx(lost.mean())


def test_a_task_that_needs_the_heads_cannot_be_spared(planted, given):
    prompts, spared = given
    scores = score(planted, "induction", prompts[0])
    made = selectivity(
        planted, scores, spared, {"repeated": prompts[2]}, {"requests": prompts[1]}, k=(1,), draws=1
    )
    said = made.conclusion()
    assert made.k == 1, "the training prompts, whatever they are called, need the head"
    assert "30 points on average: no;" in said and said.endswith("of each other task: no, repeated.")


def _made(train_costs, **changed):
    names = ("arm", "split", "role", "task")
    rows = [("top", "train", "asked", "see", k, cost) for k, cost in enumerate(train_costs, 1)]
    rows += [("top", "test", role, task, 1, 0.5) for role, task in (("asked", "see"), ("spared", "read"))]
    table = pd.DataFrame(rows, columns=[*names, "k", "cost"]).assign(low=0.4, high=0.6, n=9)
    heads = ((0, 0),) * len(train_costs)
    made = Selectivity(table, heads, None, 0.3, 0.05, "Zeroing", "vhd", {}, Source("m", "0"), 0)
    return replace(made, **changed)


def test_where_no_k_is_enough_none_is_chosen():
    assert (
        "No k up to 2 costs 30 points on average in training (at most 20)" in _made([0.1, 0.2]).conclusion()
    )


def test_its_folder_holds_numbers_words_and_a_figure(found, tmp_path):
    folder = found.save(tmp_path / "run")
    kept = pd.read_parquet(folder / "selectivity.parquet")
    assert np.allclose(kept.cost, found.rows.cost) and set(kept["split"]) == {"train", "test"}
    assert json.loads((folder / "selectivity.json").read_text())["conclusion"] == found.conclusion()
    assert (folder / "selectivity.html").stat().st_size > 100_000
    assert len(found.figure(dark=True).data) == 2 * 2


def test_tasks_have_to_be_named_apart(planted, given):
    prompts, spared = given
    scores = score(planted, "induction", prompts[0])
    with pytest.raises(BadOption, match="give tasks of different names"):
        selectivity(planted, scores, spared, spared, spared)
    with pytest.raises(BadOption, match="some to choose k on"):
        selectivity(planted, scores, spared, {}, {})
