"""Interventions for models that see: reinforce the heads that look (`vhr`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datasets.prompts import Prompt
from ..errors import BadOption, UnknownHead
from .encode import Batch, encode
from .eyes import Eyes
from .forward import forward
from .heads import Head
from .interventions import Intervention, Phase
from .references import References
from .site import Site
from .steering import checked_strength
from .tower import refuse_pieces
from .turn import watching


@dataclass(frozen=True)
class Reinforce(Intervention):
    """z := alpha * z for the heads of each layer that the image changes most, chosen anew for every prompt."""

    alpha: float
    blind_too: bool = field(default=True, kw_only=True)
    drop_outliers: bool = field(default=True, kw_only=True)
    kind: ClassVar[str] = "vhr"

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = checked_strength("vhr", "alpha", self.alpha)
        if isinstance(alpha, tuple):
            raise BadOption("vhr: alpha is one number for all prompts.")
        object.__setattr__(self, "alpha", alpha)

    def __str__(self) -> str:
        layers = ",".join(map(str, self.in_layers))
        return f"vhr(alpha={self.alpha:g}, layers={layers})"

    @property
    def is_identity(self) -> bool:
        return self.alpha == 1

    def prepare(self, references: References, batch: Batch | None) -> None:
        if batch is not None:
            self._chosen(references, batch)

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        assert site.references is not None, "the runner made no References"
        if site.batch is None:
            raise BadOption(
                "vhr: the prompts are not known, so neither are their images: run the model through headscope's "
                "forward or generate, or give intervene(..., batch=...)."
            )
        heads = self.in_layer(site.layer)
        chosen = self._chosen(site.references, site.batch)[:, site.layer, heads].to(site.z.device)
        return torch.where(chosen[:, None, :, None], site.z[:, :, heads] * self.alpha, site.z[:, :, heads])

    def _chosen(self, references: References, batch: Batch) -> Bool[Tensor, "batch layer head"]:
        return references.of_batch(
            self,
            batch,
            lambda: vision_aware_heads(
                references.model,
                batch.prompts,
                self.in_layers,
                alpha=self.alpha,
                blind_too=self.blind_too,
                drop_outliers=self.drop_outliers,
            ),
        )


def vhr(
    model: Any,
    alpha: float = 2.0,
    *,
    layers: Iterable[int] | None = None,
    blind_too: bool = True,
    drop_outliers: bool = True,
    positions: Any = None,
    phase: Phase = "all",
) -> Reinforce:
    """Reinforce vision-aware heads: z := alpha * z for those heads of a layer whose divergence is above its median.

    Divergence is the distance of a head's output at the last prompt token from its output for the same prompt without
    its image, layer by layer: when a layer's heads are chosen, the heads of earlier layers are reinforced already. They
    are chosen once for every prompt, before its first new token, and kept while it is continued. Prompts without an
    image are left alone. alpha = 1 changes nothing.

    Reference: He et al. 2024, arXiv:2412.13949 (paper read in full, no code seen). alpha = 2 is theirs; so are the
    second layer and the last 14 of 32, which other depths get in proportion. Whether their run without the image is
    reinforced too is not said: `blind_too`.

    Args:
        model: The bridge.
        alpha: What the chosen heads' outputs are multiplied with.
        layers: Layers in which heads are chosen; None for the second and the last 14/32 of all.
        blind_too: Whether earlier layers are reinforced in the run without the image as well.
        drop_outliers: Whether heads that surge when the image is taken away count as 0 (see `divergence`).
        positions: As in `Intervention`.
        phase: As in `Intervention`.

    Raises:
        UnknownHead: The model lacks a layer.
        MissingData: The heads read images alone.
    """
    refuse_pieces(model, "vhr")
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    if layers is None:
        last = max(1, round(n_layers * 14 / 32))
        layers = {min(1, n_layers - 1), *range(n_layers - last, n_layers)}
    chosen = sorted(set(layers))
    if wrong := [layer for layer in chosen if not 0 <= layer < n_layers]:
        raise UnknownHead(f"layer {wrong[0]}: {model.cfg.model_name} has layers 0-{n_layers - 1}.")
    heads = tuple(Head(layer, head) for layer in chosen for head in range(n_heads))
    return Reinforce(
        heads, alpha, blind_too=blind_too, drop_outliers=drop_outliers, positions=positions, phase=phase
    )


@torch.no_grad()
def vision_aware_heads(
    model: Any,
    prompts: Iterable[Prompt],
    layers: Iterable[int],
    *,
    alpha: float = 2.0,
    blind_too: bool = True,
    drop_outliers: bool = True,
) -> Bool[Tensor, "batch layer head"]:
    """Choose the heads that `vhr` reinforces, in one pass over every prompt with its image and without it.

    Raises:
        BadOption: No prompt has an image.
    """
    listed = list(prompts)
    seeing = [row for row, prompt in enumerate(listed) if prompt.image]
    if not seeing:
        raise BadOption("vhr: no prompt has an image; give prompts with an `image`.")
    both = [listed[row] for row in seeing] + [without_image(model, listed[row]) for row in seeing]
    batch, n = encode(model, both, padding_side="left"), len(seeing)
    shape = (len(listed), int(model.cfg.n_layers), int(model.cfg.n_heads))
    chosen = torch.zeros(shape, dtype=torch.bool)

    def reinforce(layer: int) -> Any:
        def hook_fn(z: Tensor, hook: Any) -> Tensor:
            found = divergence(z[:n, -1].float(), z[n:, -1].float(), drop=drop_outliers)
            here = found > found.quantile(0.5, dim=-1, keepdim=True)
            chosen[seeing, layer] = here.cpu()
            gain = torch.where(here, alpha, 1.0).to(z)
            gains = torch.cat([gain, gain if blind_too else torch.ones_like(gain)])
            return z * gains[:, None, :, None]

        return hook_fn

    with watching(model, [(f"blocks.{layer}.attn.hook_z", reinforce(layer)) for layer in layers]):
        forward(model, batch, logits_at="last")
    return chosen


def divergence(
    seen: Float[Tensor, "*any head d_head"], blind: Float[Tensor, "*any head d_head"], *, drop: bool = True
) -> Float[Tensor, "*any head"]:
    """Return the distance of each head's output with the image from that without it.

    Formula: ‖z with − z without‖₂. With `drop`, 0 for a head whose distance and whose ‖z without‖₂² both exceed the
        mean over its layer's heads by more than one standard deviation: it surges when the image is taken away.
    Reference: He et al. 2024, arXiv:2412.13949, eqs. 4 to 6. Whether the standard deviation divides by n or n − 1 is
        not said; we divide by n.
    """
    found = (seen - blind).norm(dim=-1)
    if not drop:
        return found
    surges = _outstanding(found) & _outstanding(blind.pow(2).sum(-1))
    return found.masked_fill(surges, 0.0)


def without_image(model: Any, prompt: Prompt) -> Prompt:
    """Return the prompt without its images and without the placeholders that its text may hold."""
    eyes = Eyes.of(model)
    text = prompt.text
    if eyes:
        text = text.replace(eyes.token.join(eyes.marks), "").replace(eyes.token, "")
    return replace(prompt, image="", boxes={}, text=text, spans=prompt.spans if text == prompt.text else {})


def _outstanding(values: Float[Tensor, "*any head"]) -> Bool[Tensor, "*any head"]:
    """Mark heads above their layer's mean by more than one standard deviation."""
    return values > values.mean(-1, keepdim=True) + values.std(-1, keepdim=True, correction=0)
