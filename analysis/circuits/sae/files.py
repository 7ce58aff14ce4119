"""SAEs on disk in the folder form of SAELens 6: `cfg.json` and `sae_weights.safetensors`.

The form was read in SAELens' source (6.18 to 6.54). A folder written here loads there; of those written there, ReLU,
topk and jumprelu SAEs on `hook_z` load here. Nothing is imported from SAELens, which pins TransformerLens below 4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ....errors import BadModelFolder
from ...files import write_atomically
from .autoencoder import Sae, SaeConfig

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_HOOK = re.compile(r"blocks\.(\d+)\.attn\.hook_z")
_NAMES = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "log_threshold"}


def save_sae(sae: Sae, folder: str | Path, *, others: Mapping[str, bytes] | None = None) -> Path:
    """Write an SAE; each file appears whole or not at all.

    Args:
        sae: The SAE.
        folder: Where; an SAE that stands there is replaced.
        others: Further files, by name.

    Raises:
        CannotWrite: The system refused.
    """
    folder = Path(folder)
    tensors = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    made = {
        CONFIG: (json.dumps(_written(sae), indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: save(kept),
        **(others or {}),
    }
    for name in sorted(made, key=lambda name: name == CONFIG):  # last: where it stands, the weights do
        write_atomically(folder / name, made[name])
    return folder


def load_sae(folder: str | Path) -> Sae:
    """Read an SAE.

    Raises:
        BadModelFolder: A file is missing or cannot be read, or the SAE is of a kind that is not known here: gated, on
            another point than `hook_z`, without a decoder of its own.
        BadOption: A weight has another shape than the configuration says.
        NonFinite: A weight is NaN or infinite.
    """
    folder = Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BadModelFolder(
                f"{folder}: there is no {name}; an SAE's folder holds {CONFIG} and {WEIGHTS}."
            )
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise BadModelFolder(f"{folder}: cannot be read ({error}).") from error
    if not isinstance(record, dict):
        raise BadModelFolder(f"{folder / CONFIG}: holds a {type(record).__name__}, expected a JSON object.")
    config = _read(record, folder / CONFIG)
    if unknown := sorted(set(tensors) - _NAMES):
        raise BadModelFolder(
            f"{folder / WEIGHTS}: {unknown[0]} belongs to no {config.architecture} SAE known here."
        )
    if "log_threshold" in tensors:  # older files
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    if (
        "W_enc" in tensors
    ):  # an SAE without b_enc has none to add; the shape is held against the configuration below
        tensors.setdefault("b_enc", torch.zeros(tensors["W_enc"].shape[-1:]))
    weights: dict[str, Tensor] = {name: tensors.get(name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}  # type: ignore[misc]
    threshold = tensors.get("threshold") if config.architecture == "jumprelu" else None
    return Sae(config, **{name: w if w is None else w.float() for name, w in weights.items()},
               threshold=None if threshold is None else threshold.float())  # fmt: skip


def _written(sae: Sae) -> dict[str, Any]:
    """Give the content of `cfg.json`."""
    config = sae.config
    record: dict[str, Any] = {
        "architecture": config.architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
        "normalize_activations": config.normalize_activations,
        "reshape_activations": "hook_z" if config.head is None else "none",
        "metadata": {
            **config.metadata,
            "model_name": config.model_name,
            "hook_name": config.hook_name,
            "hook_head_index": config.head,
        },
    }
    if config.architecture == "topk":
        record |= {"k": config.k, "rescale_acts_by_decoder_norm": config.rescale_acts_by_decoder_norm}
    return record


def _read(record: dict[str, Any], path: Path) -> SaeConfig:
    """Understand `cfg.json`; entries that SAELens 6 keeps in `metadata` may also stand outside, as before 6."""
    metadata, arguments = (record.get(part) or {} for part in ("metadata", "activation_fn_kwargs"))
    if not (isinstance(metadata, dict) and isinstance(arguments, dict)):
        raise BadModelFolder(f"{path}: metadata and activation_fn_kwargs are JSON objects.")
    metadata = dict(metadata)

    def entry(name: str, default: Any = None) -> Any:
        return metadata.pop(name, None) if metadata.get(name) is not None else record.get(name, default)

    architecture, hook = record.get("architecture", "standard"), str(entry("hook_name", ""))
    if architecture == "standard" and record.get("activation_fn_str", record.get("activation_fn")) == "topk":
        architecture = "topk"
    if architecture not in ("standard", "topk", "jumprelu"):
        raise BadModelFolder(
            f"{path}: architecture {architecture!r}; standard, topk and jumprelu are known here."
        )
    place = _HOOK.fullmatch(hook)
    if place is None:
        raise BadModelFolder(f"{path}: hook_name {hook!r}; head outputs are at blocks.L.attn.hook_z.")
    head = entry("hook_head_index")
    name = str(entry("model_name", "") or "")
    for taken in ("hook_name", "hook_head_index", "model_name"):
        metadata.pop(taken, None)
    try:
        return SaeConfig(
            architecture=architecture,
            d_in=int(record["d_in"]),
            d_sae=int(record["d_sae"]),
            layer=int(place[1]),
            head=None if head is None else int(head),
            k=int(record["k"] if "k" in record else arguments["k"]) if architecture == "topk" else None,
            apply_b_dec_to_input=bool(record.get("apply_b_dec_to_input", True)),
            normalize_activations=record.get("normalize_activations") or "none",
            rescale_acts_by_decoder_norm=bool(record.get("rescale_acts_by_decoder_norm", False)),
            model_name=name,
            metadata=metadata,
        )
    except KeyError as error:
        raise BadModelFolder(f"{path}: there is no {error.args[0]!r}.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BadModelFolder(
            f"{path}: d_in, d_sae, k and hook_head_index are whole numbers: {error}."
        ) from None
