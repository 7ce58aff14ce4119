"""The README tells the truth: its Python runs, its commands and files exist, its prompt is a prompt."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headscope.cli
from headscope.datasets.prompts import Prompt

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("headscope")]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs_and_shows_what_it_should(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    *_, clean, changed = capsys.readouterr().out.splitlines()
    assert clean.split() == ["banana", "orange"] and changed.split() != clean.split()


def test_there_is_one_example_of_about_ten_lines():
    (code,) = blocks("python")
    assert 8 <= len([line for line in code.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_and_option_exists(command):
    help_text = CliRunner().invoke(headscope.cli.app, [command[1], "--help"], prog_name="headscope").stdout
    assert help_text.startswith(f"Usage: headscope {command[1]}")
    assert all(option in help_text for option in command if option.startswith("--"))


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, flags=re.M)
    assert targets and all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)


def test_the_example_prompt_is_valid_and_its_span_is_the_answer():
    prompt = Prompt(**json.loads(blocks("json")[0]))
    assert [f" {piece}" for piece in prompt.marked("needle")] == [prompt.answer]


def test_every_link_and_picture_in_the_repository_exists():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
