"""Causal tracing of what an image does: which component of which layer, at which tokens, brings the answer back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...datasets.prompts import PromptSet
from ...errors import BadOption, EmptyPromptSet, MissingData
from ...hooks.encode import Batch, encode
from ...hooks.eyes import Seen
from ...hooks.forward import forward
from ...hooks.turn import watching
from ..defaults import default_prompts
from ..figures.tracing import tracing_figure
from ..files import write_atomically, write_json, write_table
from ..statistics import bootstrap_mean

Component = Literal["attention", "mlp", "residual"]
COMPONENTS: dict[str, str] = {"attention": "hook_attn_out", "mlp": "hook_mlp_out", "residual": "hook_out"}
GROUPS = (
    "early visual", "object visual", "late visual", "early textual", "textual object", "late textual", "last token",
)  # fmt: skip
_ROWS = 4  # prompts traced together; each is run once a group of tokens


@dataclass(frozen=True)
class Tracing:
    """Recovery rates.

    Attributes:
        rates: [prompt, component, layer, group], in the order of `COMPONENTS` and `GROUPS`; NaN where a prompt has no
            such token, or was dropped.
        gaps: Per prompt, the probability of the answer with the image minus that with the noised image.
        min_gap: Prompts with a smaller gap were dropped.
        sigma: Standard deviation of the noise.
        model: Name.
        data: Name of the prompts.
        seed: Of the noise and the intervals.
    """

    rates: Float[np.ndarray, "prompt component layer group"]
    gaps: Float[np.ndarray, " prompt"]
    min_gap: float
    sigma: float
    model: str
    data: str
    seed: int

    @property
    def dropped(self) -> int:
        """How many prompts' gap was too small for a rate to mean anything."""
        return int((self.gaps < self.min_gap).sum())

    def table(self) -> pd.DataFrame:
        """Return component, layer, group, mean recovery rate with a bootstrap interval over prompts, and their n."""
        low, high = bootstrap_mean(self.rates, seed=self.seed)
        rows = []
        for index in np.ndindex(self.rates.shape[1:]):
            component, layer, group = index
            own = self.rates[(slice(None), *index)]
            n = int(np.isfinite(own).sum())
            rows.append(
                {
                    "component": list(COMPONENTS)[component],
                    "layer": layer,
                    "group": GROUPS[group],
                    "recovery": float(np.nanmean(own)) if n else float("nan"),
                    "low": float(low[index]),
                    "high": float(high[index]),
                    "n": n,
                }
            )
        return pd.DataFrame(rows)

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the heat map."""
        return tracing_figure(self.table(), title=f"Recovery of the answer, {self.model}", dark=dark)

    def save(self, folder: str | Path) -> Path:
        """Write `tracing.parquet`, `tracing.json` and `tracing.html` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder = Path(folder)
        write_table(folder / "tracing.parquet", self.table())
        record = {
            "model": self.model, "data": self.data, "seed": self.seed, "sigma": self.sigma, "min_gap": self.min_gap,
            "prompts": len(self.gaps), "dropped": self.dropped, "notes": list(self.notes),
        }  # fmt: skip
        write_json(folder / "tracing.json", record)
        write_atomically(
            folder / "tracing.html", self.figure().to_html(include_plotlyjs=True, full_html=True)
        )
        return folder

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped and what the noise was."""
        return (
            f"{self.dropped} of {len(self.gaps)} prompts were dropped: the noise (standard deviation {self.sigma:g}) "
            f"took less than {self.min_gap:g} of probability from their answer.",
        )


@torch.no_grad()
def trace(
    model: Any,
    prompts: PromptSet,
    *,
    sigma: float = 2.0,
    min_gap: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tracing:
    """Restore parts of a clean run in a run on a noised image, and see how much of the answer comes back.

    Formula: RR = (P_patch − P_noised) / (P_clean − P_noised), P the probability of the answer's first token. P_patch
        restores one component (attention output, MLP output, or the residual stream after the layer) of one layer at
        one group of tokens: pieces of the image before the object's first, on the object, all others; tokens of the
        text before the object's word, the word, those after it, and the last token.
    Direction: 1 brings the whole answer back, 0 nothing; it may lie outside, and rates do not add up. The residual
        stream of a late layer at the last token gives 1 trivially.
    Shape and unit: a rate per prompt, component, layer and group.
    Reference: Li et al. 2025, arXiv:2511.05923 (paper read; no code seen). The strength of their noise is not in the
        text we read: `sigma`, in units of the processor's normalised pixels, and the minimum gap are ours. A prompt
        whose gap is below it is dropped and counted.

    Args:
        model: The bridge.
        prompts: Each with an image, an answer, the box `object` and the span `word` that names it.
        sigma: Standard deviation of the Gaussian noise on the whole image.
        min_gap: Least P_clean − P_noised.
        seed: Of the noise, which is drawn per prompt.
        progress: Called with the number of prompts done and of all.

    Raises:
        MissingData: A prompt lacks one of these.
        BadOption: `sigma` or `min_gap` is not positive.
    """
    if not (sigma > 0 and 0 < min_gap < 1):
        raise BadOption(
            f"trace: sigma is {sigma} and min_gap {min_gap}; give sigma > 0 and a gap between 0 and 1."
        )
    if not len(prompts):
        raise EmptyPromptSet("trace: there is no prompt; give at least one.")
    for index, prompt in enumerate(prompts):
        has = {"image": prompt.image, "answer": prompt.answer, "box 'object'": prompt.boxes.get("object"),
               "span 'word'": prompt.spans.get("word")}  # fmt: skip
        if lacks := [name for name, value in has.items() if not value]:
            raise MissingData(
                f"{prompts.name}[{index}] ({prompt.text[:40]!r}) has no {lacks[0]}: tracing needs it."
            )
    rates, gaps = [], []
    for start in range(0, len(prompts), _ROWS):
        batch = encode(model, prompts[start : start + _ROWS])
        found, gap = _trace(
            model, batch, noised(batch, sigma, [seed + start + row for row in range(len(batch))])
        )
        found[gap < min_gap] = np.nan
        rates.append(found)
        gaps.append(gap)
        if progress:
            progress(min(start + _ROWS, len(prompts)), len(prompts))
    return Tracing(
        np.concatenate(rates),
        np.concatenate(gaps),
        min_gap,
        sigma,
        str(model.cfg.model_name),
        prompts.name,
        seed,
    )


def about_objects(model: Any, kind: str, n: int, seed: int = 0) -> PromptSet:
    """Make questions about objects that are there; see `default_prompts` for the kinds.

    Half of the questions whether something is there are about shapes that are not, which have no box.
    """
    made = default_prompts(model, kind, seed, n=4 * n)
    return made.filter(lambda prompt: bool(prompt.boxes.get("object")))[:n]


def noised(batch: Batch, sigma: float, seeds: list[int]) -> Batch:
    """Return the batch with Gaussian noise on every image; a prompt's noise depends on its own seed alone."""

    def noise(seen: Seen | None, seed: int) -> Seen | None:
        if seen is None:
            return None
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: value + sigma * torch.randn(value.shape, generator=generator).to(value)
            if value.is_floating_point()
            else value
            for name, value in seen.tensors.items()
        }
        return replace(seen, tensors=tensors)

    return replace(
        batch, images=tuple(noise(seen, seed) for seen, seed in zip(batch.images, seeds, strict=True))
    )


def token_groups(batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
    """Sort every real token after BOS into the seven groups; BOS, and what stands before the image, is in none."""
    columns = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    real, image = batch.attention_mask.bool(), batch.spans["image"]
    thing, word = batch.spans["object"] & image, batch.spans["word"]
    first_thing = torch.where(thing, columns, len(columns)).amin(1, keepdim=True)
    last_piece = torch.where(image, columns, -1).amax(1, keepdim=True)
    first_word = torch.where(word, columns, len(columns)).amin(1, keepdim=True)
    last_word = torch.where(word, columns, -1).amax(1, keepdim=True)
    last = columns == batch.last[:, None]
    text = real & (columns > last_piece) & ~last
    return {
        "early visual": image & (columns < first_thing),
        "object visual": thing,
        "late visual": image & ~thing & (columns > first_thing),
        "early textual": text & (columns < first_word),
        "textual object": text & word,
        "late textual": text & (columns > last_word),
        "last token": last,
    }


def _trace(model: Any, batch: Batch, corrupt: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates [prompt, component, layer, group] and the gaps of one batch."""
    n_layers = int(model.cfg.n_layers)
    groups = torch.stack([token_groups(batch)[name] for name in GROUPS], 1)  # batch group pos
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda value, hook: kept.__setitem__(name, value.detach().clone())

    names = [f"blocks.{layer}.{point}" for point in COMPONENTS.values() for layer in range(n_layers)]
    with watching(model, [(name, keep(name)) for name in names]):
        clean = _answer(model, batch)
    wrong = _answer(model, corrupt)
    rows = [row for row in range(len(batch)) for _ in GROUPS]
    repeated, where = corrupt.rows(rows), groups.flatten(0, 1)
    found = np.full((len(batch), len(COMPONENTS), n_layers, len(GROUPS)), np.nan)
    for index, name in enumerate(names):

        def restore(value: Tensor, hook: Any, name: str = name) -> Tensor:
            return torch.where(where[:, :, None].to(value.device), kept[name][rows], value)

        with watching(model, [(name, restore)]):
            patched = _answer(model, repeated).reshape(len(batch), len(GROUPS))
        component, layer = divmod(index, n_layers)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[:, component, layer] = (patched - wrong[:, None]) / (clean - wrong)[:, None]
    absent = ~groups.any(-1).cpu().numpy()
    found[np.broadcast_to(absent[:, None, None], found.shape)] = np.nan
    return found, clean - wrong


def _answer(model: Any, batch: Batch) -> Float[np.ndarray, " batch"]:
    """Return the probability of each answer's first token."""
    logits = forward(model, batch, logits_at="last")[:, 0].double()
    return logits.softmax(-1).gather(1, batch.answer_ids[:, :1]).squeeze(1).cpu().numpy()
