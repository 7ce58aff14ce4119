"""Image-centric heads: those that look at the image itself, and not at its sinks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.prompts import PromptSet
from ...errors import MissingData
from ...hooks.encode import Batch, encode
from ...hooks.forward import forward
from ...hooks.sinks import activation, massive_dimensions, threshold_for
from ...hooks.sweep import Progress
from ...hooks.turn import watching
from ..registry import Measured, method

_ROWS = 16


@method(
    "image-centric",
    data="scenes",
    higher="of its attention on the image, most lies on no sink",
    reference="Kang et al. 2025, arXiv:2503.03321",
    alternative=None,
    per_prompt=False,
)
def image_centric(
    model: Any,
    prompts: PromptSet,
    *,
    min_mass: float = 0.2,
    tau: float | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure which share of a head's attention on the image lies on pieces that are no sinks.

    Formula: r = Σ A[i, j] over the image's pieces that are no sinks / Σ over all its pieces, i the last prompt token. A
        token is a sink of a layer if max |x[d]| / RMS(x) ≥ tau over the massive dimensions d, x entering the layer.
    Direction: 1 means that no attention on the image is lost to sinks. The paper calls a head image-centric, and
        redistributes in it, from 0.5 to 0.9 on.
    Shape and unit: a share in [0, 1] per prompt and head; NaN where less than `min_mass` of the attention is on the
        image.
    Reference: Kang et al. 2025, arXiv:2503.03321, with the authors' code and notes of others. Massive dimensions are
        found on the prompts themselves (`massive_dimensions`); `tau` is 20, scaled to the model's width.

    Raises:
        MissingData: A prompt has no image.
    """
    for index, prompt in enumerate(prompts):
        if not prompt.image:
            raise MissingData(
                f"{prompts.name}[{index}] ({prompt.text[:40]!r}) has no image: give prompts with one."
            )
    bar = threshold_for(int(model.cfg.d_model)) if tau is None else tau
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    first = encode(model, prompts[: min(len(prompts), 64)])
    dimensions = massive_dimensions(model, first, tau=bar)
    samples = np.full((len(prompts), n_layers, n_heads), np.nan)
    n_sinks = np.zeros((len(prompts), n_layers))
    for start in range(0, len(prompts), _ROWS):
        batch = encode(model, prompts[start : start + _ROWS])
        place = slice(start, start + len(batch))
        ratios, sinks = _ratios(model, batch, dimensions, bar, min_mass)
        samples[place], n_sinks[place] = ratios.cpu().numpy(), sinks.cpu().numpy()
        if progress:
            progress(min(start + _ROWS, len(prompts)), len(prompts))
    if dimensions:
        listed = ", ".join(map(str, dimensions[:8])) + (" and more" if len(dimensions) > 8 else "")
        per_layer = ", ".join(f"{count:.1f}" for count in n_sinks.mean(0))
        note = f"Massive dimensions: {listed}. Sinks on an image, by layer: {per_layer}."
    else:
        note = (
            f"The first token is massive in no dimension (at least {bar:.3g} times the root mean square), so no piece "
            "counts as a sink and every share is 1."
        )
    return Measured(samples, None, (note,))


@torch.no_grad()
def _ratios(
    model: Any, batch: Batch, dimensions: tuple[int, ...], bar: float, min_mass: float
) -> tuple[Tensor, Tensor]:
    """Return the ratios [prompt, layer, head] and how many pieces of each image are sinks [prompt, layer]."""
    image, rows = batch.spans["image"], torch.arange(len(batch))
    ratios: dict[int, Tensor] = {}
    sinks: dict[int, Tensor] = {}

    def enter(layer: int) -> Any:
        def hook_fn(x: Tensor, hook: Any) -> None:
            sinks[layer] = (activation(x, dimensions) >= bar) & image.to(x.device)

        return hook_fn

    def look(layer: int) -> Any:
        def hook_fn(pattern: Tensor, hook: Any) -> None:
            last = pattern[rows.to(pattern.device), :, batch.last.to(pattern.device)].float()
            mass = (last * image.to(last)[:, None]).sum(-1)
            off = (last * (image.to(last.device) & ~sinks[layer]).to(last)[:, None]).sum(-1)
            ratios[layer] = (off / mass.clamp_min(1e-12)).masked_fill(mass < min_mass, torch.nan)

        return hook_fn

    layers = range(int(model.cfg.n_layers))
    hooks = [(f"blocks.{layer}.hook_in", enter(layer)) for layer in layers]
    hooks += [(f"blocks.{layer}.attn.hook_pattern", look(layer)) for layer in layers]
    with watching(model, hooks):
        forward(model, batch, logits_at="last")
    return torch.stack([ratios[layer] for layer in layers], 1), torch.stack(
        [sinks[layer].sum(-1) for layer in layers], 1
    )
