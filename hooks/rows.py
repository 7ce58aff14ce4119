"""Any row of any head's attention, from the queries and keys of one pass: what long prompts are read with.

A full pattern grows with the square of the prompt, and there is one for every head. Queries, keys and values grow
with its length only, and a row is softmax(scale · q Kᵀ) of them, so rows are computed when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ..datasets.prompts import Prompt
from ..errors import BadOption, HookNeverFired, NonFinite
from .encode import Batch, encode
from .faults import advice
from .forward import Pass, announce
from .info import describe
from .places import Places
from .points import kv_groups
from .site import window_of
from .tower import refuse_pieces
from .turn import watching

_CHUNK = 512  # tokens fed at a time: the model's own attention then holds 512 rows, not all


class RowsDiffer(Exception):
    """The rows computed here are not the model's: something enters its scores that is not known here."""


@dataclass(frozen=True)
class Scoring:
    """How one layer turns a query and a key into a score.

    Attributes:
        scale: Factor on the product, mostly 1 / sqrt(d_head).
        cap: Scores are cap · tanh(score / cap), as in Gemma 2; None for no such cap.
        window: How many keys, the query's own included, a query sees; None = all earlier ones.
    """

    scale: float
    cap: float | None = None
    window: int | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """Queries, keys and values of one prompt, by layer, as attention uses them (after norms and rotation).

    Attributes:
        tokens: The prompt's token ids, BOS included.
        queries: Of every query head.
        keys: Of every key-value head.
        values: Of every key-value head.
        scoring: How scores are made of them.
    """

    tokens: Int[Tensor, " pos"]
    queries: tuple[Float[Tensor, "head pos d_head"], ...]
    keys: tuple[Float[Tensor, "kv_head pos d_head"], ...]
    values: tuple[Float[Tensor, "kv_head pos d_head"], ...]
    scoring: tuple[Scoring, ...]

    def group(self, layer: int, head: int) -> int:
        """Return which key-value head a query head reads."""
        return head * self.keys[layer].shape[0] // self.queries[layer].shape[0]

    def scores(
        self, layer: int, head: int, positions: Sequence[int] | None = None
    ) -> Float[Tensor, "row key_pos"]:
        """Return what goes into the softmax of some queries; -inf where a query may not look.

        Args:
            layer: Index of the layer.
            head: Index of the query head.
            positions: The queries' positions; None for all.
        """
        how, length = self.scoring[layer], len(self.tokens)
        asked = torch.arange(length) if positions is None else torch.as_tensor(list(positions))
        queries, keys = self.queries[layer][head, asked], self.keys[layer][self.group(layer, head)]
        scores = queries.float() @ keys.float().T * how.scale
        if how.cap is not None:
            scores = how.cap * torch.tanh(scores / how.cap)
        distance = asked[:, None] - torch.arange(length)[None, :]
        hidden = distance < 0 if how.window is None else (distance < 0) | (distance >= how.window)
        return scores.masked_fill(hidden, -torch.inf)

    def attention(
        self, layer: int, head: int, positions: Sequence[int] | None = None
    ) -> Float[Tensor, "row key_pos"]:
        """Return some rows of a head's attention pattern; each sums to 1. None asks for all rows."""
        return self.scores(layer, head, positions).softmax(-1)


@torch.no_grad()
def read_rows(model: Any, prompt: Prompt | str, *, chunk: int = _CHUNK) -> Rows:
    """Run a prompt once and keep its queries, keys and values on the CPU.

    The prompt is fed in chunks on top of a key-value cache, so that memory is `chunk` rows of one layer's attention.
    The last row of every head is compared with the model's own pattern.

    Args:
        model: The bridge.
        prompt: One prompt.
        chunk: Tokens fed at a time.

    Raises:
        RowsDiffer: The model's attention is not softmax(scale · q Kᵀ) over earlier keys: it adds a bias or a sink,
            does not show its queries, or is not causal.
        HookNeverFired: A layer shows no pattern.
        NonFinite: A query, key or value is NaN or infinite; the message names layer, head and token.
        PromptTooLong: The prompt does not fit into the context.
    """
    refuse_pieces(model, "attention between tokens")
    batch = encode(model, prompt, padding_side="right")
    n_layers = int(model.cfg.n_layers)
    cache = DynamicCache()
    queries: list[list[Tensor]] = [[] for _ in range(n_layers)]
    last_rows: dict[int, Tensor] = {}

    def keep_queries(layer: int) -> Any:
        return lambda value, hook: queries[layer].append(value[0].detach().cpu())

    def keep_last_row(layer: int) -> Any:
        return lambda pattern, hook: last_rows.__setitem__(layer, pattern[0, :, -1].detach().float().cpu())

    hooks = [(_query_hook(model, layer), keep_queries(layer)) for layer in range(n_layers)]
    hooks += [(f"blocks.{layer}.attn.hook_pattern", keep_last_row(layer)) for layer in range(n_layers)]
    with watching(model, hooks):
        for columns in _chunks(batch, chunk):
            _feed(model, batch, columns, cache)
    if missing := sorted(set(range(n_layers)) - set(last_rows)):
        raise HookNeverFired(
            f"{model.cfg.model_name}: hook_pattern of layers {missing} did not fire in 1 forward pass."
        )
    if not all(queries):
        raise RowsDiffer("queries are not shown")
    cached: Any = cache.layers  # of plain attention: each holds keys and values
    rows = Rows(
        tokens=batch.tokens[0].cpu(),
        queries=tuple(torch.cat(parts).transpose(0, 1) for parts in queries),
        keys=tuple(cached[layer].keys[0].cpu() for layer in range(n_layers)),
        values=tuple(cached[layer].values[0].cpu() for layer in range(n_layers)),
        scoring=tuple(_scoring(model, layer) for layer in range(n_layers)),
    )
    _refuse_non_finite(model, rows, batch)
    _compare(model, rows, last_rows)
    return rows


def _refuse_non_finite(model: Any, rows: Rows, batch: Batch) -> None:
    """Raise if something read is NaN or infinite, which would look as if attention were of an unknown kind."""
    for layer in range(len(rows.queries)):
        for what, shared in (("queries", False), ("keys", True), ("values", True)):
            value = getattr(rows, what)[layer]
            broken = (~torch.isfinite(value)).flatten(1).any(1).nonzero()[:, 0].tolist()
            if not broken:
                continue
            size = kv_groups(model) if shared else 1
            token = int((~torch.isfinite(value[broken[0]])).any(-1).nonzero()[0])
            raise NonFinite(
                f"{model.cfg.model_name}: the {what} of L{layer}H{broken[0] * size} are NaN or infinite at token "
                f"{token} of prompt 0 ({batch.prompts[0].text[:60]!r}).{advice(model)}"
            )


def _chunks(batch: Batch, chunk: int) -> Iterator[slice]:
    """Cut a prompt into pieces of a length; an image has to be fed whole, so the first reaches behind it."""
    length, start = batch.tokens.shape[1], 0
    behind = int(batch.spans["image"][0].nonzero()[-1]) + 1 if batch.images else 0
    while start < length:
        stop = min(max(start + chunk, behind), length)
        yield slice(start, stop)
        start = stop


def _feed(model: Any, batch: Batch, columns: slice, cache: DynamicCache) -> None:
    mask, positions = batch.attention_mask[:, : columns.stop], batch.positions[:, columns]
    images = {} if columns.start else batch.image_inputs
    with announce(model, Pass(positions, batch)):
        model(
            batch.tokens[:, columns],
            attention_mask=mask,
            past_key_values=cache,
            output_attentions=False,
            **images,
            **Places(model, batch).of(positions),
        )


def _query_hook(model: Any, layer: int) -> str:
    """Name the hook that shows queries as the scores use them."""
    rotated = f"blocks.{layer}.attn.hook_rot_q"
    return rotated if rotated in model.hook_dict else f"blocks.{layer}.attn.hook_q"


def _scoring(model: Any, layer: int) -> Scoring:
    attn = model.blocks[layer].attn
    own = attn.original_component
    d_head = int(model.cfg.d_head)
    scale = float(getattr(own, "scaling", None) or d_head**-0.5)
    if getattr(model.cfg, "scale_attn_by_inverse_layer_idx", False):
        scale = d_head**-0.5 / (layer + 1)
    cap = getattr(own, "attn_logit_softcapping", None)
    try:
        window = window_of(model, layer)
    except BadOption as error:
        raise RowsDiffer(str(error)) from error
    return Scoring(scale, float(cap) if cap else None, window)


def _compare(model: Any, rows: Rows, last_rows: dict[int, Tensor]) -> None:
    """Raise unless every head's last row is the model's own."""
    half = describe(model).dtype not in (torch.float32, torch.float64)
    last = [len(rows.tokens) - 1]
    for layer, theirs in last_rows.items():
        ours = torch.cat([rows.attention(layer, head, last) for head in range(len(theirs))])
        if ours.shape != theirs.shape or not bool((ours - theirs).abs().max() <= (0.02 if half else 1e-4)):
            raise RowsDiffer(f"attention of layer {layer} is not softmax of scaled queries and keys")
