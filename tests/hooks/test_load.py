import json
import shutil
import socket

import pytest
import torch
from models import ARCHITECTURES, write_model
from safetensors.torch import load_file, save_file

from headscope.errors import BadModelFolder, BadOption, HubUnavailable, NonFinite, UnknownModel
from headscope.hooks.load import available, describe, load


@pytest.fixture
def copy(model_folder, tmp_path):
    """A folder of the tiny Llama that a test may spoil."""
    folder = tmp_path / "spoiled"
    shutil.copytree(model_folder("llama"), folder)
    return folder


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_in_evaluation_mode_and_is_described(tiny, architecture):
    model = tiny(architecture)
    info = describe(model)
    assert not model.training
    assert info.name == f"tiny-{architecture}"
    assert (info.n_layers, info.n_heads, info.n_ctx) == (3, 4, 128)
    assert info.n_kv_heads == (4 if architecture == "gpt2" else 2)
    assert info.d_head == (16 if architecture == "gemma2" else 8)
    assert info.n_vocab == model.original_model.config.vocab_size
    assert info.dtype == torch.float32
    assert info.pattern_edits


def test_nothing_touches_the_network_for_organisms_and_folders(model_folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    load(model_folder("gpt2"))
    load("organism/planted")
    import os

    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is False
    assert "PIP_NO_INDEX" not in os.environ


def test_the_digest_follows_the_weights_not_the_folder_or_the_dtype(tiny, model_folder, copy):
    original = describe(tiny("llama")).digest
    assert describe(load(copy, dtype="bfloat16")).digest == original
    change_weights(copy, lambda weights: weights["model.norm.weight"].add_(1e-3))
    assert describe(load(copy)).digest != original


def test_a_bridge_that_load_did_not_make_is_described_too(model_folder):
    from transformer_lens.model_bridge import TransformerBridge

    def boot():
        return TransformerBridge.boot_transformers(str(model_folder("gpt2")), device="cpu")

    model = boot()
    info = describe(model)
    assert info.folder is None and info.pattern_edits and len(info.digest) == 16
    other = boot()
    assert describe(other).digest == info.digest
    third = boot()
    with torch.no_grad():
        next(third.original_model.parameters()).add_(1)
    assert describe(third).digest != info.digest


def test_the_dtype_is_asked_for_by_name_or_value(model_folder):
    assert describe(load(model_folder("llama"), dtype="bfloat16")).dtype == torch.bfloat16
    assert describe(load(model_folder("llama"), dtype=torch.float64)).dtype == torch.float64
    for wrong in ("int8", "float31", torch.int64, "Tensor"):
        with pytest.raises(BadOption, match="bfloat16"):
            load(model_folder("llama"), dtype=wrong)


def test_a_device_that_is_not_there_is_refused(model_folder):
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(BadOption, match=f"device is '{wrong}'; this machine has cpu"):
            load(model_folder("llama"), device=wrong)
    assert describe(load(model_folder("llama"), device="cpu")).device == torch.device("cpu")


def test_shipped_models_are_listed_with_their_cards():
    cards = {card.name: card for card in available()}
    planted = cards["organism/planted"]
    assert planted.summary and planted.card["ground_truth"]["induction"] == ["L2H1"]
    assert all(card.folder.joinpath("model.safetensors").is_file() for card in cards.values())


@pytest.mark.parametrize("name", ["organism/plantd", "organism/Planted", "organism/../organisms/planted"])
def test_a_wrong_organism_names_the_nearest(name):
    with pytest.raises(UnknownModel, match="organism/planted"):
        load(name)


def test_a_wrong_folder_names_its_neighbours(model_folder):
    folder = model_folder("llama")
    with pytest.raises(UnknownModel, match="tiny-llama"):
        load(folder.parent / "tiny-lama")
    with pytest.raises(UnknownModel, match="Check the path"):
        load("/no/such/folder")
    with pytest.raises(UnknownModel):
        load("")
    with pytest.raises(BadModelFolder, match="is a file"):
        load(folder / "config.json")


def test_a_hub_id_that_is_not_cached_says_so_when_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnavailable, match=r"not in the local cache.*HF_HUB_OFFLINE"):
        load("someone/no-such-model-of-ours")
    with pytest.raises(HubUnavailable, match="organism/planted"):
        load("planted")
    with pytest.raises(UnknownModel, match="no hub id"):
        load("not a name!")


def test_a_hub_that_cannot_be_reached_says_so(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(name, *, local_files_only=False, **patterns):
        raise LocalEntryNotFoundError("no cache") if local_files_only else ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(HubUnavailable, match=r"cannot be reached.*ConnectionError"):
        load("someone/model")


def test_a_cached_hub_id_is_loaded_without_asking_the_hub(monkeypatch, model_folder):
    def fetch(name, *, local_files_only=False, **patterns):
        assert local_files_only, "the hub was asked although the files are cached"
        return str(model_folder("llama"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert describe(load("someone/model")).name == "someone/model"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["config.json"], "config.json"),
        (["model.safetensors"], "model.safetensors"),
        (["tokenizer.json", "tokenizer_config.json"], "tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_names_it(copy, files, named):
    for file in files:
        (copy / file).unlink()
    with pytest.raises(BadModelFolder, match=f"has no {named}"):
        load(copy)


def test_a_missing_shard_is_named(copy):
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(BadModelFolder, match=r"has no model-00002-of-00002.safetensors"):
        load(copy)


def test_pickled_weights_are_refused_unread(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (copy / "model.safetensors").unlink()
    torch.save(Bomb(), copy / "pytorch_model.bin")
    with pytest.raises(BadModelFolder, match="pickle"):
        load(copy)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_model_folder_is_not_run(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(BadModelFolder, match="runs no code from a model folder"):
        load(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(copy, value):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value

    change_weights(copy, spoil)
    with pytest.raises(NonFinite, match=r"1 of 2048 weights of model\.layers\.1\.mlp\S*up_proj\.weight"):
        load(copy)


def test_tensors_that_are_absent_or_misshapen_are_named_not_filled_in(copy):
    change_weights(copy, lambda weights: weights.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(BadModelFolder, match=r"layers\.1\.self_attn\.k_proj\.weight \(missing\)"):
        load(copy)
    shutil.copyfile(copy / "model.safetensors", copy / "other.safetensors")
    change_weights(
        copy, lambda weights: weights.update({"model.layers.1.self_attn.k_proj.weight": torch.ones(3)})
    )
    with pytest.raises(BadModelFolder, match=r"k_proj\.weight \(mismatch\)"):
        load(copy)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_the_folders_fault(copy, file):
    path = copy / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadModelFolder, match="spoiled"):
        load(copy)


def test_loading_prints_nothing(model_folder, capfd):
    load(model_folder("qwen3"))
    assert capfd.readouterr() == ("", "")


def test_the_seed_of_the_caller_is_left_alone(model_folder):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(model_folder("gpt2"))
    assert torch.equal(torch.rand(3), expected)


def test_write_model_is_the_same_for_a_seed(tmp_path):
    one, two = (
        load_file(write_model("gemma2", tmp_path / name) / "model.safetensors") for name in ("a", "b")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
