"""The Runs page: browse, compare, start and stop; and that its folder is all it can see."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from headscope.analysis.run import save_run
from headscope.analysis.score import default_prompts, score
from headscope.app import started
from headscope.hooks.load import load

Open = Callable[..., AppTest]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, a broken one with an evil name, and a way out."""
    root = tmp_path_factory.mktemp("runs")
    model = load("organism/planted")
    prompts = default_prompts(model, "repeated", n=4)
    for method in ("induction", "previous-token"):
        scores = score(model, method, prompts)
        save_run(root, scores, model=model, prompts=prompts, command=f"headscope score {method}")
    (root / "<b>broken").mkdir()
    (root / "<b>broken" / "manifest.json").write_text("{")
    (root / "out").symlink_to("/etc")
    return root


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSCOPE_APP_RUNS", str(folder))


def texts(at: AppTest) -> str:
    parts = [*at.markdown, *at.caption, *at.error, *at.warning, *at.info]
    return "\n".join(part.value for part in parts).replace("\\", "")


def test_runs_are_listed_and_the_first_is_open(open_page: Open):
    at = open_page("runs")
    assert not at.exception and not at.error and not at.warning
    assert sorted(at.dataframe[0].value["method"]) == ["induction", "previous-token"]
    assert "<b>broken: manifest.json: not readable as JSON" in texts(at) and "out: It is a link" in texts(at)
    assert any("Download" in button.label or "CSV" in button.label for button in at.get("download_button"))


def test_the_address_opens_a_run_and_the_one_beside_it(open_page: Open, folder: Path):
    names = sorted(path.name for path in folder.glob("*-planted-*"))
    at = open_page("runs", run=names[1], beside_run=names[0])
    assert not at.exception and not at.error and not at.warning
    assert "Rank agreement (Spearman's ρ)" in texts(at) and "over 12 heads" in texts(at)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "out", "<b>broken", "nothing"])
def test_no_address_leaves_the_folder(open_page: Open, name: str):
    at = open_page("runs", run=name)
    assert not at.exception
    assert "in the address is not a choice here" in texts(at)
    assert at.selectbox(key="run").value.endswith(tuple(at.dataframe[0].value["run"]))


def test_a_filter_that_fits_nothing_is_said(open_page: Open):
    at = open_page("runs", filter="no such run")
    assert not at.exception and "No run fits this filter." in texts(at)


def test_a_wrong_option_is_one_sentence(open_page: Open):
    at = open_page("runs")
    at.text_input(key="runs_options").set_value("no_such=1")
    next(button for button in at.button if button.label == "Start").click()
    at.run()
    assert not at.exception and "no_such" in texts(at)
    assert not started.started()


def test_arguments_cannot_become_options(tmp_path: Path):
    arguments = started.score_arguments(
        "induction", "--out=/etc", tmp_path, data="-x", n=3, seed=1, options=("a=b",)
    )
    assert arguments == (
        "score",
        "induction",
        "--model=--out=/etc",
        f"--out={tmp_path}",
        "--seed=1",
        "--data=-x",
        "-n",
        "3",
        "--set=a=b",
    )


def test_a_run_can_be_stopped_with_all_its_group_and_leaves_nothing(tmp_path: Path):
    job = started.start(started.score_arguments("induction", "organism/planted", tmp_path, n=64))
    assert job.running and job.words == "running"
    job.stop()
    end = time.time() + 60
    while job.running and time.time() < end:
        time.sleep(0.1)
    assert not job.running and job.words == "stopped" and not list(tmp_path.iterdir())
    started.started().remove(job)


def test_the_end_of_the_server_ends_its_runs_and_removes_their_logs(tmp_path: Path):
    job = started.start(started.score_arguments("induction", "organism/planted", tmp_path, n=64))
    assert job.running and job.log.exists()
    started._end([job])
    assert job.process.wait(60) != 0 and not job.log.parent.exists() and job.output() == ""
    started.started().remove(job)


@pytest.mark.slow
def test_a_run_that_was_started_ends_in_the_folder(tmp_path: Path):
    job = started.start(started.score_arguments("induction", "organism/planted", tmp_path, n=2))
    end = time.time() + 300
    while job.running and time.time() < end:
        time.sleep(0.5)
    assert job.words == "done", job.output()
    assert [path.name.startswith("induction-planted-") for path in tmp_path.iterdir()] == [True]
    assert "L2H1" in job.output()
    started.started().remove(job)
