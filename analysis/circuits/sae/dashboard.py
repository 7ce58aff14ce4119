"""What features of an SAE are about: where they are active, which heads they come from, which tokens they speak for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ....errors import BadOption, EmptyPromptSet
from ....hooks.encode import encode
from ....hooks.forward import forward
from ....hooks.heads import Head
from ....hooks.turn import watching
from ...attention import token_texts
from ...defaults import as_prompt_set
from ...norms import read_norm
from ...weights import has_post_norm
from ...writing import Spoken, spoken
from .autoencoder import Sae
from .stream import rows_of


class Example(NamedTuple):
    """A feature at one token.

    Attributes:
        prompt: Index of the prompt.
        position: Of the token, BOS = 0.
        tokens: All tokens of the prompt as text.
        values: The feature at each of them.
        decile: Which tenth of the feature's active tokens it is from, 10 the strongest; 0 for the very strongest ones,
            which are listed first.
    """

    prompt: int
    position: int
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    decile: int


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature.

    Attributes:
        index: Its number.
        density: Share of tokens on which it is active.
        highest: Its largest value.
        heads: The heads the SAE reads.
        by_weight: Share of each head in the length of the feature's decoder row; sums to 1.
        by_value: For the strongest example, what each head adds to the value before σ (the biases are left out).
        by_source: The same by source token: what each token contributed through attention and values; NaN where the SAE
            normalises its inputs, and the parts are not linear.
        spoken: Tokens that the decoder row, written to the stream, raises and lowers most when nothing comes between.
        examples: Strongest first, then some of each tenth.
        histogram: Counts and edges of its values where it is active.
    """

    index: int
    density: float
    highest: float
    heads: tuple[Head, ...]
    by_weight: Float[np.ndarray, " head"]
    by_value: Float[np.ndarray, " head"]
    by_source: Float[np.ndarray, " position"]
    spoken: Spoken
    examples: tuple[Example, ...]
    histogram: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Dashboard:
    """Features of an SAE on some prompts.

    Attributes:
        sae: The SAE.
        model: Name of the model.
        data: Name of the prompts.
        n_tokens: Tokens read.
        density: Share of tokens on which each feature of the SAE is active.
        highest: Largest value of each.
        features: Those that were looked at.
    """

    sae: Sae
    model: str
    data: str
    n_tokens: int
    density: Float[np.ndarray, " feature"]
    highest: Float[np.ndarray, " feature"]
    features: tuple[Feature, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per feature looked at: `feature`, `density`, `highest`, `head`, `share`, `raises`, `on`."""
        rows = []
        for one in self.features:
            top = int(one.by_weight.argmax())
            peaks = [example.tokens[example.position] for example in one.examples if example.decile == 0]
            rows.append((one.index, one.density, one.highest, str(one.heads[top]), float(one.by_weight[top]),
                         " ".join(t.token.strip() for t in one.spoken.raised[:5]),
                         " ".join(dict.fromkeys(peak.strip() for peak in peaks))))  # fmt: skip
        return pd.DataFrame(rows, columns=["feature", "density", "highest", "head", "share", "raises", "on"])

    def page(self, path: str | Path) -> Path:
        """Write one HTML file that needs no network.

        Raises:
            CannotWrite: The system refused.
        """
        from .show import write_page

        return write_page(self, path)


@torch.no_grad()
def dashboard(
    model: Any,
    sae: Sae,
    prompts: Any,
    *,
    features: Iterable[int] | None = None,
    n: int = 20,
    n_examples: int = 5,
    per_decile: int = 1,
    k: int = 8,
    seed: int = 0,
) -> Dashboard:
    """Look at features of an SAE on prompts.

    Args:
        model: The bridge.
        sae: The SAE.
        prompts: Prompts.
        features: Which; None for the `n` whose values vary most: a feature that is always on says little.
        n: How many, where none are named.
        n_examples: Strongest examples of each, at most one a prompt.
        per_decile: Examples from each tenth of its active tokens.
        k: Tokens raised and lowered.
        seed: Of the choice within a tenth.

    Raises:
        EmptyPromptSet: There is no prompt.
        BadOption: The SAE does not belong to the model, or has no such feature.
    """
    data = as_prompt_set(prompts)
    if not len(data):
        raise EmptyPromptSet(f"{data.name!r} holds no prompt; give at least one.")
    sae = sae.fits(model)
    config = sae.config
    active = torch.zeros(config.d_sae, dtype=torch.float64)
    total, power, highest, n_tokens = active.clone(), active.clone(), active.clone(), 0
    for _, x in rows_of(model, data, config.layer, config.head):
        values = sae.encode(x).double().cpu()
        active += (values > 0).sum(0)
        total += values.sum(0)
        power += values.pow(2).sum(0)
        highest = torch.maximum(highest, values.amax(0))
        n_tokens += len(x)
    chosen = (
        (power / n_tokens - (total / n_tokens) ** 2).argsort(descending=True, stable=True)[:n].tolist()
        if features is None
        else [int(f) for f in features]
    )
    for feature in chosen:
        if not 0 <= feature < config.d_sae:
            raise BadOption(f"feature {feature}: the {config} has features 0-{config.d_sae - 1}.")
    columns, lengths = [], []
    for batch, x in rows_of(model, data, config.layer, config.head):
        columns.append(sae.encode(x)[:, chosen].float().cpu())
        lengths += batch.lengths.tolist()
    values = torch.cat(columns)  # token feature
    prompt = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    texts: dict[int, tuple[str, ...]] = {}

    def example(token: int, column: int, decile: int) -> Example:
        row = int(prompt[token])
        if row not in texts:
            texts[row] = token_texts(model, data[row])
        own = values[int(starts[row]) : int(starts[row + 1]), column]
        return Example(row, token - int(starts[row]), texts[row], tuple(own.tolist()), decile)

    found = []
    for column, feature in enumerate(chosen):
        places = _choose(values[:, column].numpy(), prompt.numpy(), n_examples, per_decile, seed)
        examples = tuple(example(token, column, decile) for token, decile in places)
        own = values[:, column][values[:, column] > 0].numpy()
        first = examples[0] if examples else None
        by_value, by_source = _attribute(model, sae, feature, data[first.prompt] if first else None,
                                         first.position if first else 0)  # fmt: skip
        parts = sae.by_head(sae.W_dec[feature], int(model.cfg.d_head)).norm(dim=-1)
        found.append(
            Feature(
                index=feature,
                density=float(active[feature]) / n_tokens,
                highest=float(highest[feature]),
                heads=sae.heads(int(model.cfg.n_heads)),
                by_weight=(parts / parts.sum()).double().cpu().numpy(),
                by_value=by_value,
                by_source=by_source,
                spoken=_spoken_for(model, sae, feature, k),
                examples=examples,
                histogram=np.histogram(own, bins=20) if len(own) else (np.zeros(20), np.linspace(0, 1, 21)),
            )
        )
    return Dashboard(
        sae,
        str(model.cfg.model_name),
        data.name,
        n_tokens,
        (active / n_tokens).numpy(),
        highest.numpy(),
        tuple(found),
    )


def direction(model: Any, sae: Sae, features: Any) -> Float[Tensor, "feature d_model"]:
    """Return what features write to the residual stream: their decoder rows through W_O.

    Where a norm stands behind attention, its gain is applied and its scale, which depends on the prompt, is not.
    """
    layer, d_head = sae.config.layer, int(model.cfg.d_head)
    heads = [head.index for head in sae.heads(int(model.cfg.n_heads))]
    out = model.blocks[layer].attn.W_O.detach()[heads].to(sae.W_dec)
    written = torch.einsum("fhd,hdm->fm", sae.by_head(sae.W_dec[features], d_head), out)
    if has_post_norm(model, layer):
        return read_norm(model.blocks[layer].ln1_post, written[0]).direction(written)
    return written


def _spoken_for(model: Any, sae: Sae, feature: int, k: int) -> Spoken:
    written = direction(model, sae, [feature])[0].to(model.W_E)
    return spoken(model, read_norm(model.ln_final, written).direction(written), k)


def _choose(
    values: Float[np.ndarray, " token"], prompt: np.ndarray, n_examples: int, per_decile: int, seed: int
) -> list[tuple[int, int]]:
    """Choose tokens to show, with their tenth: the strongest of different prompts, then some of every tenth by rank."""
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    if not len(order):
        return []
    _, first = np.unique(prompt[order], return_index=True)
    chosen = [(int(token), 0) for token in order[np.sort(first)[:n_examples]]]
    rng = np.random.default_rng(seed)
    for tenth, part in zip(range(10, 0, -1), np.array_split(order, 10), strict=True):
        left = np.setdiff1d(part, [token for token, _ in chosen])
        for token in rng.permutation(left)[:per_decile]:
            chosen.append((int(token), tenth))
    return chosen


def _attribute(
    model: Any, sae: Sae, feature: int, prompt: Any, position: int
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " position"]]:
    """Cut a feature's value before σ by head, and by source token: z_h = Σ_s A[s] v[s], and the encoder is linear."""
    n_heads, d_head = int(model.cfg.n_heads), int(model.cfg.d_head)
    heads = [head.index for head in sae.heads(n_heads)]
    if prompt is None or sae.config.normalize_activations not in ("none", "expected_average_only_in"):
        return np.full(len(heads), np.nan), np.full(1, np.nan)
    seen: dict[str, Tensor] = {}
    layer = sae.config.layer
    points = {name: f"blocks.{layer}.attn.hook_{name}" for name in ("z", "v", "pattern")}
    batch = encode(model, prompt, padding_side="right")

    def keep(name: str) -> Any:
        return lambda value, hook: seen.__setitem__(name, value[0].detach())

    with watching(model, [(point, keep(name)) for name, point in points.items()]):
        forward(model, batch, logits_at="last")
    reading = sae.by_head(sae.W_enc[:, feature], d_head).to(seen["z"])  # head d_head
    if sae.config.rescale_acts_by_decoder_norm:
        reading = reading * sae.W_dec[feature].norm()
    by_head = (seen["z"][position, heads] * reading).sum(-1)
    group = n_heads // seen["v"].shape[1]
    value = seen["v"][:, [head // group for head in heads]]  # key head d_head
    weight = seen["pattern"][heads, position].to(value)  # head key
    by_source = torch.einsum("hs,shd,hd->s", weight, value, reading)
    return by_head.double().cpu().numpy(), by_source.double().cpu().numpy()


__all__ = ["Dashboard", "Example", "Feature", "dashboard", "direction"]
