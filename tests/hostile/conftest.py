"""A model whose vocabulary, name and folder are hostile, and prompts written in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hostile_input import NAME, TOKENS

from headscope.hooks.find import ORGANISMS


@pytest.fixture(scope="session")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model, in which every second word is one of `TOKENS`; its folder is called `NAME`."""
    folder = tmp_path_factory.mktemp("hostile") / NAME
    shutil.copytree(ORGANISMS / "planted", folder)
    (folder / "card.json").unlink(missing_ok=True)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words = sorted((place, word) for word, place in tokenizer["model"]["vocab"].items() if place > 3)
    for (place, word), token in zip(words[::2], TOKENS, strict=False):
        del tokenizer["model"]["vocab"][word]
        tokenizer["model"]["vocab"][token] = place
    tokenizer["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def hostile_text() -> str:
    """All hostile tokens, twice, so that an induction head has something to find."""
    return " ".join([*TOKENS, *TOKENS])


@pytest.fixture(scope="session")
def hostile_prompts(tmp_path_factory: pytest.TempPathFactory, hostile_text: str) -> Path:
    """A file of such prompts, itself called something hostile."""
    folder = tmp_path_factory.mktemp("prompts")
    path = folder / "evil \x1b[31m<img src=x onerror=window.owned=1>.jsonl"
    records = [{"text": hostile_text, "label": "<b>\x1b[5m"}, {"text": " ".join(TOKENS[::-1] * 2)}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
