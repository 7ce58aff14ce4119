"""The README tells the truth: its Python runs, its commands and files exist, its prompt is a prompt."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pages
import pytest

import headscope
from headscope.datasets.prompts import Prompt

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("headscope")]


@pytest.mark.slow
def test_all_of_it_runs_and_the_python_shows_what_it_should(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = pages.Page(ROOT / "README.md").run()
    (example,) = [place for place, block in enumerate(pages.blocks(done.path)) if block.language == "python"]
    *_, clean, changed = done.printed[example].splitlines()
    assert clean.split() == ["ribbon", "lemon", "volcano"]
    assert not set(changed.split()) & set(clean.split())
    assert {"models", "methods", "score", "verify", "generate"} <= {command[1] for command in commands()}
    assert len(done.skipped) == 2  # the app, and a model of the hub


def test_there_is_one_example_of_about_ten_lines():
    (code,) = blocks("python")
    assert 8 <= len([line for line in code.splitlines() if line.strip()]) <= 12


def test_every_shipped_model_and_its_size_is_named():
    for card in headscope.available():
        assert f"`{card.name}`" in README
    words = json.loads((ROOT / "organisms" / "text" / "card.json").read_text())["sizes"]["n_vocab"]
    assert f"vocabulary of {words} tokens" in README


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_and_option_exists(command):
    pages.check_exists(shlex.join(command))


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, flags=re.M)
    assert targets and all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)


def test_the_example_prompt_is_valid_and_its_span_is_the_answer():
    prompt = Prompt(**json.loads(blocks("json")[0]))
    assert [f" {piece}" for piece in prompt.marked("needle")] == [prompt.answer]
