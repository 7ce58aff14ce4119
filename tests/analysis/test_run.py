"""A run folder holds what is needed to ask again, and is whole or absent."""

import errno
import os
import stat

import numpy as np
import pytest

from headscope.analysis.attention import attend, token_texts
from headscope.analysis.run import load_run, run_name, save_check, save_run
from headscope.analysis.score import default_prompts, score
from headscope.analysis.scores import HeadScores, Source
from headscope.analysis.verify import verify
from headscope.datasets.prompts import Prompt
from headscope.errors import BadRun, CannotWrite
from headscope.hooks.heads import Head
from headscope.hooks.load import available, load


@pytest.fixture(scope="module")
def model():
    return load("organism/planted")


@pytest.fixture(scope="module")
def prompts(model):
    return default_prompts(model, "repeated", 0, n=6)


@pytest.fixture(scope="module")
def scores(model, prompts):
    return score(model, "induction", prompts)


def save(out, model, prompts, scores, **options):
    return save_run(out, scores, model=model, prompts=prompts, command="headscope score induction", **options)


def test_a_run_comes_back_as_it_was(tmp_path, model, prompts, scores):
    folder = save(tmp_path / "runs", model, prompts, scores, seconds=1.23)
    assert folder.parent == tmp_path / "runs" and folder.name.startswith("induction-planted-")
    run = load_run(folder)
    np.testing.assert_array_equal(run.scores.values, scores.values)
    assert run.prompts == prompts and run.model == "organism/planted" and run.verification is None
    assert run.manifest["state"] == "done" and run.manifest["causal_check"] is False
    assert run.manifest["seconds"] == 1.2 and run.manifest["versions"]["torch"]
    assert run.manifest["model"]["digest"] == scores.model.digest
    assert run.manifest["data"]["digest"] == prompts.digest
    assert run.manifest["command"] == "headscope score induction"
    assert run.manifest["files"] == sorted(path.name for path in folder.iterdir())
    assert "attention alone" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_same_question_has_the_same_folder_and_another_seed_another(tmp_path, model, prompts, scores):
    one, two = (save(tmp_path, model, prompts, scores) for _ in range(2))
    other = save(tmp_path, model, prompts, score(model, "induction", prompts, seed=1))
    assert one == two and other != one
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([one.name, other.name])


def test_a_check_is_added_to_the_run_in_place(tmp_path, model, prompts, scores):
    folder = save(tmp_path, model, prompts, scores, seconds=1.0)
    (folder / "my notes.txt").write_text("mine")
    run = load_run(folder)
    found = verify(model, run.scores, prompts, "answer_logprob", k=(1,), draws=1)
    for _ in range(2):
        where = save_check(load_run(folder), found, model=model, command="headscope verify RUN", seconds=2.0)
        assert where == folder
    again = load_run(folder)
    assert again.verification is not None and again.verification.verdict == found.verdict
    assert again.manifest["command"] == "headscope score induction\nheadscope verify RUN"
    assert sum(note.startswith("Causal check") for note in again.scores.notes) == 1
    assert (folder / "my notes.txt").read_text() == "mine"
    assert found.verdict.split(".")[0] in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_stop_in_the_middle_of_saving_leaves_nothing(
    tmp_path, monkeypatch, model, prompts, scores, stop, at
):
    real, calls = os.fsync, []

    def fsync(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(handle)
            if len(calls) == at:
                raise stop
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises((CannotWrite, KeyboardInterrupt)):
        save(tmp_path, model, prompts, scores)
    assert len(calls) >= at and not list(tmp_path.iterdir())


def test_a_folder_of_the_user_is_never_replaced(tmp_path, model, prompts, scores):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CannotWrite, match="no run of Headscope"):
        save(tmp_path.parent, model, prompts, scores, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_no_run_is_refused(tmp_path, model, prompts, scores):
    with pytest.raises(BadRun, match="no such folder"):
        load_run(tmp_path / "nothing")
    with pytest.raises(BadRun, match=r"manifest\.json: no such file"):
        load_run(tmp_path)
    folder = save(tmp_path, model, prompts, scores)
    text = (folder / "prompts.jsonl").read_text(encoding="utf-8")
    (folder / "prompts.jsonl").write_text(text.replace('"text": "', '"text": "the '), encoding="utf-8")
    with pytest.raises(BadRun, match=r"changed after the run"):
        load_run(folder)
    (folder / "manifest.json").write_text('{"format": "something/9"}')
    with pytest.raises(BadRun, match="not a run of this version"):
        load_run(folder)


def test_a_model_from_a_folder_is_found_again(tmp_path, model, prompts, scores):
    (place,) = (card.folder for card in available() if card.name == "organism/planted")
    folder = save(tmp_path, load(place), prompts, scores)
    assert load_run(folder).model == str(place)


def test_other_weights_than_those_that_were_scored_are_refused(tmp_path, model, prompts, scores):
    run = load_run(save(tmp_path, model, prompts, scores))
    run.require(model)
    run.manifest["model"]["digest"] = "0123456789abcdef"
    with pytest.raises(BadRun, match=r"scored with weights 0123456789abcdef.*Score again"):
        run.require(model)


def test_run_names_are_safe_as_folders():
    for name, expected in (
        ("organism/text", "retrieval-text"),
        ("../../etc", "retrieval-etc"),
        ("a b:c", "retrieval-a-b-c"),
    ):
        assert run_name(HeadScores(np.zeros((1, 1)), None, "retrieval", model=Source(name))) == expected


def test_tokens_joined_give_the_text_again(model, prompts):
    pieces = token_texts(model, prompts[0].text)
    assert "".join(pieces).endswith(prompts[0].text)
    assert len(pieces) > 4


def test_attention_of_a_planted_head_is_where_it_was_planted(model, prompts):
    seen = attend(model, prompts[0], [Head(2, 1), Head(0, 2)])
    assert seen.patterns.shape == (2, len(seen.tokens), len(seen.tokens))
    np.testing.assert_allclose(seen.patterns.sum(-1), 1, atol=1e-5)
    assert (np.diagonal(seen.patterns[1], offset=-1) > 0.9).all(), "L0H2 attends to the token before"
    target = int(seen.patterns[0][-1].argmax())
    assert seen.tokens[target - 1].strip() == seen.tokens[-1].strip(), (
        "L2H1 attends to what followed last time"
    )


def test_marked_spans_become_positions(model):
    seen = attend(model, Prompt("the miner that judge", spans={"needle": [(4, 9)]}), "L0H0")
    assert [seen.tokens[i].strip() for i in seen.spans["needle"]] == ["miner"]
