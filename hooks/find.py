"""Find the folder that a model's name means: a shipped organism, a folder, or a snapshot from the hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadModelFolder, HubUnavailable, UnknownModel, nearest

ORGANISMS = Path(__file__).resolve().parents[1] / "organisms"
_PREFIX = "organism/"
PART = "#tower"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HUB_FILES: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
    "ignore_patterns": ["*/*", "consolidated*"],  # other formats of the same weights
}


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


def split_part(name: str) -> tuple[str, str]:
    """Split a model's name from the part that is meant: `#tower`, or nothing.

    >>> split_part("organism/vision#tower")
    ('organism/vision', '#tower')
    """
    return (name.removesuffix(PART), PART) if name.endswith(PART) else (name, "")


def digest_of_part(digest: str, part: str) -> str:
    """Return what results of a part are filed under: the same weights as the whole model's, and other heads."""
    return hashlib.sha256(f"{digest}{part}".encode()).hexdigest()[:16] if part else digest


def find_model(name: str, *, code: bool = False) -> tuple[Path, str]:
    """Return the folder that holds a model, and the name to show for it.

    Args:
        name: As for `load`.
        code: Whether the Python files of a hub repository are fetched too.
    """
    shipped = {card.name: card.folder for card in available()}
    name, part = split_part(name)
    folder, shown = _find(name, shipped, code)
    return folder, shown + part


def _find(name: str, shipped: dict[str, Path], code: bool) -> tuple[Path, str]:
    if name in shipped:
        return shipped[name], name
    if name.startswith(_PREFIX) or not name:
        raise UnknownModel(f"no shipped model is called {name!r}.{nearest(name, shipped)}")
    try:
        path = Path(name).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # too long, not to be entered, a user without a home
        why = error.strerror if isinstance(error, OSError) else error
        raise UnknownModel(f"{name[:200]!r} is no path that can be looked up: {why}.") from error
    if is_folder:
        return path.resolve(), path.resolve().name
    if is_there:
        raise BadModelFolder(
            f"{name} is a file; give the folder that holds config.json and model.safetensors."
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        beside = _folders_beside(path)
        hint = (
            nearest(name, beside) if beside else f" Check the path; shipped models are {', '.join(shipped)}."
        )
        raise UnknownModel(f"there is no folder {name!r}.{hint}")
    return _from_hub(name, shipped, code), name


def _folders_beside(path: Path) -> list[str]:
    """List the model folders where a missing one was looked for."""
    return [str(one.parent) for one in sorted(path.parent.glob("*/config.json"))]


def _from_hub(name: str, shipped: dict[str, Path], code: bool) -> Path:
    """Return the local snapshot of a hub repository, downloading it only if it is not cached."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    tail = nearest(name, shipped)
    wanted = dict(_HUB_FILES)
    if code:
        wanted["allow_patterns"] = [*wanted["allow_patterns"], "*.py"]
    try:
        folder = Path(snapshot_download(name, **wanted, local_files_only=True))
        # A snapshot that was fetched without its code lacks it.
        if not _missing(folder) and (not code or constants.HF_HUB_OFFLINE or any(folder.glob("*.py"))):
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
        return Path(snapshot_download(name, **wanted))
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


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold a folder's weights, whether they exist or not: one, or the shards of an index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors",)
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadModelFolder(f"{index} is not a weight index ({error}); copy it again.") from error
    for shard in shards:
        # transformers reads whatever stands there: a file outside the folder, or a pickle.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BadModelFolder(
                f"{index} names {str(shard)[:100]!r} as a file of weights; expected a .safetensors file of the folder."
            )
    return tuple(folder / shard for shard in sorted(shards))


def weights_digest(folder: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of a folder's weight files; dtype and device do not change it."""
    total = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def _missing(folder: Path) -> str:
    """Say which file a model folder lacks, or return an empty string."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if absent := [path.name for path in weight_files(folder) if not path.is_file()]:
        return ", ".join(absent)
    if any((folder / one).is_file() for one in _TOKENIZER_FILES):
        return ""
    if _reads_only_images(folder):
        return "" if any((folder / one).is_file() for one in _PROCESSOR_FILES) else "preprocessor_config.json"
    return "tokenizer.json"


def _reads_only_images(folder: Path) -> bool:
    """Whether a folder's configuration is that of a model of images alone, such as a ViT."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(config, dict)
        and "image_size" in config
        and not {"vocab_size", "text_config"} & set(config)
    )


def check_folder(folder: Path, shown: str) -> None:
    """Refuse a folder that cannot be loaded safely, before anything is read from it."""
    missing = _missing(folder)
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES)
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
    except (ValueError, RecursionError) as error:
        raise BadModelFolder(f"{path} is not JSON ({error}); copy it again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise BadModelFolder(f"{path} names no model_type; it is not a Hugging Face model configuration.")
    if (folder / "adapter_config.json").is_file():
        # Where PEFT is installed, the adapter's base model would be read instead.
        raise BadModelFolder(
            f"{shown}: {folder} holds an adapter (adapter_config.json). Merge it into its model where you have both, "
            "save_pretrained() that, and give its folder; or remove the file."
        )
    if config.get("transformers_weights") is not None:
        # That file would be read instead of those that are digested.
        raise BadModelFolder(
            f"{path} names its weights under transformers_weights; remove that, and call the file model.safetensors."
        )
