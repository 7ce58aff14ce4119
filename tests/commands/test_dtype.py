"""`--dtype`: every command that loads a model takes it, a run remembers it, and a check repeats it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from headscope.analysis.run import load_run
from headscope.cli import app


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_every_command_that_takes_a_device_takes_a_dtype() -> None:
    """`headscope run` reads it from the job file, where every step may have its own."""

    def options(command: Any, path: str) -> dict[str, set[str]]:
        if hasattr(command, "commands"):
            parts = [options(one, f"{path} {name}".strip()) for name, one in command.commands.items()]
            return {name: found for part in parts for name, found in part.items()}
        return {path: {option for parameter in command.params for option in parameter.opts}}

    found = {name: own for name, own in options(get_command(app), "").items() if "--device" in own}
    assert len(found) > 12
    assert [name for name, own in found.items() if "--dtype" not in own] == ["run"]


def test_a_run_remembers_its_precision_and_the_check_repeats_it(tmp_path: Path, monkeypatch: Any) -> None:
    """Two precisions are two runs; the one of float32 keeps the name it always had."""
    common = ("score", "previous-token", "--model", "organism/planted", "-n", "2", "--out", str(tmp_path))
    folders = {}
    for dtype in ("float32", "bfloat16"):
        result = run(*common, "--dtype", dtype, "--json")
        assert result.exit_code == 0, result.output
        folders[dtype] = Path(json.loads(result.stdout)["run"])
        assert load_run(folders[dtype]).dtype == dtype
    assert folders["float32"] != folders["bfloat16"]
    result = run(*common, "--json")
    assert Path(json.loads(result.stdout)["run"]) == folders["float32"], (
        "float32 is what is taken without the option"
    )

    loaded = []
    from headscope.hooks import load as module

    own = module.load

    def noted(*args: Any, **kwargs: Any) -> Any:
        model = own(*args, **kwargs)
        loaded.append(next(model.original_model.parameters()).dtype)
        return model

    monkeypatch.setattr(module, "load", noted)
    for dtype, folder in folders.items():
        assert run("verify", str(folder), "-n", "2", "--k", "1", "--draws", "1").exit_code == 0
        assert loaded[-1] == getattr(torch, dtype)
    assert (
        run(
            "verify", str(folders["bfloat16"]), "-n", "2", "--k", "1", "--draws", "1", "--dtype", "float32"
        ).exit_code
        == 0
    )
    assert loaded[-1] == torch.float32


@pytest.mark.parametrize("dtype", ["int8", "half-precision", ""])
def test_a_dtype_that_is_none_is_refused(dtype: str) -> None:
    result = run("score", "induction", "--model", "organism/planted", "--dtype", dtype)
    assert result.exit_code == 2 and "choose float32, bfloat16, float16 or float64" in result.stderr
