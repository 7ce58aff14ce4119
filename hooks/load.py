"""Load a model as a `TransformerBridge` from a shipped organism, a folder or the hub, and check it once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from ..errors import BadModelFolder, BadOption, HubUnavailable, NonFinite, UnknownModel, nearest
from .info import checked, remember

ORGANISMS = Path(__file__).resolve().parents[1] / "organisms"
_PREFIX = "organism/"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class ModelCard:
    """A shipped model: its name for `load`, what it is, and the whole `card.json`."""

    name: str
    folder: Path
    summary: str
    card: dict[str, Any]


def available() -> tuple[ModelCard, ...]:
    """List the shipped models by name."""
    cards = []
    for folder in sorted(path.parent for path in ORGANISMS.glob("*/config.json")):
        path = folder / "card.json"
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        cards.append(ModelCard(_PREFIX + folder.name, folder, str(card.get("summary", "")), card))
    return tuple(cards)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> TransformerBridge:
    """Load a model in evaluation mode and check once that its hooks work.

    Shipped models and folders never touch the network, and neither does a hub id whose files are in the
    local cache. Only safetensors weights are read, and no code from a model's repository is run.

    Args:
        name: `organism/NAME`, a folder in Hugging Face form, or a hub id.
        device: Where to put it; None for a GPU if there is one.
        dtype: Of the weights, such as `torch.bfloat16` or `"bfloat16"`; None for float32.

    Raises:
        UnknownModel: there is no such organism, folder or repository.
        BadModelFolder: a file is missing or unusable; the message names it.
        HubUnavailable: the model is not cached and the hub cannot be reached, or refuses.
        NonFinite: a weight is NaN or infinite; the message names the tensor.
        HookNeverFired, NoEffect: the self-check failed.
    """
    name = os.fspath(name)
    folder, shown = _find(name)
    _check_folder(folder, shown)
    model = _boot(folder, shown, device, _dtype(dtype))
    model.cfg.model_name = shown
    model.eval()
    _check_weights(model, shown)
    remember(model, folder)
    checked(model)
    return model


def _find(name: str) -> tuple[Path, str]:
    """Return the folder that holds a model, and the name to show for it."""
    shipped = {card.name: card.folder for card in available()}
    if name in shipped:
        return shipped[name], name
    if name.startswith(_PREFIX):
        raise UnknownModel(f"no shipped model is called {name!r}.{nearest(name, shipped)}")
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if path.exists():
        raise BadModelFolder(
            f"{name} is a file; give the folder that holds config.json and model.safetensors."
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name
    if looks_like_path and (name.count("/") or not name or name.startswith(".")):
        raise UnknownModel(f"there is no folder {name!r}.{nearest(name, _folders_near(path))}")
    return _from_hub(name, shipped), name


def _folders_near(path: Path) -> list[str]:
    parent = path.parent
    return [str(one) for one in sorted(parent.iterdir()) if one.is_dir()] if parent.is_dir() else []


def _from_hub(name: str, shipped: dict[str, Path]) -> Path:
    """Return the local snapshot of a hub repository, downloading it only if it is not cached."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    tail = nearest(name, [*shipped, *(one.removeprefix(_PREFIX) for one in shipped)])
    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
        if not _missing(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise UnknownModel(f"{name!r} is no shipped model, no folder and no hub id.{tail}") from error
    if constants.HF_HUB_OFFLINE:
        raise HubUnavailable(
            f"{name!r} is no shipped model and no folder, and as a hub id it is not in the local cache "
            f"({constants.HF_HUB_CACHE}) while HF_HUB_OFFLINE is set. Unset it, or give a folder.{tail}"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        raise HubUnavailable(
            f"{name!r} is gated on the hub: accept its terms there and set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownModel(
            f"{name!r} is no shipped model, no folder, and the hub does not have it.{tail}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise HubUnavailable(
            f"{name!r} is no shipped model and no folder, and the hub cannot be reached to fetch it "
            f"({type(error).__name__}). Connect, or give a folder.{tail}"
        ) from error


def _missing(folder: Path) -> str:
    """Say which file a model folder lacks, or return an empty string."""
    if not (folder / "config.json").is_file():
        return "config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise BadModelFolder(f"{index} is not a weight index ({error}); copy it again.") from error
        if absent := sorted(shard for shard in shards if not (folder / shard).is_file()):
            return ", ".join(absent)
    elif not (folder / "model.safetensors").is_file():
        return "model.safetensors"
    return "" if any((folder / one).is_file() for one in _TOKENIZER_FILES) else "tokenizer.json"


def _check_folder(folder: Path, shown: str) -> None:
    """Refuse a folder that cannot be loaded safely, before anything is read from it."""
    missing = _missing(folder)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if missing.endswith(".safetensors") and pickles:
        raise BadModelFolder(
            f"{shown}: {folder} has its weights in {pickles[0]}, a pickle, which can run code when it is read. "
            "Convert it: load it once with transformers where you trust it and save_pretrained() it."
        )
    if missing:
        raise BadModelFolder(
            f"{shown}: {folder} has no {missing}; a model folder needs config.json, model.safetensors "
            "and tokenizer.json."
        )
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadModelFolder(f"{path} is not JSON ({error}); copy it again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise BadModelFolder(f"{path} names no model_type; it is not a Hugging Face model configuration.")


def _boot(folder: Path, shown: str, device: Any, dtype: torch.dtype) -> TransformerBridge:
    try:
        with _no_network(), _no_progress_bar():
            return TransformerBridge.boot_transformers(
                str(folder), device=device, dtype=dtype, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise BadModelFolder(
            f"{shown}: {folder} cannot be loaded: {type(error).__name__}: {text[:400]}"
        ) from error
    except (
        Exception
    ) as error:  # safetensors and tokenizers raise classes of their own that derive from Exception alone
        if type(error).__module__.split(".")[0] in (
            "safetensors",
            "safetensors_rust",
            "tokenizers",
            "builtins",
        ):
            raise BadModelFolder(f"{shown}: a file in {folder} is damaged: {error}") from error
        raise


@contextmanager
def _no_network() -> Iterator[None]:
    """Keep a boot from a folder local: no hub look-ups, and no `pip install` of a missing image processor."""
    from huggingface_hub import constants

    wanted = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    before = {key: os.environ.get(key) for key in wanted}
    offline = constants.HF_HUB_OFFLINE
    os.environ.update(wanted)
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for a load that the caller did not ask to watch."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_weights(model: Any, shown: str) -> None:
    for name, tensor in model.original_model.named_parameters():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            plain = name.replace("_original_component.", "")
            raise NonFinite(
                f"{shown}: {bad} of {tensor.numel()} weights of {plain} are NaN or infinite; get the file again."
            )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BadOption(f"dtype is {dtype!r}; choose float32, bfloat16, float16 or float64.")
    return found
