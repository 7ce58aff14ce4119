"""Decode against a noised picture and towards a plain one: contrastive re-balancing of seeing and saying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadOption
from .decoding import Decoding
from .encode import Batch
from .steering import checked_strength


@dataclass(frozen=True)
class Rebalance(Decoding):
    """Three runs: the image as it is, under noise, and with more contrast.

    Formula: l = l_0 + towards_image · (l_plain − l_0) + away_from_text · (l_0 − l_noised), over the tokens y with
        p_0(y) ≥ plausible · max p_0; all others are ruled out.
    Reference: this form is ours. It holds what the abstract of Liang et al. 2024, arXiv:2409.06485, tells: a textual
        branch under noise that is subtracted, a visual branch that is added; their equation, and how they choose visual
        tokens, were not seen. The bound on plausibility is that of Visual Contrastive Decoding.

    Attributes:
        away_from_text: Weight of the noised run. 0 leaves it out.
        towards_image: Weight of the run with more contrast. 0 leaves it out; with both at 0 nothing changes.
        sigma: Standard deviation of the noise, in units of the processor's pixels.
        contrast: What pixels are multiplied with in the third run, about the image's own mean.
        plausible: See the formula.
        seed: Of the noise.
    """

    away_from_text: float = 1.0
    towards_image: float = 0.0
    sigma: float = 1.0
    contrast: float = 1.5
    plausible: float = 0.1
    seed: int = 0
    kind: ClassVar[str] = "rebalance"

    def __post_init__(self) -> None:
        for name in ("away_from_text", "towards_image", "sigma", "contrast", "plausible"):
            value = checked_strength("rebalance", name, getattr(self, name))
            if isinstance(value, tuple) or value < 0 or (name == "plausible" and value > 1):
                limit = "from 0 to 1" if name == "plausible" else "of at least 0"
                raise BadOption(f"rebalance: {name} is {getattr(self, name)!r}; give one number {limit}.")
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return f"rebalance(away_from_text={self.away_from_text:g}, towards_image={self.towards_image:g})"

    @property
    def copies(self) -> int:
        return 1 + len(self._branches)

    @property
    def _branches(self) -> tuple[str, ...]:
        weights = {"noised": self.away_from_text, "plain": self.towards_image}
        return tuple(name for name, weight in weights.items() if weight)

    def images(self, batch: Batch, index: int) -> dict[str, Tensor]:
        inputs = batch.image_inputs
        if index == 0:
            return inputs
        if not inputs:
            raise BadOption("rebalance: no prompt has an image; give prompts with an `image`.")
        change = self._noised if self._branches[index - 1] == "noised" else self._plain
        grids = inputs.get("image_grid_thw")

        def of_each(value: Tensor) -> Tensor:
            if grids is None:
                return change(value)
            # Images of all sizes stand behind one another, patch by patch.
            parts = value.split(grids.prod(-1).tolist())
            return torch.cat([change(part[None])[0] for part in parts])

        return {
            name: of_each(value) if value.is_floating_point() else value for name, value in inputs.items()
        }

    def combine(self, logits: Float[Tensor, "copy batch vocab"]) -> Float[Tensor, "batch vocab"]:
        own = logits[0].float()
        mixed = own.clone()
        for branch, other in zip(self._branches, logits[1:].float(), strict=True):
            mixed += (
                self.away_from_text * (own - other)
                if branch == "noised"
                else self.towards_image * (other - own)
            )
        likely = own.softmax(-1)
        kept = likely >= self.plausible * likely.amax(-1, keepdim=True)
        # Low enough that no sampling takes it, and finite, since infinite logits are reported as a fault.
        return mixed.masked_fill(~kept, torch.finfo(torch.float32).min / 8).to(logits.dtype)

    def _noised(self, pixels: Tensor) -> Tensor:
        # Every image gets the same noise, so that a prompt's does not depend on its company.
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(pixels.shape[1:], generator=generator).to(pixels)
        return pixels + self.sigma * noise

    def _plain(self, pixels: Tensor) -> Tensor:
        middle = pixels.flatten(1).mean(1).reshape(-1, *[1] * (pixels.ndim - 1))
        return middle + self.contrast * (pixels - middle)
