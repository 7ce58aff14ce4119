"""Sink tokens by their massive activations, and the redistribution of attention away from them (`var`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import BadOption, UnknownHead
from .encode import Batch
from .forward import forward
from .heads import Head
from .interventions import Phase
from .reweight import PatternEdit, moving
from .site import Site
from .steering import checked_strength
from .turn import watching

TAU, OF_WIDTH = 20.0, 4096  # the published threshold, and the width of the model it was published for


def threshold_for(d_model: int) -> float:
    """Return the published threshold of 20, made for models 4096 wide, for another width.

    A single dimension holds at most sqrt(d_model) times the root mean square, so the threshold goes with that. The
    rescaling is ours.

    >>> threshold_for(4096), round(threshold_for(128), 2)
    (20.0, 3.54)
    """
    return TAU * math.sqrt(d_model / OF_WIDTH)


def activation(x: Float[Tensor, "*any d_model"], dimensions: Sequence[int]) -> Float[Tensor, " *any"]:
    """Return how massive an activation is: the largest |x[d]| / RMS(x) over some dimensions; 0 where there are none."""
    wide = x.float()
    if not dimensions:
        return torch.zeros(wide.shape[:-1], device=x.device)
    size = wide.pow(2).mean(-1).sqrt().clamp_min(1e-12)
    return wide[..., list(dimensions)].abs().amax(-1) / size


@torch.no_grad()
def massive_dimensions(model: Any, batch: Batch, *, tau: float | None = None) -> tuple[int, ...]:
    """Find the dimensions of the residual stream in which the first token is massive.

    Formula: d with mean over prompts of |x[d]| / RMS(x) ≥ tau at the first real token, x entering any layer from the
        third on.
    Reference: Kang et al. 2025, arXiv:2503.03321, list these dimensions for the models they used; how to find them for
        another model is ours. `tau` is theirs, 20, scaled to the model's width (`threshold_for`).
    """
    n_layers = int(model.cfg.n_layers)
    bar = threshold_for(int(model.cfg.d_model)) if tau is None else tau
    first = batch.attention_mask.int().argmax(1)
    rows = torch.arange(len(batch), device=first.device)
    found: set[int] = set()

    def look(x: Tensor, hook: Any) -> None:
        own = x[rows.to(x.device), first.to(x.device)].float()
        share = (own.abs() / own.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)).mean(0)
        found.update((share >= bar).nonzero()[:, 0].tolist())

    layers = range(min(2, n_layers - 1), n_layers)
    with watching(model, [(f"blocks.{layer}.hook_in", look) for layer in layers]):
        forward(model, batch, logits_at="last")
    return tuple(sorted(found))


@dataclass(frozen=True)
class Redistribute(PatternEdit):
    """In rows that look at the image itself, a fraction of the attention on sinks goes to the image's other pieces."""

    move_fraction: float
    dimensions: tuple[int, ...] = field(kw_only=True)
    tau: float = field(kw_only=True)
    min_nonsink_ratio: float = field(default=0.5, kw_only=True)
    min_mass: float = field(default=0.2, kw_only=True)
    draw: int | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "var"
    needs_resid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("move_fraction", "min_nonsink_ratio", "min_mass"):
            value = checked_strength("var", name, getattr(self, name))
            if isinstance(value, tuple) or not 0 <= value <= 1:
                raise BadOption(f"var: {name} is {getattr(self, name)!r}; give one number from 0 to 1.")
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        layers = ",".join(map(str, self.in_layers))
        ratio = f"min_nonsink_ratio={self.min_nonsink_ratio:g}"
        return f"var(move_fraction={self.move_fraction:g}, {ratio}, layers={layers})"

    @property
    def is_identity(self) -> bool:
        return self.move_fraction == 0

    def factors(self, site: Site, pattern: Tensor) -> Tensor:
        sinks = self._sinks(site)[:, None, None]
        image = site.keys("image")
        last_piece = torch.where(image, site.key_positions, -1).amax(1)
        after = (site.positions > last_piece[:, None]) & (last_piece >= 0)[:, None]
        central = image_centric(pattern, image[:, None, None], sinks, self.min_nonsink_ratio, self.min_mass)
        fraction = torch.where(central & after[:, None], self.move_fraction, 0.0)
        return moving(pattern, sinks, image[:, None, None] & ~sinks, fraction)

    def pass_over(self, site: Site) -> None:
        self._sinks(site)

    def _sinks(self, site: Site) -> Bool[Tensor, "batch key_pos"]:
        """Return the sinks among the prompt's tokens before the last, found when they were read."""
        assert site.resid is not None, "the runner kept no residual stream"
        asked = (site.positions >= 0) & (site.positions < site.lengths[:, None] - 1)
        new = (activation(site.resid, self.dimensions) >= self.tau) & asked
        before = site.memory.get("sinks")
        if self.draw is not None:
            new = _as_many(new, asked & site.keys("image")[:, -asked.shape[1] :], site.positions, self.draw)
        found = new if before is None else torch.cat([before, new], 1)
        site.memory["sinks"] = found
        return found[:, site.n_dropped :]


def _as_many(
    sinks: Bool[Tensor, "batch pos"],
    among: Bool[Tensor, "batch pos"],
    positions: Int[Tensor, "batch pos"],
    seed: int,
) -> Bool[Tensor, "batch pos"]:
    """Draw as many tokens among some as there are sinks; which ones depends on their positions alone."""
    if not bool(sinks.any()):
        return sinks
    generator = torch.Generator().manual_seed(seed)
    luck = torch.rand(int(positions.max()) + 1, generator=generator).to(positions.device)[
        positions.clamp_min(0)
    ]
    rank = luck.masked_fill(~among, 2.0).argsort(1).argsort(1)
    return (rank < sinks.sum(1, keepdim=True)) & among


def image_centric(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    image: Bool[Tensor, "batch 1 1 key_pos"],
    sinks: Bool[Tensor, "batch 1 1 key_pos"],
    min_nonsink_ratio: float,
    min_mass: float,
) -> Bool[Tensor, "batch head query_pos"]:
    """Say which rows look at the image, and not at its sinks: mass ≥ `min_mass` and non-sink ratio ≥ the other."""
    mass = (pattern * image).sum(-1)
    off_sinks = (pattern * (image & ~sinks)).sum(-1)
    return (mass >= min_mass) & (off_sinks >= min_nonsink_ratio * mass) & (off_sinks > 0)


def var(
    model: Any,
    prompts: Batch,
    move_fraction: float = 0.6,
    *,
    min_nonsink_ratio: float = 0.5,
    min_mass: float = 0.2,
    layers: Iterable[int] | None = None,
    dimensions: Sequence[int] | None = None,
    tau: float | None = None,
    draw: int | None = None,
    positions: Any = None,
    phase: Phase = "all",
) -> Redistribute:
    """Redistribute attention from sinks to the image: visual attention redistribution.

    In every row after the image whose attention on it is at least `min_mass`, of which at least `min_nonsink_ratio`
    is not on sinks, `move_fraction` of the attention on sinks (those in the text included) goes to the image's other
    pieces in proportion to what these have. Sinks are tokens whose activation in the massive dimensions is at least
    `tau` as they enter the layer, found once, while the prompt is read. move_fraction = 0 changes nothing.

    Reference: Kang et al. 2025, arXiv:2503.03321, and the authors' code, which names what is *kept*: its 0.6 moves
    40 %, the paper's 0.6 moves 60 %, which is the default here. The ratio is 0.8 in the paper for general questions,
    0.5 against hallucination, 0.9 for questions about vision. The first two layers and the last are left alone.

    Args:
        model: The bridge.
        prompts: Encoded prompts on which the massive dimensions are found, where none are given.
        move_fraction: Share of the attention on sinks that moves.
        min_nonsink_ratio: See above.
        min_mass: See above.
        layers: None for all but the first two and the last.
        dimensions: Massive dimensions; None finds them.
        tau: Threshold; None for 20 scaled to the model's width.
        draw: A seed takes as many random pieces of the image for sinks in place of the sinks: a control.
        positions: As in `Intervention`.
        phase: As in `Intervention`.

    Raises:
        BadOption: The model has no massive dimension, so no token counts as a sink; or it is too shallow.
        UnknownHead: The model lacks a layer.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    bar = threshold_for(int(model.cfg.d_model)) if tau is None else tau
    chosen = sorted(set(range(2, n_layers - 1) if layers is None else layers))
    if wrong := [layer for layer in chosen if not 0 <= layer < n_layers]:
        raise UnknownHead(f"layer {wrong[0]}: {model.cfg.model_name} has layers 0-{n_layers - 1}.")
    if not chosen:
        raise BadOption(
            f"var: {model.cfg.model_name} has {n_layers} layers, and the first two and the last are left alone; name "
            "the layers."
        )
    found = massive_dimensions(model, prompts, tau=bar) if dimensions is None else tuple(dimensions)
    if not found:
        raise BadOption(
            f"var: the first token of {model.cfg.model_name} is massive in no dimension (at least {bar:.3g} times the "
            "root mean square), so no token counts as a sink; give dimensions or a smaller tau."
        )
    heads = tuple(Head(layer, head) for layer in chosen for head in range(n_heads))
    return Redistribute(
        heads,
        move_fraction,
        dimensions=found,
        tau=bar,
        min_nonsink_ratio=min_nonsink_ratio,
        min_mass=min_mass,
        draw=draw,
        positions=positions,
        phase=phase,
    )
