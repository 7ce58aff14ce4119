"""How a feature of one layer reaches a feature of a later one through a head: what is copied (OV), what is sought (QK).

All in the weights, with the gain of the reading norm and without its scale, which depends on the prompt; `trace`
follows one feature on one prompt, with scales and attention as they are, so that its parts add up to its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ....datasets.prompts import Prompt
from ....errors import BadOption
from ....hooks.encode import encode
from ....hooks.forward import forward
from ....hooks.heads import Head, parse_heads
from ....hooks.turn import watching
from ...norms import read_norm
from ...weights import has_post_norm, values_weight
from .autoencoder import Sae
from .dashboard import direction

_AT_ONCE = 2**24  # edges of one head held at a time


@torch.no_grad()
def feature_edges(
    model: Any,
    writer: Sae,
    reader: Sae,
    *,
    writers: Iterable[int] | None = None,
    readers: Iterable[int] | None = None,
    k: int = 50,
) -> pd.DataFrame:
    """List the strongest ways in which a feature makes another one, copied by a head of the reader's layer.

    Formula: d_i · gain · W_V[h] · W_enc[h, j], with d_i what feature i writes to the stream: its decoder row
        through W_O.
    Direction: above 0, attention of the head to a token with feature i raises feature j; the size is per unit of i,
        per unit of attention and before division by the norm's scale, which is the same for all i at a token.
    Reference: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (OV circuits, virtual weights);
        between SAEs our composition of it.

    Args:
        model: The bridge.
        writer: SAE of an earlier layer.
        reader: SAE of a later layer.
        writers: Features of the first; None for all.
        readers: Features of the second; None for all.
        k: Edges to list.

    Returns:
        `writer`, `reader`, `head`, `weight`, strongest (by size) first.

    Raises:
        BadOption: An SAE does not belong to the model, has no such feature, or the reader is not in a later layer.
    """
    writer, reader = _pair(model, writer, reader)
    rows, columns = _features(writer, writers), _features(reader, readers)
    heads = reader.heads(int(model.cfg.n_heads))
    into = _reading(model, reader.config.layer, "V")[[head.index for head in heads]]  # head d_model d_head
    encoder = reader.by_head(reader.W_enc.T[columns], int(model.cfg.d_head))  # feature head d_head
    best: list[pd.DataFrame] = []
    step = max(1, _AT_ONCE // len(columns))
    for place, head in enumerate(heads):
        back = into[place] @ encoder[:, place].T  # d_model feature
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            best.append(_strongest(direction(model, writer, part) @ back, part, columns, head, k))
    return _table(best, ["writer", "reader", "head", "weight"], k)


@torch.no_grad()
def query_key_edges(
    model: Any,
    query: Sae,
    key: Sae,
    heads: Any,
    *,
    queries: Iterable[int] | None = None,
    keys: Iterable[int] | None = None,
    k: int = 50,
) -> pd.DataFrame:
    """List the strongest pairs of features by which heads choose where to look.

    Formula: (d_i · gain · W_Q[h]) · (d_j · gain · W_K[h]) / sqrt(d_head): what feature i at the query and feature j at
        the key add to the attention score. Rotary positions are left out: where a model turns queries and keys, this is
        the score at distance 0.
    Direction: above 0, a query with i looks more at keys with j; per unit of both, before the norm's scales.
    Reference: Elhage et al. 2021; as for `feature_edges`.

    Args:
        model: The bridge.
        query: SAE whose features stand at the query, of a layer before the heads.
        key: SAE whose features stand at the key; may be the same.
        heads: The heads that look.
        queries: Features of the first; None for all.
        keys: Features of the second; None for all.
        k: Pairs to list.

    Returns:
        `query`, `key`, `head`, `weight`, strongest (by size) first.

    Raises:
        BadOption: As for `feature_edges`.
    """
    listed = parse_heads(heads, model)
    query, key = query.fits(model), key.fits(model)
    last = max(query.config.layer, key.config.layer)
    for head in listed:
        if head.layer <= last:
            raise BadOption(f"{head} looks before layer {last} has written; choose a later head.")
    rows, columns = _features(query, queries), _features(key, keys)
    best: list[pd.DataFrame] = []
    step = max(1, _AT_ONCE // len(columns))
    scale = int(model.cfg.d_head) ** -0.5
    for head in listed:
        ask, offer = (_reading(model, head.layer, through)[head.index] for through in ("Q", "K"))
        offered = direction(model, key, columns) @ offer  # feature d_head
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            scores = direction(model, query, part) @ ask @ offered.T * scale
            best.append(_strongest(scores, part, columns, head, k))
    return _table(best, ["query", "key", "head", "weight"], k)


@dataclass(frozen=True, eq=False)
class Trace:
    """One feature at one token of a prompt, cut into what made it.

    Attributes:
        value: Before σ.
        edges: What each feature of the writer contributes, `[head, source position, feature]`.
        error: What the writer's SAE does not say of its heads' outputs, and its bias, `[head, source position]`.
        rest: Everything else that these heads read at each source: other layers, embeddings, biases.
        constant: The reader's biases.
        heads: The reader's heads.
    """

    value: float
    edges: Float[np.ndarray, "head source feature"]
    error: Float[np.ndarray, "head source"]
    rest: Float[np.ndarray, "head source"]
    constant: float
    heads: tuple[Head, ...]

    def table(self, k: int = 20) -> pd.DataFrame:
        """Return the strongest contributions: `head`, `source`, `feature`, `contribution`."""
        order = np.argsort(-np.abs(self.edges), axis=None, kind="stable")[:k]
        cells = [
            tuple(map(int, cell)) for cell in zip(*np.unravel_index(order, self.edges.shape), strict=True)
        ]
        rows = [(str(self.heads[h]), s, f, float(self.edges[h, s, f])) for h, s, f in cells]
        return pd.DataFrame(rows, columns=["head", "source", "feature", "contribution"])


@torch.no_grad()
def trace(
    model: Any, writer: Sae, reader: Sae, prompt: Prompt | str, feature: int, *, position: int = -1
) -> Trace:
    """Follow one feature at one token back to the features of an earlier layer, through attention as it is.

    Formula: A_h[t, s] · f_i[s] · (d_i · gain / scale[s]) · W_V[h] · W_enc[h, j], summed over nothing. With patterns and
        norm scales held at their real values this is exact: all parts add up to the value.

    Args:
        model: The bridge.
        writer: SAE of an earlier layer.
        reader: SAE of a later layer.
        prompt: One prompt.
        feature: Of the reader.
        position: The token; negative ones count from the end.

    Raises:
        BadOption: An SAE does not belong here, normalises its inputs, or a norm stands behind attention; or there is no
            such feature or position.
    """
    writer, reader = _pair(model, writer, reader)
    _features(reader, [feature])
    for sae in (writer, reader):
        if sae.config.normalize_activations not in ("none", "expected_average_only_in"):
            raise BadOption(f"the {sae.config} normalises its inputs, so its values do not fall into parts.")
    early, late = writer.config.layer, reader.config.layer
    if has_post_norm(model, early):
        raise BadOption(
            f"{model.cfg.model_name} has a norm behind attention, so a feature writes no fixed direction."
        )
    batch = encode(model, prompt, padding_side="right")
    length = int(batch.lengths[0])
    if not -length <= position < length:
        raise BadOption(f"position {position}: the prompt has tokens 0-{length - 1}.")
    at = position % length
    here = f"blocks.{late}."
    points = [f"blocks.{early}.attn.hook_z", here + "attn.hook_v", here + "attn.hook_pattern", here + "attn.hook_z",
              here + "ln1.hook_in", here + "ln1.hook_out"]  # fmt: skip
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda value, hook: seen.__setitem__(name, value.detach())

    with watching(model, [(name, keep(name)) for name in points]):
        forward(model, batch, logits_at="last")
    norm = read_norm(model.blocks[late].ln1, seen[here + "ln1.hook_in"][0, 0])
    scale = norm.scale(seen[here + "ln1.hook_in"], seen[here + "ln1.hook_out"])[0]  # source 1
    d_head, n_heads = int(model.cfg.d_head), int(model.cfg.n_heads)
    heads = reader.heads(n_heads)
    index = [head.index for head in heads]
    encoder = reader.by_head(reader.W_enc[:, feature], d_head)  # head d_head
    if reader.config.rescale_acts_by_decoder_norm:
        encoder = encoder * reader.W_dec[feature].norm()
    pattern = seen[here + "attn.hook_pattern"][0, index, at].to(encoder)  # head source
    back = torch.einsum("hmd,hd->hm", _reading(model, late, "V")[index].to(encoder), encoder)  # head d_model
    weight = pattern / scale[:, 0]
    x = writer.rows(seen[points[0]])[0]
    features = writer.encode(x)
    told = direction(model, writer, list(range(writer.config.d_sae))) @ back.T  # feature head
    edges = torch.einsum("hs,sf,fh->hsf", weight, writer.weighted(features), told)
    missing = (x - writer.decode(features, x) + writer.b_dec).unflatten(
        -1, (-1, d_head)
    )  # b_dec is no feature
    own = [head.index for head in writer.heads(n_heads)]
    out = model.blocks[early].attn.W_O.detach()[own].to(missing)
    error = weight * torch.einsum("shd,hdm,gm->gs", missing, out, back)
    group = n_heads // seen[here + "attn.hook_v"].shape[2]
    values = seen[here + "attn.hook_v"][0][:, [head // group for head in index]].to(encoder)
    whole = torch.einsum("hs,shd,hd->hs", pattern, values, encoder)
    total = reader.before(reader.rows(seen[here + "attn.hook_z"])[0, at])[feature]
    return Trace(
        float(total),
        edges.double().cpu().numpy(),
        error.double().cpu().numpy(),
        (whole - edges.sum(-1) - error).double().cpu().numpy(),
        float(total - whole.sum()),
        heads,
    )


def _pair(model: Any, writer: Sae, reader: Sae) -> tuple[Sae, Sae]:
    if writer.config.layer >= reader.config.layer:
        raise BadOption(
            f"the {reader.config} does not come after the {writer.config}: heads read what earlier layers wrote."
        )
    return writer.fits(model), reader.fits(model)


def _features(sae: Sae, features: Iterable[int] | None) -> list[int]:
    listed = list(range(sae.config.d_sae)) if features is None else [int(feature) for feature in features]
    if not listed:
        raise BadOption(f"no feature of the {sae.config} is named; give at least one, or None for all.")
    for feature in listed:
        if not 0 <= feature < sae.config.d_sae:
            raise BadOption(f"feature {feature}: the {sae.config} has features 0-{sae.config.d_sae - 1}.")
    return listed


def _reading(model: Any, layer: int, through: str) -> Float[Tensor, "head d_model d_head"]:
    """Return W_Q, W_K or W_V by query head, with the gain of the norm before it."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    if through == "V":
        weight = values_weight(model, layer)
    else:
        weight = (block.attn.W_Q if through == "Q" else block.attn.W_K).detach()
        weight = weight.repeat_interleave(n_heads // weight.shape[0], dim=0)
    return read_norm(block.ln1, block.attn.W_O.detach()[0, 0]).fold(weight).float()


def _strongest(scores: Tensor, rows: list[int], columns: list[int], head: Head, k: int) -> pd.DataFrame:
    flat = scores.flatten()
    top = flat.abs().topk(min(k, len(flat))).indices
    one, two = (top // len(columns)).tolist(), (top % len(columns)).tolist()
    ends = {"one": [rows[i] for i in one], "two": [columns[i] for i in two]}
    return pd.DataFrame({**ends, "head": str(head), "weight": flat[top].tolist()})


def _table(parts: list[pd.DataFrame], names: list[str], k: int) -> pd.DataFrame:
    whole = pd.concat(parts, ignore_index=True)
    order = (-whole["weight"].abs()).argsort(kind="stable")[:k]
    return whole.iloc[order].set_axis(names, axis=1).reset_index(drop=True)
