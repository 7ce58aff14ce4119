"""Check once per model that its hooks do what every number here rests on.

A hook that fires but whose edit the model ignores is the commonest way to a wrong result, and it is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import HookNeverFired, NoEffect, NonFinite
from .attention import make_editable, undo_editable
from .tower import reads_only_images

N_TOKENS = 8


@dataclass(frozen=True)
class SelfCheck:
    """What was found out about a model's hooks.

    Attributes:
        pattern_edits: Whether an edit of `hook_pattern` changes the logits at every layer.
        row_sum_error: Largest distance of an attention row's sum from 1; None where the model shows no
            pattern.
    """

    pattern_edits: bool
    row_sum_error: float | None


@torch.no_grad()
def self_check(model: Any) -> SelfCheck:
    """Check attention rows, `hook_z` edits and `hook_pattern` edits on a few random tokens.

    All layers are tried in one forward pass of `n_layers + 2` equal rows: row `layer` is edited at that
    layer only, the last two rows stay as they are, and their difference says what rounding alone amounts to.

    Raises:
        HookNeverFired: a layer's `hook_z` did not fire.
        NoEffect: a `hook_z` edit left the logits as they were, or attention rows do not sum to 1.
        NonFinite: the unedited logits are NaN or infinite.
    """
    n_layers, name = int(model.cfg.n_layers), model.cfg.model_name
    inputs = _random_inputs(model)
    inputs = inputs.expand(n_layers + 2, *inputs.shape[1:]).contiguous()
    sums: dict[int, float] = {}

    def noise_z(layer: int) -> Any:
        def edit(z: Float[Tensor, "batch pos head d_head"], hook: Any) -> Tensor:
            fired.add(layer)
            generator = torch.Generator().manual_seed(layer)
            noise = torch.randn(z[layer].shape, generator=generator).to(z)
            z[layer] += noise * (3 * z[layer].std() + 0.1)
            return z

        return edit

    def least_attended(layer: int) -> Any:
        def edit(pattern: Float[Tensor, "batch head query_pos key_pos"], hook: Any) -> Tensor:
            fired.add(layer)
            sums[layer] = float((pattern[-1].float().sum(-1) - 1).abs().max())
            allowed = torch.ones_like(pattern[layer], dtype=torch.bool)
            if not reads_only_images(model):
                allowed = allowed.tril()
            target = pattern[layer].masked_fill(~allowed, 2.0).argmin(-1, keepdim=True)
            pattern[layer] = torch.zeros_like(pattern[layer]).scatter(-1, target, 1.0)
            return pattern

        return edit

    fired: set[int] = set()
    changed = _changed(model, inputs, [(f"blocks.{i}.attn.hook_z", noise_z(i)) for i in range(n_layers)])
    if missing := sorted(set(range(n_layers)) - fired):
        raise HookNeverFired(
            f"{name}: hook_z of layers {missing} did not fire; this architecture cannot be edited by head."
        )
    live = [layer for layer in range(n_layers) if not _writes_nothing(model, layer)]
    if dead := [layer for layer in live if not changed[layer]]:
        raise NoEffect(
            f"{name}: editing hook_z in layers {dead} leaves the logits as they were, so the bridge ignores the edit "
            "and head ablations would be meaningless; this architecture cannot be used."
        )
    fired = set()
    pattern_hooks = [(f"blocks.{i}.attn.hook_pattern", least_attended(i)) for i in range(n_layers)]
    changed = _changed(model, inputs, pattern_hooks)
    pattern_edits = all(changed[layer] for layer in live) and len(fired) == n_layers
    worst = max(sums.values()) if sums else None
    if worst is not None and worst > tolerance(model):
        layer = max(sums, key=lambda one: sums[one])
        raise NoEffect(
            f"{name}: attention rows of layer {layer} sum to 1 ± {worst:.3g}. hook_pattern does not show the attention "
            "that this model computes, so no score read from it would mean anything."
        )
    return SelfCheck(pattern_edits, worst)


def _changed(model: Any, inputs: Tensor, hooks: list[tuple[str, Any]]) -> list[bool]:
    """Say for each layer whether its row's logits moved by more than rounding."""
    with model.hooks(fwd_hooks=hooks):
        logits = plain_logits(model, inputs)
    clean = logits[-1]
    if not bool(torch.isfinite(clean).all()):
        raise NonFinite(
            f"{model.cfg.model_name}: logits of random tokens are NaN or infinite; its weights are damaged."
        )
    rounding = (logits[-2] - clean).abs().max() + 1e-6 * clean.abs().max()
    return [not bool((row - clean).abs().max() <= 4 * rounding) for row in logits[:-2]]


def _writes_nothing(model: Any, layer: int) -> bool:
    """Say whether a layer's output projection is all zeros: then no edit of its heads can have an effect."""
    output = getattr(model.blocks[layer].attn, "o", None)
    return output is not None and not any(bool(weight.any()) for weight in output.parameters())


@torch.no_grad()
def plain_logits(model: Any, inputs: Tensor) -> Float[Tensor, "row ..."]:
    """Run the model on tokens or pixels as they are; float32."""
    if reads_only_images(model):
        return model(inputs).float()  # row label
    return model(inputs, output_attentions=False, use_cache=False).float()  # row pos vocab


def _random_inputs(model: Any) -> Tensor:
    """Draw one row of tokens, or one picture for a model that reads only images."""
    generator = torch.Generator().manual_seed(0)
    if reads_only_images(model):
        config = model.original_model.config
        side = config.image_size if isinstance(config.image_size, int) else max(config.image_size)
        pixels = torch.randn(1, int(config.num_channels), side, side, generator=generator)
        return pixels.to(next(model.original_model.parameters()))
    length = min(N_TOKENS, int(model.cfg.n_ctx))
    return torch.randint(int(model.cfg.d_vocab), (1, length), generator=generator).to(model.cfg.device)


@torch.no_grad()
def edits_made_to_act(model: Any) -> bool:
    """Try to make pattern edits act on a model that ignores them; keep that only if its logits stay what they were."""
    inputs = _random_inputs(model)
    before = plain_logits(model, inputs)
    if not make_editable(model):
        return False
    after = plain_logits(model, inputs)
    if not float((after - before).abs().max()) <= tolerance(model) * max(1.0, float(before.abs().max())):
        undo_editable(model)
        return False
    return True


def tolerance(model: Any) -> float:
    """Rows of float32 sum to 1 within 1e-5; half precision rounds each weight."""
    return 1e-4 if next(model.original_model.parameters()).dtype in (torch.float32, torch.float64) else 0.02
