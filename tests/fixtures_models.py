"""Fixtures that load each test model once per session and hold that no test leaves anything behind on a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import left_behind
import pytest
from models import ARCHITECTURES, write_model

SHARED = Path(__file__).resolve().parents[2] / "shared"
_loaded: dict[str, Any] = {}
left_behind.watch_bridges()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a tiny random model: gpt2, llama, qwen3, gemma2, or one that sees."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / f"tiny-{architecture}"
        return path if path.exists() else write_model(architecture, path)

    return folder


@pytest.fixture(scope="session")
def tiny(model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """Return a function that loads a tiny random model by architecture, once per session."""
    return lambda architecture: _load(str(model_folder(architecture)))


@pytest.fixture(params=ARCHITECTURES)
def any_model(request: pytest.FixtureRequest, tiny: Callable[[str], Any]) -> Any:
    """Each tiny random architecture in turn, loaded."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def planted() -> Any:
    """The shipped model whose heads were written by hand."""
    return _load("organism/planted")


@pytest.fixture(scope="session")
def stories() -> Any:
    """A small trained Llama that is not part of the project; skips where it is absent."""
    folder = SHARED / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(
            "../shared/models/stories260k is not here: it is an outside check, not part of the project"
        )
    return _load(str(folder))


@pytest.fixture(scope="session")
def stories_oracle() -> dict[str, Any]:
    """Numbers of that model computed without TransformerLens and Headscope; skips where they are absent."""
    path = SHARED / "oracles" / "stories260k.json"
    if not path.is_file():
        pytest.skip(
            "../shared/oracles/stories260k.json is not here: it is an outside check, not part of the project"
        )
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a hook or anything else on any model, shared or its own, loaded here or elsewhere."""
    yield
    left, process = left_behind.check_all(), left_behind.check_process()
    assert not left, f"left behind on models: {left}"
    assert not process, f"left behind: {process}"


def _load(name: str) -> Any:
    if name not in _loaded:
        from headscope.hooks.load import load

        _loaded[name] = load(name)
        left_behind.remember(_loaded[name])
    return _loaded[name]
