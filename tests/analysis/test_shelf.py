"""Runs of one model are found in a folder, nothing outside it; one head's line in many scores."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from headscope.analysis.scores import HeadScores
from headscope.analysis.shelf import grids, head_table, leading, runs_of, standing
from headscope.analysis.verification import Arm, Verification
from headscope.hooks.heads import Head

MODEL: Any = SimpleNamespace(digest="abc", n_layers=2, n_heads=3)


def _run(folder: Path, **model: Any) -> None:
    folder.mkdir(parents=True)
    made = {"digest": "abc", "n_layers": 2, "n_heads": 3, **model}
    (folder / "manifest.json").write_text(json.dumps({"model": made}))
    (folder / "scores.json").write_text("{}")


def test_only_runs_of_the_same_weights_are_offered(tmp_path: Path) -> None:
    _run(tmp_path / "good")
    _run(tmp_path / "other-weights", digest="xyz")
    _run(tmp_path / "other-shape", n_heads=4)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text('{"model": "abc"}')
    assert runs_of(tmp_path, MODEL) == {"good": tmp_path / "good"}
    assert runs_of(tmp_path / "absent", MODEL) == {}


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    _run(tmp_path / "outside" / "secret")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "way-out").symlink_to(tmp_path / "outside" / "secret")
    assert runs_of(tmp_path / "runs", MODEL) == {}


def test_a_head_has_a_line_per_score_and_missing_ones_are_not_zero() -> None:
    samples = np.array([[[0.1, 0.9, np.nan]], [[0.3, 0.7, np.nan]]])
    scores = HeadScores(samples.mean(0), samples, "m", chance=np.array([0.2, 0.2]))
    table = head_table({"m": scores, "absent": None}, Head(0, 1)).set_index("name")
    assert table.loc["m", "score"] == 0.8 and table.loc["m", "rank"] == 1 and table.loc["m", "of"] == 2
    assert table.loc["m", "chance"] == 0.2 and bool(table.loc["m", "ran"])
    assert np.isnan(table.loc["absent", "score"]) and not table.loc["absent", "ran"]
    empty = head_table({"m": scores}, Head(0, 2)).iloc[0]
    assert not empty["ran"] and np.isnan(empty["rank"])


def test_effects_are_ordered_by_size() -> None:
    values = np.array([[0.1, -3.0, 1.0]])
    effect = HeadScores(values, None, "zero-effect")
    assert leading(effect, 2)["head"].tolist() == [1, 2]
    assert leading(HeadScores(values, None, "induction"), 2)["head"].tolist() == [2, 0]
    assert head_table({"e": effect}, Head(0, 1)).loc[0, "rank"] == 1


def test_a_check_speaks_only_of_the_heads_that_it_changed() -> None:
    scores = HeadScores(np.array([[0.9, 0.1]]), None, "m")
    clean, gone = np.zeros(8), np.full(8, -1.0)
    arms = (Arm("top", 1, 0, (Head(0, 0),), gone), Arm("anywhere", 1, 1, (Head(0, 1),), clean))
    check = Verification(clean, arms, "metric", "zero", "all", "m")
    assert "that the causal check changed" in standing(scores, check, Head(0, 0))
    assert standing(scores, check, Head(0, 1)).startswith("from attention alone")
    assert standing(scores, None, Head(0, 0)) == "from attention alone"
    assert (
        standing(HeadScores(scores.values, None, "zero-effect"), None, Head(0, 0)) == "from an intervention"
    )


def test_grids_stand_where_the_heads_stand() -> None:
    samples = np.random.default_rng(0).normal(size=(6, 2, 3))
    scores = HeadScores(samples.mean(0), samples, "m")
    low, high, n = grids(scores)
    assert (low < scores.values).all() and (scores.values < high).all() and (n == 6).all()
