"""Model folders made to run code: pickles under every name, modelling files, tokenizers and processors of their own."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from headscope.cli import app
from headscope.errors import BadModelFolder, HeadscopeError
from headscope.hooks.find import ORGANISMS
from headscope.hooks.load import describe, load
from headscope.hooks.outline import outline

# Architectures whose adapter in TransformerLens imports a modelling file by itself, and that file.
IMPORTING = {
    "BaichuanForCausalLM": "modeling_baichuan",
    "BD3LM": "modeling_bd3lm",
    "DreamModel": "generation_utils",
    "GiddForDiffusionLM": "modeling_gidd",
    "InternLM2ForCausalLM": "modeling_internlm2",
    "LLaDA2MoeModelLM": "modeling_llada2_moe",
    "OpenELMForCausalLM": "modeling_openelm",
    "OuroForCausalLM": "modeling_ouro",
    "RavenForCausalLM": "raven_modeling_minimal",
    "RWKV7ForCausalLM": "modeling_rwkv7",
}
OWN = """
from transformers import LlamaConfig, LlamaForCausalLM
open({flag!r}, "w").close()
class OwnConfig(LlamaConfig):
    model_type = "headscope_own_test"
class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("llama"), folder)
    return folder


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """A file that exists once hostile code has run."""
    return tmp_path / "it-ran"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_the_pickle_of_these_tests_does_run_where_it_is_loaded(flag):
    pickle.loads(pickle.dumps(Touch(flag)))
    assert flag.exists()


@pytest.mark.parametrize("replaced", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pickle_under_another_name_is_refused_and_not_loaded(copy, flag, replaced):
    (copy / replaced).write_bytes(pickle.dumps(Touch(flag)))
    with pytest.raises(BadModelFolder) as refused:
        load(copy)
    assert not flag.exists()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_folder_with_pickled_weights_alone_is_refused_with_the_remedy(copy, flag, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Touch(flag)))
    with pytest.raises(BadModelFolder, match=rf"{name}, a pickle, which can run code"):
        load(copy)
    assert not flag.exists()


@pytest.mark.parametrize(
    "beside", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"]
)
def test_pickles_beside_safetensors_are_left_alone(copy, flag, beside):
    (copy / beside).write_bytes(pickle.dumps(Touch(flag)))
    load(copy)
    assert not flag.exists()


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../outside.safetensors", "/etc/passwd", "..", "", 7, None]
)
def test_an_index_may_name_only_safetensors_of_its_folder(copy, flag, shard):
    shutil.copy(copy / "model.safetensors", copy.parent / "outside.safetensors")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(flag)))
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BadModelFolder, match=r"names .* expected a \.safetensors file of the folder"):
        load(copy)
    assert not flag.exists()


def test_other_weights_than_those_that_are_digested_are_refused(copy):
    shutil.copy(copy / "model.safetensors", copy / "other.safetensors")
    change(copy / "config.json", transformers_weights="other.safetensors")
    with pytest.raises(BadModelFolder, match="transformers_weights"):
        load(copy)


def test_an_adapter_does_not_lead_to_another_model(copy, flag):
    change_to = {"peft_type": "LORA", "base_model_name_or_path": "/somewhere/else", "auto_mapping": None}
    (copy / "adapter_config.json").write_text(json.dumps(change_to))
    (copy / "adapter_model.bin").write_bytes(pickle.dumps(Touch(flag)))
    with pytest.raises(BadModelFolder, match="holds an adapter"):
        load(copy)
    assert not flag.exists()


@pytest.mark.parametrize("architecture", IMPORTING)
def test_a_folder_that_claims_an_architecture_whose_code_is_imported_does_not_run(copy, flag, architecture):
    change(copy / "config.json", architectures=[architecture])
    (copy / f"{IMPORTING[architecture]}.py").write_text(f"open({str(flag)!r}, 'w')\n")
    for read in (load, outline):
        with pytest.raises(BadModelFolder):
            read(str(copy))
        assert not flag.exists()


class Open:
    """Stands for the guard's variable, and never says that code is refused."""

    def get(self) -> None:
        return None

    def set(self, value: Any) -> None:
        return None

    def reset(self, token: Any) -> None:
        return None


def test_without_the_guard_such_a_folder_does_run(copy, flag, monkeypatch):
    change(copy / "config.json", architectures=["BaichuanForCausalLM"])
    (copy / "modeling_baichuan.py").write_text(f"open({str(flag)!r}, 'w')\n")
    monkeypatch.setattr("headscope.hooks.own_code._refused", Open())
    with pytest.raises(HeadscopeError):  # it is a Llama after all
        load(copy)
    if not flag.exists():
        pytest.skip("this TransformerLens imports nothing by itself any more; the guard may go")


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_tokenizers_and_processors_of_their_own_do_not_run(copy, flag, file):
    path = copy / file
    path.write_text(path.read_text() if path.exists() else "{}")
    names = {
        "AutoTokenizer": ["own.Own", "own.Own"],
        "AutoProcessor": "own.Own",
        "AutoImageProcessor": "own.Own",
    }
    change(path, auto_map=names, tokenizer_class="Own", processor_class="Own", image_processor_type="Own")
    (copy / "own.py").write_text(f"open({str(flag)!r}, 'w')\nclass Own: pass\n")
    try:
        load(copy)
    except BadModelFolder as error:
        assert "runs no code from a model folder" in str(error)
    assert not flag.exists()


@pytest.mark.parametrize(
    "file", ["processor_config.json", "preprocessor_config.json", "tokenizer_config.json"]
)
def test_what_reads_images_does_not_run_either(tmp_path, flag, file):
    folder = tmp_path / "sees"
    shutil.copytree(ORGANISMS / "vision", folder)
    path = folder / file
    path.write_text(path.read_text() if path.exists() else "{}")
    names = {
        "AutoProcessor": "own.Own",
        "AutoImageProcessor": "own.Own",
        "AutoTokenizer": ["own.Own", "own.Own"],
    }
    change(path, auto_map=names, processor_class="Own")
    (folder / "own.py").write_text(f"open({str(flag)!r}, 'w')\nclass Own: pass\n")
    try:
        load(folder)
    except BadModelFolder as error:
        assert "own.py" in str(error) or "runs no code" in str(error) or "cannot be" in str(error)
    assert not flag.exists()


def test_a_generate_of_its_own_does_not_run(copy, flag):
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate" / "generate.py").write_text(
        f"open({str(flag)!r}, 'w')\ndef generate(**_): pass\n"
    )
    load(copy)
    assert not flag.exists()


@pytest.fixture
def own(copy: Path, flag: Path) -> Path:
    """A model whose architecture is defined in its folder."""
    (copy / "own.py").write_text(OWN.format(flag=str(flag)))
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    change(copy / "config.json", model_type="headscope_own_test", auto_map=names)
    return copy


def test_own_code_runs_only_with_the_flag_and_with_a_warning(own, flag):
    with pytest.raises(BadModelFolder, match="runs no code from a model folder.*--trust-remote-code"):
        load(own)
    assert not flag.exists()
    with pytest.warns(UserWarning, match=r"runs with all your rights: own\.py"):
        model = load(own, trust_remote_code=True)
    assert flag.exists()
    assert describe(model).n_layers == 3


def test_what_was_trusted_once_is_refused_the_next_time(own, flag):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(own, trust_remote_code=True)
    flag.unlink()
    with pytest.raises(BadModelFolder, match="runs no code"):
        load(own)
    assert not flag.exists()


def test_the_command_line_runs_own_code_only_with_its_flag(own, flag):
    call = ["score", "previous-token", "-m", str(own), "-n", "4", "--out", str(own.parent / "runs")]
    refused = CliRunner().invoke(app, call)
    assert refused.exit_code == 2
    assert "--trust-remote-code" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not flag.exists()
    done = CliRunner().invoke(app, [*call, "--trust-remote-code"])
    assert done.exit_code == 0, done.stderr
    assert "own.py" in done.stderr and "all your rights" in done.stderr
    assert flag.exists()


def test_a_job_runs_own_code_only_with_the_flag_and_does_not_remember_it(own, flag):
    job, runs = own.parent / "job.json", str(own.parent / "runs")
    step = {"kind": "score", "method": "previous-token", "data": {"name": "repeated", "n": 4}}
    job.write_text(json.dumps({"name": "own", "model": str(own), "trust_remote_code": True, "steps": [step]}))
    asked = CliRunner().invoke(app, ["run", str(job), "--out", runs])
    assert asked.exit_code == 2 and "there is no such setting" in asked.stderr
    job.write_text(json.dumps({"name": "own", "model": str(own), "steps": [step]}))
    call = ["run", str(job), "--out", runs, "--quiet"]
    for more in ([], ["--dry-run"]):
        refused = CliRunner().invoke(app, [*call, *more])
        assert refused.exit_code == 2, refused.output
        assert not flag.exists()
    done = CliRunner().invoke(app, [*call, "--trust-remote-code"])
    assert done.exit_code == 0, done.output
    assert flag.exists()
    (folder,) = Path(runs).iterdir()
    assert "trust" not in (folder / "manifest.json").read_text().replace("--trust-remote-code", "")


def test_every_command_that_loads_a_model_has_the_flag():
    def options(command: Any) -> set[str]:
        return {name for parameter in command.params for name in parameter.opts}

    def walk(command: Any) -> Iterator[Any]:
        for inner in getattr(command, "commands", {}).values():
            yield from walk(inner)
        if not getattr(command, "commands", {}):
            yield command

    commands = [one for one in walk(get_command(app)) if "--device" in options(one)]
    assert len(commands) > 12
    assert [one.name for one in commands if "--trust-remote-code" not in options(one)] == []


def test_no_module_of_a_model_stays_imported(copy, flag):
    """A refused file is not even copied to where transformers would import it from."""
    change(copy / "config.json", architectures=["InternLM2ForCausalLM"])
    (copy / "modeling_internlm2.py").write_text(f"open({str(flag)!r}, 'w')\n")
    with pytest.raises(BadModelFolder):
        load(copy)
    assert not [
        name for name in sys.modules if "modeling_internlm2" in name and "transformers_modules" in name
    ]
