"""Check once per image tower that edits of its heads reach what the text side is shown."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import HookNeverFired, MissingData, NoEffect
from .check import SelfCheck, tolerance
from .eyes import Eyes
from .tower import Tower

_PICTURE = "scene:1:red-circle@0,blue-star@4"


@torch.no_grad()
def tower_check(tower: Tower) -> SelfCheck:
    """Check `hook_z` edits, attention rows and `hook_pattern` edits of every layer on one picture.

    Headscope's attention function takes the place of the tower's own where what it computes is the same, since the
    tower's own heeds no edit of its pattern.

    Raises:
        MissingData: The model came without an image processor.
        HookNeverFired, NoEffect: A layer's hook did not fire, or an edit of it changed nothing.
    """
    name = tower.cfg.model_name
    eyes = Eyes.of(tower.bridge)
    if eyes is None:
        raise MissingData(f"{name}: {tower.bridge.cfg.model_name} came without its image processor.")
    seen = eyes.see([_PICTURE], name).tensors
    inputs = {key: value.to(tower.cfg.device) for key, value in seen.items()}
    clean = tower.features(inputs)
    scale = float(clean.abs().max())
    layers = range(int(tower.cfg.n_layers))

    def changed(layer: int, hook: str, act: Any) -> bool:
        fired: list[int] = []

        def hook_fn(value: Tensor, hook: Any) -> Tensor:
            fired.append(layer)
            return act(value)

        with tower.hooks([(f"blocks.{layer}.attn.{hook}", hook_fn)]):
            found = tower.features(inputs)
        if not fired:
            raise HookNeverFired(f"{name}: {hook} of layer {layer} did not fire.")
        return bool((found - clean).abs().max() > 1e-6 * scale)

    if dead := [layer for layer in layers if not changed(layer, "hook_z", _noised)]:
        raise NoEffect(
            f"{name}: editing hook_z in layers {dead} changes nothing of what the text side is shown."
        )
    tower.make_editable()
    if float((tower.features(inputs) - clean).abs().max()) > tolerance(tower) * max(1.0, scale):
        tower.undo_editable()
        return SelfCheck(False, None)
    sums: list[float] = []

    def least_attended(pattern: Float[Tensor, "image head query_piece key_piece"]) -> Tensor:
        sums.append(float((pattern.float().sum(-1) - 1).abs().max()))
        return torch.zeros_like(pattern).scatter(-1, pattern.argmin(-1, keepdim=True), 1.0)

    edits = [layer for layer in layers if changed(layer, "hook_pattern", least_attended)]
    if max(sums) > tolerance(tower):
        raise NoEffect(
            f"{name}: attention rows sum to 1 ± {max(sums):.3g}, so what is shown is not attention."
        )
    return SelfCheck(len(edits) == len(layers), max(sums))


def _noised(z: Tensor) -> Tensor:
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    return z + noise * (3 * z.std() + 0.1)
