"""A training on disk: a checkpoint while it runs, a record beside the SAE when it is done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ....errors import BadOption, BadRun
from ...files import jsonable, read_json, write_atomically
from .autoencoder import Sae, SaeConfig
from .files import CONFIG, load_sae, save_sae
from .options import SaeOptions
from .state import State
from .stream import Place

CHECKPOINT, RECORD = "training.safetensors", "training.json"


def identity_of(config: SaeConfig, options: SaeOptions) -> str:
    """Return a digest of everything that decides the result."""
    record = jsonable({"config": asdict(config), "options": asdict(options)})
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def save_checkpoint(folder: Path, state: State, identity: str) -> None:
    """Write a training that goes on, over the checkpoint before it."""
    tensors = {"silent": state.silent}
    for part in ("weights", "first", "second"):
        tensors |= {f"{part}/{name}": tensor.contiguous() for name, tensor in getattr(state, part).items()}
    metadata = {"identity": identity, "step": state.step, "place": list(state.place), "scale": state.scale.hex(),
                "history": state.history}  # fmt: skip
    write_atomically(
        folder / CHECKPOINT,
        save(tensors, metadata={name: json.dumps(value) for name, value in metadata.items()}),
    )


def load_checkpoint(folder: Path, identity: str) -> State | None:
    """Read the training that was stopped in a folder; None where there is none.

    Raises:
        BadOption: It was of another SAE.
        BadRun: The file cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        return _restored(path, identity)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadRun(
            f"{path}: not a training that was stopped here ({type(error).__name__}: {str(error)[:200]}). Remove it, "
            "and train from the beginning."
        ) from error


def _restored(path: Path, identity: str) -> State:
    with safe_open(path, "pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        if metadata["identity"] != identity:
            raise BadOption(
                f"{path.parent}: a training of another SAE was stopped here (other prompts, model or settings); choose "
                "another folder, or remove this one."
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "first": {}, "second": {}}
    for name, tensor in tensors.items():
        if "/" in name:
            part, own = name.split("/")
            parts[part][own] = tensor
    return State(
        **parts, silent=tensors["silent"], scale=float.fromhex(metadata["scale"]), step=metadata["step"],
        place=Place(*metadata["place"]), history=metadata["history"],
    )  # fmt: skip


def save_finished(
    folder: Path,
    sae: Sae,
    identity: str,
    options: SaeOptions,
    history: list[dict[str, float]],
    seconds: float,
) -> None:
    """Write a trained SAE and the record of its training, and remove the checkpoint."""
    record = {"identity": identity, "options": asdict(options), "history": history, "seconds": seconds}
    save_sae(sae, folder, others={RECORD: (json.dumps(jsonable(record), indent=2) + "\n").encode()})
    (folder / CHECKPOINT).unlink(missing_ok=True)


def load_finished(folder: Path, identity: str) -> tuple[Sae, list[dict[str, float]]] | None:
    """Read the SAE that stands in a folder and the history of its training; None where there is none.

    Raises:
        BadOption: It is another SAE.
    """
    if not (folder / CONFIG).is_file():
        return None
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    if record.get("identity") != identity:
        raise BadOption(f"{folder}: another SAE stands here; choose another folder, or remove this one.")
    known = {field.name for field in fields(SaeOptions)}
    assert set(record["options"]) == known, "an identity can only match the same options"
    return load_sae(folder), record["history"]
