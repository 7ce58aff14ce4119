"""What is done to a model so that it hallucinates less: methods, their usual strengths, and the control of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...datasets.prompts import PromptSet
from ...errors import MissingData
from ...hooks.decoding import Decoding
from ...hooks.encode import encode
from ...hooks.heads import Head
from ...hooks.interventions import Intervention, scale
from ...hooks.rebalance import Rebalance
from ...hooks.reinject import iri
from ...hooks.sinks import massive_dimensions, threshold_for, var
from ...hooks.vision import vhr
from .tracing import Tracing

Changed = tuple[tuple[Intervention, ...], Decoding | None]
_SHOWN = 32  # prompts on which massive dimensions are found


@dataclass(frozen=True)
class Method:
    """A way to make a model hallucinate less.

    Attributes:
        name: As commands write it.
        strength: What the number is.
        neutral: The strength that changes nothing.
        strengths: Those that are tried.
        published: The paper's own.
        control: What the random arm does, in words.
        reference: The paper.
    """

    name: str
    strength: str
    neutral: float
    strengths: tuple[float, ...]
    published: float
    control: str
    reference: str


METHODS = {
    one.name: one
    for one in (
        Method(
            "vhr", "gain of vision-aware heads", 1.0, (0.5, 1.0, 1.5, 2.0, 3.0), 2.0,
            "as many random heads of the same layers", "He et al. 2024, arXiv:2412.13949",
        ),
        Method(
            "var", "share of the attention on sinks that moves", 0.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 0.6,
            "as many random pieces of the image taken for sinks", "Kang et al. 2025, arXiv:2503.03321",
        ),
        Method(
            "iri", "strength of what attention injects (MLP: 0.6 of it)", 0.0, (0.0, 0.13, 0.26, 0.52, 1.0), 0.26,
            "as many random layers", "Li et al. 2025, arXiv:2511.05923",
        ),
        Method(
            "rebalance", "weight of the run on a noised image", 0.0, (0.0, 0.5, 1.0, 2.0), 1.0,
            "none", "ours, after the abstract of arXiv:2409.06485",
        ),
    )
}  # fmt: skip


def changes(
    model: Any,
    method: str,
    strength: float,
    prompts: PromptSet,
    traced: Tracing | None,
    rng: np.random.Generator | None,
    tau: float | None = None,
) -> Changed:
    """Return what is done to the model.

    Args:
        model: The bridge.
        method: A key of `METHODS`.
        strength: Other than the neutral one.
        prompts: What will be described.
        traced: For `iri`, recovery rates.
        rng: For the control; None for the method itself.
        tau: For `var`, another threshold of sinks than the published one.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    if method == "vhr":
        own = vhr(model, strength)
        if rng is None:
            return (own,), None
        heads = [
            Head(layer, int(head))
            for layer in own.in_layers
            for head in sorted(rng.choice(n_heads, n_heads // 2, replace=False))
        ]
        return (scale(heads, strength),), None
    if method == "var":
        layers = layers_for_var(model)
        draw = None if rng is None else int(rng.integers(2**31))
        shown = encode(model, prompts[: min(_SHOWN, len(prompts))])
        return (var(model, shown, strength, layers=layers, draw=draw, tau=tau),), None
    if method == "iri":
        assert traced is not None
        return injections(traced, strength, n_layers, rng), None
    return (), Rebalance(away_from_text=strength)


def threshold_with_sinks(model: Any, prompts: PromptSet) -> tuple[float, float]:
    """Return the published threshold of sinks for this width, and the largest one at which there are any.

    The second is the first where the first token is massive in some dimension. Where it is not, the threshold is
    lowered by tenths of the published one until it is. That is ours, and exploratory.

    Raises:
        MissingData: The first token is massive at no tenth of the threshold.
    """
    published = threshold_for(int(model.cfg.d_model))
    shown = encode(model, prompts[: min(_SHOWN, len(prompts))])
    for tenths in range(10, 0, -1):
        if massive_dimensions(model, shown, tau=published * tenths / 10):
            return published, published * tenths / 10
    raise MissingData(
        f"var: the first token of {model.cfg.model_name} is massive in no dimension, not even at a tenth of the "
        f"published threshold ({published:.3g}), so there is no sink to move attention from."
    )


def layers_for_var(model: Any) -> range | None:
    """Return the layers for redistribution: the published ones, or all but the first where few are left of these."""
    n_layers = int(model.cfg.n_layers)
    return range(1, n_layers) if n_layers < 8 else None


def injections(
    traced: Tracing, strength: float, n_layers: int, rng: np.random.Generator | None = None
) -> tuple[Intervention, ...]:
    """Take the best 3 layers as sources and the best 10 as targets, or as many random ones."""
    table = traced.table()
    found: list[Intervention] = []
    for component, share in (("attention", 1.0), ("mlp", 0.6)):
        own = (
            table[(table.component == component) & (table.group == "last token")].set_index("layer").recovery
        )
        rates = {layer: max(0.0, float(np.nan_to_num(own.get(layer, 0.0)))) for layer in range(n_layers)}
        if rng is not None:
            rates = dict(zip(rates, rng.permutation(list(rates.values())), strict=True))
        ranked = sorted(rates, key=lambda layer: -rates[layer])
        # Of few layers three of ten would be all of them.
        sources, targets = ranked[: max(1, min(3, n_layers // 2))], ranked[: min(10, n_layers)]
        kept = {layer: float(rates[layer]) for layer in sources if rates[layer] > 0}
        if kept and max(targets) > min(kept):
            found.append(iri(component, kept, targets, share * strength))  # pyright: ignore[reportArgumentType]
    return tuple(found)
