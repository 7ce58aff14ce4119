"""Load a model as a `TransformerBridge` from a shipped organism, a folder or the hub, and check it once."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from ..errors import BadModelFolder, BadOption, NonFinite
from .find import ModelCard, available, check_folder, find_model, split_part
from .info import ModelInfo, checked, describe, remember
from .own_code import own_code
from .tower import tower
from .vision_processor import give_processor, without_torchvision

__all__ = ["ModelCard", "ModelInfo", "available", "describe", "load"]

# A line of the load report of transformers: `model.norm.weight | MISSING | ...`, in colours on a terminal.
_REPORTED = re.compile(r"^\W*([\w.{}, ]*\w)\s*\|\W*(?:\d+m)?(MISSING|MISMATCH)", re.MULTILINE)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    n_devices: int = 1,
    trust_remote_code: bool = False,
) -> TransformerBridge:
    """Load a model in evaluation mode and check once that its hooks work.

    Shipped models and folders never touch the network, and neither does a hub id whose files are in the
    local cache. Only safetensors weights are read, and no code from a model's folder is run unless it is trusted.

    Args:
        name: `organism/NAME`, a folder in Hugging Face form, or a hub id; with `#tower` behind it the part of the
            model that sees (see `tower`).
        device: Where to put it; None for a GPU if there is one.
        dtype: Of the weights, such as `torch.bfloat16` or `"bfloat16"`; None for float32.
        n_devices: GPUs to spread whole layers over, where one cannot hold them; `device` must then be None.
        trust_remote_code: Run Python files that the model's folder brings, with all rights of this process and a
            warning. Only for code that you have read.

    Raises:
        UnknownModel: there is no such organism, folder or repository.
        BadModelFolder: a file is missing or unusable, or is code that would have to run; the message names it.
        HubUnavailable: the model is not cached and the hub cannot be reached, or refuses.
        MissingData: `#tower` of a model without an image tower that is known.
        NonFinite: a weight is NaN or infinite; the message names the tensor.
        BadOption: this machine lacks the device, or the dtype is none for weights.
        HookNeverFired, NoEffect: the self-check failed.
    """
    name = os.fspath(name)
    device, dtype = _device(device), _dtype(dtype)
    spread = _spread(n_devices, device)
    part = split_part(name)[1]
    folder, shown = find_model(name, code=trust_remote_code)
    shown = shown.removesuffix(part)
    check_folder(folder, shown)
    with own_code(trust_remote_code, folder, shown):
        model = _boot(folder, shown, dtype, spread or {"device": device}, trust_remote_code)
    model.cfg.model_name = shown
    model.eval()
    _keep_no_patterns(model)
    _check_weights(model, shown)
    remember(model, folder)
    checked(model)
    if not part:
        return model
    seeing: Any = tower(model)  # takes a bridge's place wherever heads are named and logits are read
    checked(seeing)
    return seeing


def _boot(
    folder: Path, shown: str, dtype: torch.dtype, where: dict[str, Any], trusted: bool
) -> TransformerBridge:
    """Boot from a folder; whatever fails on the way is a fault of the folder."""
    reports: list[str] = []
    try:
        # Modules draw initial weights that are then overwritten; the caller's seed must not notice.
        with (
            no_network(),
            without_torchvision(),
            _reports_of_transformers(reports),
            torch.random.fork_rng(devices=[]),
        ):
            model = TransformerBridge.boot_transformers(
                str(folder), dtype=dtype, trust_remote_code=trusted, **where
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors and tokenizers raise classes that derive from Exception alone
        _refuse_wrong_weights(folder, shown, reports)
        text = " ".join(str(error).split())
        raise BadModelFolder(
            f"{shown}: {folder} cannot be loaded: {type(error).__name__}: {text[:400]}"
        ) from error
    _refuse_wrong_weights(folder, shown, reports)
    give_processor(model, folder, shown)
    return model


def _refuse_wrong_weights(folder: Path, shown: str, reports: list[str]) -> None:
    """Raise if tensors are absent or of another shape: transformers fills them with random numbers and goes on."""
    wrong = sorted(found for report in reports for found in _REPORTED.findall(report))
    if wrong:
        listed = ", ".join(f"{key} ({kind.lower()})" for key, kind in wrong[:5])
        raise BadModelFolder(
            f"{shown}: the weights in {folder} do not fit its config.json: {listed}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}; get the complete files."
        )


@contextmanager
def no_network() -> Iterator[None]:
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
def _reports_of_transformers(reports: list[str]) -> Iterator[None]:
    """Collect the load reports of transformers instead of printing or losing them, and draw no progress bar."""
    from transformers.utils import logging as hf_logging

    collector = logging.Handler()
    collector.emit = lambda record: reports.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.modeling_utils")
    level, propagate, bar = logger.level, logger.propagate, hf_logging.is_progress_bar_enabled()
    logger.addHandler(collector)
    logger.propagate = False
    hf_logging.disable_progress_bar()
    try:
        logger.setLevel(logging.WARNING)
        yield
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate
        if bar:
            hf_logging.enable_progress_bar()


def _keep_no_patterns(model: Any) -> None:
    """Stop attention modules from holding their last pattern: nobody reads it, and long prompts would fill memory."""
    for module in model.original_model.modules():
        if hasattr(module, "_pattern"):
            module.register_forward_hook(_forget_pattern)


def _forget_pattern(module: Any, inputs: Any, output: Any) -> None:
    module._pattern = None


def _check_weights(model: Any, shown: str) -> None:
    for name, tensor in model.original_model.named_parameters():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            plain = name.replace("_original_component.", "")
            raise NonFinite(
                f"{shown}: {bad} of {tensor.numel()} weights of {plain} are NaN or infinite in {tensor.dtype}; "
                "get the file again, or load in float32 if it was too large for a smaller dtype."
            )


def _device(device: str | torch.device | None) -> torch.device | None:
    """Check a device before a model is read for it; None lets the bridge choose."""
    try:
        return None if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        choices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise BadOption(f"device is {str(device)!r}; this machine has {', '.join(choices)}.") from error


def _spread(n_devices: int, device: torch.device | None) -> dict[str, Any]:
    """Check that there are as many GPUs, before a model is read for them; nothing for a single one."""
    if n_devices == 1:
        return {}
    found = torch.cuda.device_count()
    if device is not None or not 1 < n_devices <= found:
        raise BadOption(
            f"n_devices is {n_devices} and device {device}; this machine has {found} GPUs, and a model that is spread "
            "takes no device."
        )
    return {"n_devices": n_devices}


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BadOption(f"dtype is {dtype!r}; choose float32, bfloat16, float16 or float64.")
    return found
