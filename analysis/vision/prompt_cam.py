"""Prompt-CAM: a learned prompt for each class asks a frozen tower, and its attention shows the class's traits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import MissingData
from ...hooks.turn import watching
from ..statistics import binomial_interval
from .probes import split
from .towers import Tower


@dataclass(frozen=True)
class PromptCam:
    """Learned class prompts.

    Attributes:
        tower: What they ask.
        names: The classes.
        prompts: [layer, class, d_model] what stands before each layer's tokens.
        classify: From a class prompt's last state to its score.
        accuracy: On held-out images, with its exact 95 % interval.
        n: Held-out images.
        losses: Of training, by epoch.
    """

    tower: Tower
    names: tuple[str, ...]
    prompts: Float[Tensor, "layer class d_model"]
    classify: nn.Linear
    accuracy: float
    low: float
    high: float
    n: int
    losses: tuple[float, ...]

    @torch.no_grad()
    def traits(self, images: Sequence[str], label: str) -> Float[np.ndarray, "image head piece"]:
        """Return where each head of the last layer looks from a class's prompt: its attention on the pieces."""
        index, kept = self._index(label), []
        name = self.tower.point(self.tower.n_layers - 1, "hook_pattern")
        n = len(self.names)
        hooks = [(name, lambda pattern, hook: kept.append(pattern[:, :, index, n + 1 :].float().clone()))]
        with watching(self.tower.model, hooks):
            _scores(self.tower, self.tower.pixels(images), self.prompts, self.classify)
        return kept[0].cpu().numpy()

    @torch.no_grad()
    def rank_heads(self, image: str, label: str) -> tuple[int, ...]:
        """Rank the last layer's heads for one image: the most important first.

        Greedy: in each step the head is blurred that leaves the class's probability highest; the last one left matters
        most. Blurring lets the class's prompt attend evenly to everything, prompts and CLS included.
        Cost: H (H + 1) / 2 passes.
        Reference: Chowdhury et al. 2025, arXiv:2501.09333, and the authors' code.
        """
        index, pixels = self._index(label), self.tower.pixels([image])
        left, order = list(range(self.tower.n_heads)), []
        while len(left) > 1:
            kept = {
                head: float(self._blurred(pixels, index, [*order, head]).softmax(-1)[0, index])
                for head in left
            }
            blurred = max(left, key=lambda head: kept[head])
            order.append(blurred)
            left.remove(blurred)
        return (*left, *reversed(order))

    def _blurred(self, pixels: Tensor, index: int, heads: Sequence[int]) -> Tensor:
        layer, seen = self.tower.n_layers - 1, []
        size = self.tower.d_head

        def even(z: Tensor, hook: Any) -> Tensor:
            values = seen[-1].unflatten(-1, (-1, size)) if seen[-1].ndim == 3 else seen[-1]
            z[:, index, list(heads)] = values.mean(1)[:, list(heads)].to(z)
            return z

        hooks = [
            (self.tower.point(layer, "v.hook_out"), lambda v, hook: seen.append(v)),
            (self.tower.point(layer, "hook_z"), even),
        ]
        with watching(self.tower.model, hooks):
            return _scores(self.tower, pixels, self.prompts, self.classify)

    def _index(self, label: str) -> int:
        if label not in self.names:
            raise MissingData(f"{label!r} is none of the classes {', '.join(self.names)}.")
        return self.names.index(label)


def train_prompts(
    model: Any,
    images: Sequence[str],
    labels: Sequence[str],
    *,
    epochs: int = 30,
    train: float = 0.5,
    rows: int = 32,
    rate: float = 1e-2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PromptCam:
    """Train one prompt a class and layer on a frozen tower.

    Class prompts stand before CLS and the pieces; at every layer the layer's own prompts take their place. One linear
    map, shared by the classes, turns each class prompt's last state into its score.

    Reference: Chowdhury et al. 2025, arXiv:2501.09333, and the authors' code: SGD with 5e-3 for 130 epochs on a large
        tower; ours is Adam and fewer epochs, for small ones.

    Raises:
        MissingData: There are fewer than two labels, or too few images; or the model has no tower.
    """
    tower = Tower.of(model)
    names, y, first, rest = split(labels, train, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prompts = (0.02 * torch.randn(tower.n_layers, len(names), tower.d_model)).requires_grad_()
        classify = nn.Linear(tower.d_model, 1)
    pixels, target = tower.pixels(images), torch.tensor(y)
    optimizer = torch.optim.Adam([prompts, *classify.parameters()], lr=rate)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    with torch.enable_grad():
        for epoch in range(epochs):
            total = 0.0
            order = torch.tensor(first)[torch.randperm(len(first), generator=generator)]
            for some in order.split(rows):
                loss = nn.functional.cross_entropy(
                    _scores(tower, pixels[some], prompts, classify), target[some]
                )
                optimizer.zero_grad()
                # Only what is learned gets a gradient; the tower stays as it is.
                grads = torch.autograd.grad(loss, [prompts, *classify.parameters()])
                for parameter, grad in zip([prompts, *classify.parameters()], grads, strict=True):
                    parameter.grad = grad
                optimizer.step()
                total += float(loss.detach()) * len(some)
            losses.append(total / len(first))
            if progress:
                progress(epoch + 1, epochs)
    with torch.no_grad():
        found = torch.cat([_scores(tower, part, prompts, classify) for part in pixels[rest].split(rows)])
    right = int((found.argmax(-1) == target[rest]).sum())
    low, high = binomial_interval(right, len(rest))
    return PromptCam(
        tower, tuple(names), prompts.detach(), classify.requires_grad_(False), right / len(rest), low, high, len(rest),
        tuple(losses),
    )  # fmt: skip


def _scores(
    tower: Tower, pixels: Tensor, prompts: Tensor, classify: nn.Linear
) -> Float[Tensor, "image class"]:
    """Return every class's score."""
    x, n = tower.embed(pixels), prompts.shape[1]
    for layer in range(tower.n_layers):
        own = prompts[layer].to(x).expand(len(x), -1, -1)
        x = tower.run(torch.cat((own, x if not layer else x[:, n:]), 1), layer)
    return classify(tower.norm(x[:, :n]).float())[..., 0]
