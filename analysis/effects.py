"""Causal effects of single heads as scores: what changing each one does to a metric, with intervals.

Two choices name an ablation. How: `zero`, `mean`, `resample`, `uniform`. Where it flows: `total` lets the change pass
through all later layers (`hooks.sweep`); `direct` adds it to the last residual stream only, every other head and MLP
writing what it wrote before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadOption, EmptyPromptSet, nearest
from ..hooks.apply import apply
from ..hooks.encode import Batch, encode
from ..hooks.forward import forward
from ..hooks.heads import Head
from ..hooks.info import describe
from ..hooks.interventions import Intervention, mean, resample, uniform, zero
from ..hooks.metrics import get_metric
from ..hooks.references import References
from ..hooks.site import site_of
from ..hooks.sweep import Progress, sweep
from ..hooks.turn import watching
from .defaults import as_prompt_set
from .scores import HeadScores, Source
from .weights import cap, has_post_norm

How = Literal["zero", "mean", "resample", "uniform"]
Flow = Literal["total", "direct"]
HOW: tuple[How, ...] = get_args(How)
FLOW: tuple[Flow, ...] = get_args(Flow)

_ROWS = 8  # prompts at a time in the direct form: each makes one row of logits per head


def effects(
    model: Any,
    prompts: Any,
    metric: str = "answer_logprob",
    *,
    how: How = "zero",
    flow: Flow = "total",
    seed: int = 0,
    progress: Progress | None = None,
) -> HeadScores:
    """Change one head at a time and measure what that does to a metric.

    Formula: metric(changed) − metric(clean), mean over prompts.
    Direction: that of the metric, so below 0 the head helps where more of the metric is better; 0 means that the head
        does not matter here. `p` tests the distance from 0 on both sides.
    Shape and unit: one number per prompt and head, in the metric's unit.

    Args:
        model: The bridge.
        prompts: Prompts with what the metric needs; `resample` needs their corrupted texts too.
        metric: Name of a metric of next-token logits.
        how: What takes the place of the head's output. `mean` is over all tokens of these prompts.
        flow: `total` or `direct`, see the module.
        seed: Of the intervals.
        progress: Called with the work done and all of it.

    Raises:
        BadOption: There is no such way, or the direct form does not fit the model.
        MissingData, BadPrompts: The prompts lack what metric or intervention need.
        EmptyPromptSet: There is no prompt.
    """
    for name, value, choices in (("how", how, HOW), ("flow", flow, FLOW)):
        if value not in choices:
            raise BadOption(f"{name}={value!r}: there is no such choice.{nearest(value, choices)}")
    data = as_prompt_set(prompts)
    if not len(data):
        raise EmptyPromptSet(f"{data.name!r} holds no prompt; give at least one.")
    kinds: dict[How, Callable[..., Intervention]] = {
        "zero": zero,
        "mean": partial(mean, reference=data),
        "resample": resample,
        "uniform": uniform,
    }
    measure = sweep if flow == "total" else direct_effects
    samples = measure(model, encode(model, data), metric, kinds[how], progress=progress).double().numpy()
    info = describe(model)
    return HeadScores(
        values=samples.mean(0),
        samples=samples,
        method=f"{how}-effect",
        options={"metric": metric, "flow": flow},
        model=Source(info.name, info.digest),
        data=Source(data.name, data.digest),
        seed=seed,
        higher=f"changing the head raises {metric.replace('_', ' ')}",
        chance=np.zeros(len(data)),
        alternative="two-sided",
        causal=True,
        notes=(f"Each head alone was changed ({how}); {_FLOWS[flow]}",),
    )


_FLOWS: dict[Flow, str] = {
    "total": "the change passes through all later layers.",
    "direct": "the change reaches the logits directly only, all later layers write what they wrote before.",
}


@torch.no_grad()
def direct_effects(
    model: Any,
    batch: Batch,
    metric: Any,
    kind: Callable[..., Intervention],
    *,
    progress: Progress | None = None,
) -> Float[Tensor, "example layer head"]:
    """Measure what changing each head does to a metric through the residual stream alone.

    Formula: metric(logits of x + Δ_h) − metric(logits of x), with x the last residual stream at each prompt's last
        token and Δ_h the change of what the head writes there. The final norm sees x + Δ_h: nothing is frozen but the
        other parts' outputs.
    Shape and unit: as `hooks.sweep.sweep`; of which this is the part that no later layer passes on.

    Raises:
        BadOption: What the blocks leave behind does not give the model's logits by its final norm and unembedding.
    """
    measure = get_metric(metric)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    references = References(model)
    found = torch.full((len(batch), n_layers, n_heads), torch.nan)
    for first in range(0, len(batch), _ROWS):
        rows = slice(first, min(first + _ROWS, len(batch)))
        part = batch.rows(rows).to(model.cfg.device)
        seen, clean = _capture(model, part)
        here = torch.arange(len(part), device=part.tokens.device)
        before = measure(clean, part, clean)
        x = seen["ln_final.hook_in"][here, part.last]
        if not torch.allclose(_logits(model, x), clean, atol=1e-3, rtol=1e-3):
            raise BadOption(f"{model.cfg.model_name}: the direct effect is not known for this kind of model.")
        for layer in range(n_layers):
            change = kind([Head(layer, index) for index in range(n_heads)])
            change.prepare(references, part)
            site = site_of(
                model,
                layer,
                seen[f"blocks.{layer}.attn.hook_z"],
                seen[f"blocks.{layer}.attn.hook_v"] if change.needs_values else None,
                part,
                references,
            )
            moved = (apply(change, site) - site.z)[here, part.last]  # batch head d_head
            delta = torch.einsum("bhd,hdm->bhm", moved, model.blocks[layer].attn.W_O.detach())
            if has_post_norm(model, layer):
                norm, out = (
                    model.blocks[layer].ln1_post,
                    seen[f"blocks.{layer}.attn.hook_out"][here, part.last],
                )
                delta = norm(out[:, None] + delta) - norm(out[:, None])
            logits = _logits(model, x[:, None] + delta)
            for index in range(n_heads):
                effect = measure(logits[:, index], part, clean) - before
                found[rows, layer, index] = effect.to(found)
        if progress:
            progress(rows.stop, len(batch))
    return found


def _capture(model: Any, batch: Batch) -> tuple[dict[str, Tensor], Float[Tensor, "batch vocab"]]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda value, hook: seen.__setitem__(name, value.detach())

    names = ["ln_final.hook_in"]
    for layer in range(int(model.cfg.n_layers)):
        names += [f"blocks.{layer}.attn.{point}" for point in ("hook_z", "hook_v", "hook_out")]
    with watching(model, [(name, keep(name)) for name in names]):
        logits = forward(model, batch)
    rows = torch.arange(len(batch), device=logits.device)
    return seen, logits[rows, batch.last.to(logits.device)]


def _logits(model: Any, x: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
    lead = x.shape[:-1]
    flat = x.reshape(-1, 1, x.shape[-1])
    return cap(model, model.unembed(model.ln_final(flat))).reshape(*lead, -1)
