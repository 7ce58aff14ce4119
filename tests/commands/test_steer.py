"""`headscope steer`: what is printed, saved and refused; and the same as a job."""

from __future__ import annotations

import json
import sys
from inspect import signature
from pathlib import Path

import pytest
from models import WORDS, sentence
from typer.testing import CliRunner

import headscope.cli
from headscope.datasets.prompts import Prompt, PromptSet


def call(*arguments: str, status: int = 0):
    result = CliRunner().invoke(headscope.cli.app, list(arguments), prog_name="headscope")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    return result


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """Random words with a gold word, and an answer."""
    made = []
    for seed in range(8):
        text = sentence(8, seed)
        end = text.index(" ")
        made.append(
            Prompt(
                text, answer=f" {WORDS[seed]}", spans={"gold": ((0, end),)}, label=f"distractors={seed % 2}"
            )
        )
    return str(PromptSet("questions", tuple(made)).to_jsonl(tmp_path / "questions.jsonl"))


def test_it_prints_a_curve_and_saves_it(model_folder, questions: str, tmp_path: Path) -> None:
    common = ["steer", "split-softmax", "-m", str(model_folder("llama")), "--data", questions, "-k", "2"]
    common += ["--strength", "0.5", "--draws", "1", "--out", str(tmp_path / "runs")]
    done = call(*common)
    assert "questions, second half" in done.stdout and "random heads" in done.stdout
    assert "nothing is known about damage" in done.stdout
    [folder] = (tmp_path / "runs").iterdir()
    record = json.loads(call(*common, "--json").stdout)
    assert record["folder"] == str(folder) and record["method"] == "split-softmax"
    assert [one.name for one in (tmp_path / "runs").iterdir()] == [folder.name]
    neutral = PromptSet("n", (Prompt(sentence(9, 1)),)).to_jsonl(tmp_path / "neutral.jsonl")
    record = json.loads(call(*common, "--neutral", str(neutral), "--json").stdout)
    assert all(row["perplexity"] > 1 for row in record["table"]) and not record["notes"]


def test_a_dry_run_does_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; sys.argv = ['headscope', 'steer', 'focus', '-m', 'x', '--dry-run'];"
        "from headscope.cli import app\n"
        "try: app()\nexcept SystemExit as end: assert end.code == 0 and 'torch' not in sys.modules"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "  method: focus\n" in made.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steer", "focsu", "-m", "x"], "Nearest: focus"),
        (["steer", "focus", "-m", "x", "-k", "some"], "-k some: expected whole numbers"),
        (["steer", "focus", "-m", "x", "-k", "0"], "1 or more, such as 1,2,4"),
        (["steer", "focus", "-m", "x", "--tolerance", "0,-1"], "0 or more, such as 0,0.02"),
        (["steer", "focus", "-m", "x", "--tolerance", "nan"], "0 or more, such as 0,0.02"),
        (["steer", "focus", "-m", "x", "--data", "words"], "ends in .jsonl"),
        (["steer", "focus", "-m", "x", "--held-out", "FILE"], "--held-out belongs to --data"),
    ],
)
def test_wrong_calls_are_refused(arguments: list[str], words: str, questions: str) -> None:
    assert words in call(*[questions if one == "FILE" else one for one in arguments], status=2).stderr


def test_names_and_defaults_are_the_same_everywhere() -> None:
    from typing import get_args

    from headscope.analysis.steering.methods import METHODS, SELECT, TOLERANCES
    from headscope.commands.steer import METHODS as WRITTEN
    from headscope.commands.steer import steer
    from headscope.jobs.kinds.steer import MethodName, Steer

    assert tuple(METHODS) == WRITTEN == get_args(MethodName)
    written = {name: one.default for name, one in signature(steer).parameters.items()}
    assert written["tolerance"] == ",".join(f"{one:g}" for one in TOLERANCES) and written["select"] == SELECT
    assert written["k"] == ",".join(map(str, Steer.model_fields["k"].default))


def test_a_job_gives_what_the_command_gives(model_folder, questions: str, tmp_path: Path) -> None:
    import pandas as pd

    from headscope.jobs.run import run_job
    from headscope.jobs.spec import job_of

    step = {"kind": "steer", "method": "split-softmax", "k": [2], "strengths": [0.5], "draws": 1}
    job = job_of(
        {"name": "t", "model": str(model_folder("llama")), "steps": [{**step, "data": {"file": questions}}]}
    )
    done = run_job(job, out=tmp_path / "jobs")
    assert done.state == "done", done.missing
    table = pd.read_parquet(done.folder / "steer.parquet")
    common = ["steer", "split-softmax", "-m", str(model_folder("llama")), "--data", questions, "-k", "2"]
    record = json.loads(
        call(*common, "--strength", "0.5", "--draws", "1", "--out", str(tmp_path / "runs"), "--json").stdout
    )
    assert table["accuracy"].tolist() == pytest.approx([row["accuracy"] for row in record["table"]])
    [folder] = [path for path in (done.folder / "results").iterdir() if path.is_dir()]
    assert json.loads((folder / "steering.json").read_text())["conclusion"] == record["conclusion"]
