"""Run a bridge without the work that only hooks would look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch.nn import LayerNorm, Module
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge
from transformers.activations import NewGELUActivation


@contextmanager
def forward_as(module: Module, replacement: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else inside the block."""
    own = module.__dict__.get("forward")
    try:
        module.__dict__["forward"] = replacement
        yield
    finally:
        if own is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = own


@contextmanager
def lean(model: Any) -> Iterator[None]:
    """Compute the same without the intermediate values that only hooks would look at.

    Norms make no values for `hook_scale` and `hook_normalized`, and GPT-2's activation, eight passes over memory when
    written out, becomes torch's one-pass form of the same formula. Both agree to float32's rounding.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, NormalizationBridge) and _is_plain(module):
                undo.enter_context(forward_as(module, module.original_component.forward))  # type: ignore[union-attr]
            elif isinstance(module, NewGELUActivation):
                undo.enter_context(forward_as(module, lambda x: F.gelu(x, approximate="tanh")))
        yield


def _is_plain(norm: NormalizationBridge) -> bool:
    """Say whether the bridge's norm computes what the wrapped module computes."""
    wrapped = norm.original_component
    if wrapped is None:
        return False
    if norm.use_native_layernorm_autograd or getattr(norm.config, "layer_norm_folding", False):
        return True
    same_formula = isinstance(wrapped, LayerNorm) and wrapped.eps == getattr(norm.config, "eps", 1e-5)
    return type(norm) is NormalizationBridge and same_formula and not norm.uses_weight_offset
