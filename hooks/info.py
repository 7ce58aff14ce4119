"""Say what a loaded model is: sizes, weight digest, and what its hooks can do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .check import SelfCheck, edits_made_to_act, self_check
from .find import PART, digest_of_part, weights_digest
from .tower import Tower
from .tower_check import tower_check


@dataclass(frozen=True)
class ModelInfo:
    """What results must be filed under.

    Attributes:
        name: As given to `load`, or the last part of a folder's path.
        digest: First 16 hex digits of the SHA-256 of the weights: of the folder's weight files where the
            model came from one (so that dtype and device do not change it), otherwise of its parameters and
            buffers.
        n_kv_heads: Key-value heads; fewer than `n_heads` under grouped queries.
        pattern_edits: Whether an edit of `hook_pattern` changes the logits at every layer.
        folder: Where the weights were read from, None for a model that was built in memory.
    """

    name: str
    digest: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    n_ctx: int
    n_vocab: int
    dtype: torch.dtype
    device: torch.device
    pattern_edits: bool
    folder: Path | None


@dataclass
class _Known:
    """Facts about one loaded model that are found out at most once."""

    folder: Path | None = None
    digest: str | None = None
    check: SelfCheck | None = None


_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def describe(model: Any) -> ModelInfo:
    """Describe a model; the digest and the self-check are computed at the first call and kept.

    Args:
        model: Any `TransformerBridge`, also one that `load` did not make.
    """
    cfg, known = model.cfg, _known.setdefault(model, _Known())
    parameter = next(model.original_model.parameters())
    if known.digest is None and isinstance(model, Tower):
        whole = describe(model.bridge)
        known.folder, known.digest = whole.folder, digest_of_part(whole.digest, PART)
    if known.digest is None:
        known.digest = weights_digest(known.folder) if known.folder else _digest_tensors(model)
    return ModelInfo(
        name=str(cfg.model_name),
        digest=known.digest,
        n_layers=int(cfg.n_layers),
        n_heads=int(cfg.n_heads),
        n_kv_heads=int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads),
        d_head=int(cfg.d_head),
        d_model=int(cfg.d_model),
        n_ctx=int(cfg.n_ctx),
        n_vocab=max(int(cfg.d_vocab), 0),
        dtype=parameter.dtype,
        device=parameter.device,
        pattern_edits=checked(model).pattern_edits,
        folder=known.folder,
    )


def remember(model: Any, folder: Path) -> None:
    """Note where a model's weights were read from."""
    _known[model] = _Known(folder=folder)


def checked(model: Any) -> SelfCheck:
    """Return the model's self-check, running it at the first call."""
    known = _known.setdefault(model, _Known())
    if known.check is None:
        if isinstance(model, Tower):
            known.check = tower_check(model)
            return known.check
        known.check = self_check(model)
        if not known.check.pattern_edits and edits_made_to_act(model):
            known.check = self_check(model)
    return known.check


def _digest_tensors(model: Any) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(model.original_model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
