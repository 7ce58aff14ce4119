"""Where an intervention acts: one point of one layer in one forward pass, with what is needed to compute new values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import BadOption, BadSpan, nearest
from .encode import Batch
from .tower import sees_pieces

if TYPE_CHECKING:
    from .references import References


@dataclass(frozen=True)
class Site:
    """One layer in one pass. The tokens fed in this pass are the queries; keys are all tokens so far.

    Attributes:
        layer: Index of the layer.
        value: What stands at the point, such as z: the output of every query head before W_O; what is replaced.
        v: Values of all tokens so far, per *key-value* head; None where no intervention asked for them.
        positions: Absolute position of each query among its row's real tokens, the first (BOS) = 0; -1 on padding.
        key_positions: The same for every key column.
        lengths: Number of real prompt tokens of each row. A generated token has a position >= this.
        window: How many keys, the query's own included, a sliding-window layer lets a query see; None = all.
        batch: The prompts being run, for span names and paired runs; None if the caller gave none.
        references: Clean z of other runs, for `mean` and `resample`.
        at: Name of the point (see `points`).
        clean: What the unchanged model has at this point in this pass; None where no intervention asked for it.
        resid: The residual stream as it enters the layer; None where no intervention asked for it.
        first_row: Which of the prompts of the whole call the first row is.
        n_heads: Query heads of the layer; 0 where nobody said.
        n_dropped: Key columns that came before those shown: a sliding-window layer's cache drops keys that nobody sees.
        spread: Averages values over the keys that each query sees, where that is not all earlier ones: in image towers.
        countable: Whether positions say which token or piece stands where.
        memory: Kept for an intervention and layer from pass to pass of the same texts; empty at first.
        shared: The same for an intervention in all its layers.
    """

    layer: int
    value: Tensor
    v: Float[Tensor, "batch key_pos kv_head d_head"] | None
    positions: Int[Tensor, "batch pos"]
    key_positions: Int[Tensor, "batch key_pos"]
    lengths: Int[Tensor, " batch"]
    window: int | None = None
    batch: Batch | None = None
    references: References | None = None
    at: str = "z"
    clean: Tensor | None = None
    resid: Float[Tensor, "batch pos d_model"] | None = None
    first_row: int = 0
    n_heads: int = 0
    n_dropped: int = 0
    spread: Callable[[Tensor], Tensor] | None = None
    countable: bool = True
    memory: dict[str, Any] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def z(self) -> Float[Tensor, "batch pos head d_head"]:
        """What stands at the point, where that is z."""
        assert self.at == "z", f"the intervention acts on {self.at}, not on z"
        return self.value

    @property
    def pattern(self) -> Float[Tensor, "batch head query_pos key_pos"]:
        """What stands at the point, where that is the attention pattern."""
        assert self.at == "pattern", f"the intervention acts on {self.at}, not on the pattern"
        return self.value

    def values(self, heads: Sequence[int]) -> Float[Tensor, "batch key_pos head d_head"]:
        """Return the values that these query heads read, shared ones repeated."""
        assert self.v is not None, "the intervention did not declare needs_values"
        group = self.z.shape[2] // self.v.shape[2]
        return self.v[:, :, [head // group for head in heads]]

    def span(self, name: str) -> Bool[Tensor, "batch pos"]:
        """Return which of the queries stand in a named span of their prompt; generated tokens never do.

        Raises:
            BadSpan: no batch is known, or it has no span of this name.
        """
        return self._span(name, "positions")[:, -self.positions.shape[1] :]

    def keys(self, which: tuple[int, ...] | str) -> Bool[Tensor, "batch key_pos"]:
        """Return some of the keys: those in a named span, or at absolute positions (negative: from the prompt's end).

        Raises:
            BadSpan: no batch is known, or it has no span of this name.
        """
        if not self.countable:
            raise BadOption(
                f"keys={which!r}: this tower runs images of all sizes as one row, in an order of its own, so positions "
                "in it are not known."
            )
        if isinstance(which, str):
            return self._span(which, "keys")
        return at_positions(self.key_positions, self.lengths, which)

    def strengths(self, strength: float | tuple[float, ...]) -> Float[Tensor, " batch"]:
        """Return one strength a row: the same for all, or those of the rows' own prompts.

        Raises:
            BadOption: there are fewer strengths than prompts.
        """
        if self.spread is not None and isinstance(strength, tuple):
            raise BadOption("heads that read images take one strength for all prompts, not one for each.")
        n_rows = len(self.lengths)
        each = strength if isinstance(strength, tuple) else (strength,) * (self.first_row + n_rows)
        if len(each) < self.first_row + n_rows:
            raise BadOption(
                f"strength has {len(each)} values and prompt {self.first_row + n_rows - 1} is run; give one value for "
                "each prompt of the call, in order, or a single number."
            )
        return torch.tensor(each[self.first_row : self.first_row + n_rows], device=self.lengths.device)

    def _span(self, name: str, what: str) -> Bool[Tensor, "batch key_pos"]:
        if self.batch is None:
            raise BadSpan(
                f"{what}={name!r} names a span, but the prompts are not known: run the model through "
                "headscope's forward or generate, or give intervene(..., batch=...)."
            )
        if name not in self.batch.spans:
            raise BadSpan(
                f"{what}={name!r}: no prompt has a span of this name.{nearest(name, self.batch.spans)}"
            )
        n_columns = self.n_dropped + self.key_positions.shape[1]
        if self.spread is not None:
            return self._pieces(self.batch, name)
        mask = self.batch.spans[name][:, :n_columns].to(self.key_positions.device)
        return torch.nn.functional.pad(mask, (0, n_columns - mask.shape[1]), value=False)[:, self.n_dropped :]

    def _pieces(self, batch: Batch, name: str) -> Bool[Tensor, "image piece"]:
        """Return a span of an image's pieces as a tower has them: with a class token in front, or without."""
        n_images, n_pieces = self.positions.shape
        flat = (
            batch.spans[name][batch.spans["image"]]
            if "image" in batch.spans
            else torch.zeros(0, dtype=torch.bool)
        )
        mask = flat.reshape(n_images, -1) if self.countable and len(flat) % n_images == 0 else flat[None]
        if mask.shape not in ((n_images, n_pieces), (n_images, n_pieces - 1)):
            raise BadSpan(
                f"span {name!r}: the text side is shown {len(flat)} pieces, where this tower has {n_images * n_pieces};"
                " name positions, or leave them out."
            )
        return torch.nn.functional.pad(mask, (n_pieces - mask.shape[1], 0)).to(self.positions.device)


def at_positions(
    positions: Int[Tensor, "batch pos"], lengths: Int[Tensor, " batch"], wanted: Iterable[int]
) -> Bool[Tensor, "batch pos"]:
    """Return where absolute positions stand; negative ones count from the end of the prompt."""
    mask = torch.zeros_like(positions, dtype=torch.bool)
    for position in wanted:
        mask |= positions == (position if position >= 0 else lengths[:, None] + position)
    return mask & (positions >= 0)


def site_of(
    model: Any,
    layer: int,
    z: Float[Tensor, "batch pos head d_head"],
    v: Float[Tensor, "batch pos kv_head d_head"] | None,
    batch: Batch,
    references: References | None = None,
) -> Site:
    """Describe a layer in a plain forward pass of a whole batch, from its captured z and v: a clean run's."""
    positions = batch.positions.to(z.device)
    window = window_of(model, layer) if v is not None else None
    lengths = batch.lengths.to(z.device)
    return Site(layer, z, v, positions, positions, lengths, window, batch, references, clean=z)


def window_of(model: Any, layer: int) -> int | None:
    """Return how many keys a query of this layer may see, or None if it sees all earlier ones.

    Raises:
        BadOption: in this layer z is not a weighted mean of `hook_v` over earlier keys, so spreading attention evenly
            is not a running mean.
    """
    if sees_pieces(model):
        return None
    attn = model.blocks[layer].attn
    hf_attn = attn.original_component
    config = model.original_model.config
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    kind = kinds[layer] if kinds else ""
    gate = attn._modules.get("gate")
    obstacles = {
        "its head outputs pass a gate": getattr(model.cfg, "gated_q_proj", False)
        or getattr(gate, "original_component", None) is not None,
        "it clips its values": getattr(config, "clip_qkv", None) is not None,
        "it attends within chunks": kind == "chunked_attention",
        "its attention is not causal": not getattr(attn, "is_causal", True),
    }
    for reason, holds in obstacles.items():
        if holds:
            name = model.cfg.model_name
            raise BadOption(f"uniform: layer {layer} of {name} is not supported, {reason}; use mean or zero.")
    if kind == "local":
        return int(config.window_size)
    if kind == "full_attention" or kind == "global":
        return None
    # Where a layer does not say so itself, the whole model has one window, or none.
    everywhere = (
        getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    )
    window = getattr(hf_attn, "sliding_window", everywhere)
    return int(window) if window else None


def running_mean(
    values: Float[Tensor, "batch key_pos head d_head"],
    real: Bool[Tensor, "batch key_pos"],
    n_queries: int,
    window: int | None = None,
) -> Float[Tensor, "batch pos head d_head"]:
    """Average the values each query may see, every one with the same weight.

    Formula: out_t = mean of v_j over real j with t - window < j <= t.
    Shape and unit: the last `n_queries` columns, in the unit of v; 0 where a query sees no real key (left padding).

    The sums run in float64, because a window is the difference of two long ones.

    >>> v = torch.tensor([2.0, 4.0, 9.0]).reshape(1, 3, 1, 1)
    >>> running_mean(v, torch.tensor([[True, True, True]]), 3).flatten().tolist()
    [2.0, 3.0, 5.0]
    >>> running_mean(v, torch.tensor([[False, True, True]]), 2, window=1).flatten().tolist()
    [4.0, 9.0]
    """
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    n_keys = values.shape[1]
    kept = values.masked_fill(~real[:, :, None, None], 0).to(wide)
    sums = torch.nn.functional.pad(kept.cumsum(1), (0, 0, 0, 0, 1, 0))
    counts = torch.nn.functional.pad(real.long().cumsum(1), (1, 0))
    ends = torch.arange(n_keys - n_queries, n_keys, device=values.device) + 1
    starts = (ends - (window or n_keys)).clamp(min=0)
    count = (counts[:, ends] - counts[:, starts]).clamp(min=1)
    return ((sums[:, ends] - sums[:, starts]) / count[:, :, None, None]).to(values.dtype)
