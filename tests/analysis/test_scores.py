"""The table of scores: what it says, and that it comes back from disk as it was."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from headscope.analysis.scores import COLUMNS, HeadScores, Source
from headscope.analysis.statistics import bootstrap_mean
from headscope.errors import BadOption, BadRun, CannotWrite, UnknownHead


def _scores(n: int = 20, seed: int = 0, **changed) -> HeadScores:
    samples = np.random.default_rng(seed).uniform(size=(n, 2, 3))
    samples[:, 1, 2] += 1
    samples[:, 0, 1] = np.nan
    samples[3] = np.nan
    with np.errstate(invalid="ignore"):
        values = np.nanmean(np.where(np.isnan(samples).all(0), 0, samples), axis=0)
    values[0, 1] = np.nan
    fields = {
        "values": values,
        "samples": samples,
        "method": "example",
        "options": {"form": "paper", "accept": len},
        "model": Source("toy", "abc"),
        "data": Source("prompts", "def"),
        "seed": 4,
        "higher": "more of it",
        "chance": np.where(np.arange(n) == 3, np.nan, 0.5),
        "notes": ("1 of 20 prompts was rejected.",),
    }
    return HeadScores(**(fields | changed))


def test_the_table_has_one_row_per_head_highest_first_and_what_was_not_run_last():
    table = _scores().table()
    assert list(table.columns) == COLUMNS
    assert len(table) == 6
    assert (table.loc[0, "layer"], table.loc[0, "head"]) == (1, 2)
    assert table["score"].iloc[:5].is_monotonic_decreasing
    last = table.iloc[5]
    assert (last["layer"], last["head"], last["n"]) == (0, 1, 0)
    assert last[["score", "low", "high", "p", "q"]].isna().all()


def test_intervals_are_over_the_prompts_that_counted_and_p_is_against_chance():
    scores = _scores()
    row = scores.table().iloc[0]
    low, high = bootstrap_mean(scores.samples[:, 1, 2], seed=4)
    assert (row["low"], row["high"]) == pytest.approx((float(low), float(high)))
    assert row["n"] == 19
    assert row["p"] == pytest.approx(1e-4)
    assert row["p"] <= row["q"] <= 5 * row["p"]


def test_without_samples_there_is_a_score_and_no_interval():
    table = _scores(samples=None, chance=None).table()
    assert table["score"].notna().sum() == 5
    assert table[["low", "high", "p", "q"]].isna().all(axis=None)


def test_a_change_to_the_table_does_not_reach_the_scores():
    scores = _scores()
    table = scores.table()
    table.loc[:, "score"] = 0
    assert scores.table()["score"].iloc[0] > 1


def test_top_gives_heads_highest_first_and_never_one_that_was_not_run():
    assert str(_scores().top(1)[0]) == "L1H2"
    assert len(_scores().top(5)) == 5
    with pytest.raises(BadOption, match=r"k=6: only 5 of 6 heads have a score for example"):
        _scores().top(6)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2"])
def test_top_refuses_what_is_no_number_of_heads(k):
    with pytest.raises(BadOption, match="expected a whole number of heads"):
        _scores().top(k)


def test_the_printed_form_says_what_the_scores_rest_on():
    assert "from attention alone: L1H2" in repr(_scores())
    assert "confirmed by intervention" in repr(_scores(causal=True))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(BadRun, match=r"samples have the shape \(5, 3, 2\) beside values \(2, 3\)"):
        _scores(samples=np.zeros((5, 3, 2)))
    with pytest.raises(BadRun, match=r"values have the shape \(6,\)"):
        _scores(values=np.zeros(6))


def test_the_heatmap_shows_every_head():
    assert len(_scores().heatmap().data[-1].customdata) == 6


def test_saved_and_loaded_scores_are_the_same(tmp_path):
    scores = _scores()
    back = HeadScores.load(scores.save(tmp_path / "run"))
    np.testing.assert_array_equal(back.values, scores.values)
    np.testing.assert_array_equal(back.samples, scores.samples)
    np.testing.assert_array_equal(back.chance, scores.chance)
    pd.testing.assert_frame_equal(back.table(), scores.table())
    for name in ("method", "model", "data", "seed", "higher", "causal", "notes", "alternative"):
        assert getattr(back, name) == getattr(scores, name)
    assert back.options == {"form": "paper", "accept": "len"}


def test_the_saved_table_names_model_and_method(tmp_path):
    _scores().save(tmp_path)
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(table.columns) == ["model", "method", *COLUMNS]
    assert set(table["model"]) == {"toy"} and set(table["method"]) == {"example"}


def test_scores_without_samples_come_back_without_them(tmp_path):
    back = HeadScores.load(_scores(samples=None, chance=None).save(tmp_path))
    assert back.samples is None and back.chance is None


def test_a_folder_that_holds_no_scores_is_refused(tmp_path):
    with pytest.raises(BadRun, match="no such folder"):
        HeadScores.load(tmp_path / "nowhere")
    with pytest.raises(BadRun, match=r"scores\.json: no such file"):
        HeadScores.load(tmp_path)


def _change_meta(folder, **changed):
    path = folder / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"format": "other/9"}, "format 'other/9', expected"),
        ({"n_layers": 3}, "6 rows, expected 9"),
        ({"n_heads": "many"}, "n_heads is 'many', expected a count"),
        ({"n_layers": 10**9}, "expected a count"),
        ({"model": {"nmae": "x"}}, "damaged"),
        ({"n_examples": 7}, r"samples\.parquet: 120 rows, expected 42"),
    ],
)
def test_metadata_that_does_not_fit_are_refused(tmp_path, changed, message):
    _scores().save(tmp_path)
    _change_meta(tmp_path, **changed)
    with pytest.raises(BadRun, match=message):
        HeadScores.load(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.assign(head=t["head"] + 1), "head 1 to 3, expected 0 to 2"),
        (lambda t: t.assign(layer=0), "stand in two rows"),
        (lambda t: t.drop(columns="layer"), "column 'layer' is missing"),
        (lambda t: t.iloc[1:], "5 rows, expected 6"),
    ],
)
def test_a_table_that_does_not_fill_the_grid_once_is_refused(tmp_path, change, message):
    _scores().save(tmp_path)
    path = tmp_path / "scores.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(BadRun, match=message):
        HeadScores.load(tmp_path)


def test_a_pickle_in_place_of_a_table_is_not_opened(tmp_path):
    _scores().save(tmp_path)
    (tmp_path / "samples.parquet").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BadRun, match="not readable as parquet"):
        HeadScores.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotWrite):
        _scores().save(tmp_path / "file" / "run")


def test_scores_of_some_layers_rank_their_heads_and_no_others():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(6, 3, 2))
    scores = HeadScores(samples.mean(0), samples, "m", interval=np.stack([samples.min(0), samples.max(0)]))
    some = scores.in_layers([2, 0])
    assert [head for head in scores.top(6) if head.layer != 1] == list(some.top(4))
    assert np.isnan(some.values[1]).all() and np.isnan(some.samples[:, 1]).all()
    assert np.array_equal(some.values[[0, 2]], scores.values[[0, 2]])
    assert np.array_equal(some.samples[:, [0, 2]], samples[:, [0, 2]])
    assert some.notes[-1] == "Only heads of layers 0, 2 are ranked."
    with pytest.raises(UnknownHead, match=r"layer 3: .* has layers 0-2"):
        scores.in_layers([3])
    with pytest.raises(BadOption, match="none was named"):
        scores.in_layers([])
