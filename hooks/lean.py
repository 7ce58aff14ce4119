"""Run a bridge without the work that only hooks would look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch.nn import Module
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge
from transformers.activations import NewGELUActivation


@contextmanager
def forward_as(module: Module, replacement: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else inside the block."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = replacement
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


@contextmanager
def lean(model: Any) -> Iterator[None]:
    """Compute the same without the intermediate values that only hooks would look at.

    Norms skip the copies they make for `hook_scale` and `hook_normalized`, and GPT-2's activation, eight passes over
    memory when written out, becomes torch's one-pass form of the same formula. Both agree to float32's rounding.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, NormalizationBridge) and _is_native(module):
                undo.enter_context(forward_as(module, module.original_component.forward))  # type: ignore[union-attr]
            elif isinstance(module, NewGELUActivation):
                undo.enter_context(forward_as(module, lambda x: F.gelu(x, approximate="tanh")))
        yield


def _is_native(norm: NormalizationBridge) -> bool:
    """Say whether the bridge's norm hands back what the wrapped module computes."""
    folded = bool(getattr(norm.config, "layer_norm_folding", False))
    return norm.original_component is not None and (norm.use_native_layernorm_autograd or folded)
