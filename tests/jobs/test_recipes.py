"""Every recipe is a job that can be planned offline without its model, and that runs on a shipped model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headscope.cli
import headscope.hooks.load
from headscope.analysis.run import load_run
from headscope.hooks.find import split_part
from headscope.hooks.load import available
from headscope.jobs.listing import open_folder
from headscope.jobs.run import plan_job, run_job
from headscope.jobs.spec import read_job

RECIPES = sorted((Path(headscope.cli.__file__).parent / "jobs" / "recipes").glob("*.yaml"))
by_name = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def on_the_organism(path: Path) -> list[str]:
    """Read the settings that the recipe gives for a shipped model."""
    said = re.search(r"^# on the organism:(.*\n(?:#\s+--set .*\n)*)", path.read_text(encoding="utf-8"), re.M)
    assert said, f"{path.name} has no line `# on the organism: --set model=organism/...`"
    words = shlex.split(re.sub(r"^#", " ", said[1], flags=re.M))
    assert words[::2] == ["--set"] * (len(words) // 2)
    return words[1::2]


def test_there_are_recipes():
    assert {"retrieval", "induction", "headvis", "safety"} <= {path.stem for path in RECIPES}


@by_name
def test_it_names_its_study_and_how_to_run_it(path: Path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"arXiv:\d{4}\.\d{5}|\(\w.* 20\d\d\)", text), "the study"
    assert f"headscope run jobs/recipes/{path.name} --dry-run" in text
    assert "Ours:" in text, "what is not as in the paper"


@by_name
def test_its_dry_run_loads_no_weights_and_touches_no_network(path: Path, tmp_path: Path, monkeypatch):
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(headscope.hooks.load, "load", refuse)
    call = ["run", str(path), "--dry-run", "--json", "--out", str(tmp_path)]
    result = CliRunner().invoke(headscope.cli.app, call)
    assert result.exit_code == 0, result.output
    assert "plan" in json.loads(result.stdout) and not list(tmp_path.iterdir())


@by_name
def test_it_is_about_published_models_and_can_be_planned_on_a_shipped_one(path: Path):
    shipped = {card.name for card in available()}
    published = {step.model for cell in read_job(path).cells for step in cell.steps if step.model}
    assert published and not published & shipped, "the paper's models, or open ones in their place"
    job = read_job(path, on_the_organism(path))
    models = {step.model for cell in job.cells for step in cell.steps if step.model}
    assert {split_part(model)[0] for model in models} <= shipped
    plan = plan_job(job)
    steps = {step.name or step.kind for cell in job.cells for step in cell.steps}
    assert {task.step.name or task.step.kind for task in plan.tasks} == steps, "every step has a task"


@pytest.mark.slow
@by_name
def test_it_runs_on_a_shipped_model(path: Path, tmp_path: Path):
    outcome = run_job(read_job(path, on_the_organism(path)), tmp_path)
    assert outcome.state == "done", [*outcome.missing, *outcome.refused]
    assert (outcome.folder / "report.html").stat().st_size > 100_000
    opened = open_folder(outcome.folder)
    assert opened.manifest["results"] and not opened.problems
    for run in opened.runs:
        assert load_run(run.folder).scores.table()["score"].notna().any(), run.folder
    if path.stem == "retrieval":  # the organism's own: either alone is enough, changing both breaks it
        checked = next(run for run in opened.runs if run.verification is not None)
        assert set(map(str, checked.scores.top(2))) == {"L2H2", "L2H3"}
        assert checked.verification.judgement == "redundant"
