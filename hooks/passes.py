"""Follow the forward passes of a model: which tokens are fed, where they stand in their texts, what came before."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import BadOption
from .encode import Batch
from .forward import running_pass
from .references import References
from .site import Site, window_of
from .tower import sees_pieces, spread_over_pieces


@dataclass
class History:
    """The tokens of one text so far: those that a key-value cache holds and those being fed."""

    batch: Batch | None
    lengths: Int[Tensor, " batch"]
    key_positions: Int[Tensor, "batch key_pos"]
    first_row: int = 0
    values: dict[int, Float[Tensor, "batch key_pos kv_head d_head"]] = field(default_factory=dict)
    resid: dict[int, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    clean: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    clean_cache: Any = None
    memory: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)


class Passes:
    """Knows, inside a forward pass, the absolute position of every token, and keeps the values of cached ones.

    Attributes:
        count: Passes begun so far.
        now: The history of the pass that is running, None between passes.
    """

    def __init__(self, model: Any, batch: Batch | None) -> None:
        self.model = model
        self.count = 0
        self.now: History | None = None
        self._given = batch
        self._n_queries = 0
        # By cache, so that runs that take turns on one model keep apart; without a cache a pass is a text of its own.
        self._cached: WeakKeyDictionary[Any, History] = WeakKeyDictionary()
        self._windows: dict[int, int | None] = {}

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Read what the model is about to be called with.

        Returns:
            True if new texts begin, False if cached ones go on.

        Raises:
            BadOption: positions cannot be known from this call.
        """
        cache = kwargs.get("past_key_values")
        if sees_pieces(self.model):
            return self._enter_pieces(cache)
        ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        assert isinstance(ids, Tensor), "the model was called without tokens"
        past = int(cache.get_seq_length()) if cache is not None else 0
        before = self._cached.get(cache) if past else None
        if past and (before is None or before.key_positions.shape[1] != past):
            raise BadOption(
                f"the key-value cache holds {past} tokens that were not all fed inside intervene(...), so prompt "
                "lengths and values are unknown; begin with an empty cache inside the block."
            )
        batch, positions = self._read(ids, kwargs.get("attention_mask"), past, before)
        if before is None:
            lengths = batch.lengths.to(ids.device) if batch is not None else (positions >= 0).sum(1)
            announced = running_pass(self.model)
            self.now = History(batch, lengths, positions, announced.first_row if announced else 0)
        else:
            before.key_positions = torch.cat([before.key_positions, positions], dim=1)
            self.now = before
        if cache is not None:
            self._cached[cache] = self.now
        self._n_queries = ids.shape[1]
        self.count += 1
        return before is None

    def _enter_pieces(self, cache: Any) -> bool:
        """Begin a pass in which heads read images; how many pieces these have shows when they are read."""
        announced, nothing = running_pass(self.model), torch.zeros(0, 0, dtype=torch.long)
        batch = announced.batch if announced is not None else self._given
        self.now = History(batch, nothing.sum(1), nothing, announced.first_row if announced else 0)
        self.count += 1
        return not (cache is not None and cache.get_seq_length())

    def leave(self) -> None:
        """Forget the pass that ends."""
        self.now = None

    def see_values(self, layer: int, v: Float[Tensor, "batch pos kv_head d_head"]) -> None:
        """Keep a layer's values for this and later passes."""
        if self.now is not None:
            earlier = self.now.values.get(layer)
            self.now.values[layer] = v if earlier is None else torch.cat([earlier, v], dim=1)

    def see_resid(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> None:
        """Keep what enters a layer for this pass."""
        if self.now is not None:
            self.now.resid[layer] = resid

    def site(self, layer: int, value: Tensor, references: References, at: str = "z", index: int = 0) -> Site:
        """Describe a point of the pass that is running.

        Args:
            layer: Index of the layer.
            value: What stands there.
            references: Of the block.
            at: Name of the point.
            index: Which of the block's interventions will act.

        Raises:
            BadOption: no pass is running, or values were seen and the layer is none that `window_of` knows.
        """
        now = self.now
        if now is None:
            raise BadOption(
                f"layer {layer} ran on its own inside intervene(...), where positions are not known."
            )
        v = now.values.get(layer)
        if sees_pieces(self.model):
            return self._site_of_pieces(layer, value, v, references, at, index)
        if v is not None and layer not in self._windows:
            self._windows[layer] = window_of(self.model, layer)
        n_columns = now.key_positions.shape[1]
        shown = value.shape[-1] if at in ("scores", "pattern") else n_columns
        return Site(
            layer=layer,
            value=value,
            v=v,
            positions=now.key_positions[:, -self._n_queries :],
            key_positions=now.key_positions[:, n_columns - shown :],
            lengths=now.lengths,
            window=self._windows.get(layer),
            batch=now.batch,
            references=references,
            at=at,
            clean=now.clean.get((layer, at)),
            resid=now.resid.get(layer),
            first_row=now.first_row,
            n_heads=int(self.model.cfg.n_heads),
            n_dropped=n_columns - shown,
            memory=now.memory.setdefault((index, layer), {}),
            shared=now.memory.setdefault((index, -1), {}),
        )

    def _site_of_pieces(
        self, layer: int, value: Tensor, v: Tensor | None, references: References, at: str, index: int
    ) -> Site:
        """Describe a point of a tower: a row is an image, its pieces are all there at once and see one another."""
        now = self.now
        assert now is not None
        n_rows, n_pieces = value.shape[0], value.shape[2 if at == "pattern" else 1]
        positions = torch.arange(n_pieces, device=value.device).expand(n_rows, -1)
        return Site(
            layer=layer,
            value=value,
            v=v,
            positions=positions,
            key_positions=positions,
            # No piece is the one that the next token is predicted from.
            lengths=positions.new_full((n_rows,), n_pieces + 1),
            batch=now.batch,
            references=references,
            at=at,
            clean=now.clean.get((layer, at)),
            first_row=now.first_row,
            n_heads=int(self.model.cfg.n_heads),
            memory=now.memory.setdefault((index, layer), {}),
            shared=now.memory.setdefault((index, -1), {}),
            spread=partial(spread_over_pieces, self.model, layer),
            countable=not getattr(self.model, "in_one_row", False),
        )

    def _read(
        self, ids: Tensor, mask: Tensor | None, past: int, before: History | None
    ) -> tuple[Batch | None, Int[Tensor, "batch pos"]]:
        """Find the prompts and positions: as announced, from the batch given to `intervene`, or from the mask."""
        announced = running_pass(self.model)
        if announced is not None:
            return announced.batch, announced.positions.to(ids.device)
        if before is None and self._given is not None:
            tokens = self._given.tokens.to(ids.device)
            if ids.shape != tokens.shape or not torch.equal(ids, tokens):
                raise BadOption(
                    f"the model was called with tokens {tuple(ids.shape)} that are not those of the batch given to "
                    f"intervene {tuple(tokens.shape)}; give the batch that is run, or use headscope's forward."
                )
            return self._given, self._given.positions.to(ids.device)
        n_rows, n_queries = ids.shape[:2]
        if mask is not None and tuple(mask.shape) != (n_rows, past + n_queries):
            raise BadOption(
                f"intervene reads positions from an attention mask of shape {(n_rows, past + n_queries)}, cached "
                f"tokens included; this one has shape {tuple(mask.shape)}."
            )
        if mask is not None:
            real = mask.to(ids.device) != 0
        else:
            real = torch.ones(n_rows, past + n_queries, dtype=torch.bool, device=ids.device)
            if before is not None:
                real[:, :past] = before.key_positions >= 0
        positions = (real.long().cumsum(1) - 1).masked_fill(~real, -1)[:, past:]
        return (before.batch if before is not None else None), positions
