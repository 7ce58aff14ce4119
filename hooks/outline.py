"""Read what a model is without its weights: sizes, tokenizer and digest, for plans that cost no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig

from ..errors import BadModelFolder
from .find import check_folder, find_model, split_part
from .info import remember
from .load import no_network
from .own_code import own_code
from .tower import tower
from .vision_processor import give_processor, without_torchvision


def outline(name: str, *, trust_remote_code: bool = False) -> TransformerBridge:
    """Make the bridge that `load` would give, without its weights: it cannot be run.

    `cfg`, `tokenizer` and the configuration are right, so whatever reads only these (`Codec.of`, prompts made for a
    model) can take it in the model's place. Nothing of the size of the weights is held in memory.

    `trust_remote_code` is as for `load`.

    Raises:
        UnknownModel, BadModelFolder, HubUnavailable: As for `load`.
    """
    part = split_part(name)[1]
    folder, shown = find_model(name, code=trust_remote_code)
    shown = shown.removesuffix(part)
    check_folder(folder, shown)
    with own_code(trust_remote_code, folder, shown):
        bridge = _read(folder, shown, trust_remote_code)
    give_processor(bridge, folder, shown)
    bridge.cfg.model_name = shown
    remember(bridge, folder)
    seeing: Any = tower(bridge) if part else bridge
    return seeing


def _read(folder: Path, shown: str, trusted: bool) -> TransformerBridge:
    try:
        with no_network(), without_torchvision(), torch.random.fork_rng(devices=[]):
            return _without_weights(folder, trusted)
    except Exception as error:  # as in `load`: whatever fails here is a fault of the folder
        text = " ".join(str(error).split())
        raise BadModelFolder(
            f"{shown}: {folder} cannot be read: {type(error).__name__}: {text[:400]}"
        ) from error


def _without_weights(folder: Path, trusted: bool) -> TransformerBridge:
    try:
        with torch.device("meta"):
            return _boot(folder, trusted)
    except NotImplementedError:
        # Fused projections are split at boot, which needs values: one layer of random ones is enough.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        bridge = _boot(folder, trusted, hf_config_overrides={"num_hidden_layers": 1})
        bridge.cfg.n_layers = int(config.num_hidden_layers)
        return bridge


def _boot(folder: Path, trusted: bool, **settings: Any) -> TransformerBridge:
    return TransformerBridge.boot_transformers(
        str(folder), load_weights=False, device="cpu", trust_remote_code=trusted, **settings
    )
