"""Apply interventions to a model inside a `with` block, count what they did, and undo them on the way out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import BadOption, HookNeverFired, NoEffect
from .encode import Batch
from .forward import running_pass
from .heads import parse_heads
from .interventions import Intervention, apply, chosen
from .references import References
from .site import Site, window_of

_active: WeakKeyDictionary[Any, list[Run]] = WeakKeyDictionary()
_lock = threading.Lock()


@dataclass
class History:
    """What a run remembers of the tokens that a key-value cache holds."""

    batch: Batch | None
    lengths: Int[Tensor, " batch"]
    key_positions: Int[Tensor, "batch key_pos"]
    values: dict[int, Float[Tensor, "batch key_pos kv_head d_head"]] = field(default_factory=dict)


class Run:
    """One `with intervene(...)` block.

    Attributes:
        interventions: What is applied, in order.
        passes: Forward passes of the model so far.
    """

    def __init__(self, model: Any, interventions: tuple[Intervention, ...], batch: Batch | None) -> None:
        self.model = model
        self.interventions = interventions
        self.passes = 0
        self._batch = batch
        self._thread = threading.get_ident()
        self._paused = 0
        self._references = References(model)
        self._fired = [0] * len(interventions)
        self._changed = [False] * len(interventions)
        self._windows: dict[int, int | None] = {}
        self._histories: WeakKeyDictionary[Any, History] = WeakKeyDictionary()
        self._now: History | None = None
        self._n_queries = 0

    @property
    def fired(self) -> dict[Intervention, int]:
        """How often each intervention replaced something: once per forward pass and layer in which it chose a position."""
        counts = dict.fromkeys(self.interventions, 0)
        for intervention, count in zip(self.interventions, self._fired, strict=True):
            counts[intervention] += count
        return counts

    def check(self) -> None:
        """Refuse to let a run pass for an intervention if it was none.

        Raises:
            HookNeverFired: an intervention chose no position in any pass.
            NoEffect: every value that an intervention put in place was there already.
        """
        for intervention, fired, changed in zip(self.interventions, self._fired, self._changed, strict=True):
            if not self.passes:
                raise HookNeverFired(f"{intervention}: no forward pass ran inside the block; run the model inside it.")
            if not fired:
                raise HookNeverFired(
                    f"{intervention}: chose no position in {self.passes} forward passes; check positions "
                    f"({intervention.positions!r}) and phase ({intervention.phase!r}) against what was run."
                )
            if not changed and not intervention.is_identity:
                raise NoEffect(
                    f"{intervention}: replaced head outputs {fired} times and changed none of them; its values equal "
                    "the clean ones (for resample: is the corrupted text the same?)."
                )

    def hooks(self) -> list[tuple[str, Any]]:
        """Return the hook points of the layers concerned, with what to do there."""
        found: list[tuple[str, Any]] = []
        for layer in sorted({head.layer for intervention in self.interventions for head in intervention.heads}):
            if any(intervention.needs_values and intervention.in_layer(layer) for intervention in self.interventions):
                self._windows[layer] = window_of(self.model, layer)
                found.append((self._point(layer, "hook_v"), self._see_values(layer)))
            found.append((self._point(layer, "hook_z"), self._replace(layer)))
        return found

    def prepare(self, batch: Batch | None) -> None:
        """Make the clean runs that the interventions refer to; no intervention of any open block is active in them."""
        with paused(self.model):
            for intervention in self.interventions:
                intervention.prepare(self._references, batch)

    def enter_pass(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Learn positions and prompt lengths before the model runs (a forward pre-hook)."""
        if self._paused:
            return
        if threading.get_ident() != self._thread:
            raise BadOption(
                f"{self.model.cfg.model_name} is inside intervene(...) of another thread; give each thread its own model."
            )
        ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        assert isinstance(ids, Tensor)
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        history = self._histories.get(cache) if past else None
        if past and (history is None or history.key_positions.shape[1] != past):
            raise BadOption(
                f"the key-value cache holds {past} tokens that did not run inside intervene(...), so prompt length and "
                "values are unknown; begin with an empty cache inside the block."
            )
        batch, positions = self._read(ids, kwargs.get("attention_mask"), past, history)
        if history is None:
            lengths = batch.lengths if batch is not None else (positions >= 0).sum(1)
            history = History(batch, lengths.to(ids.device), positions)
            if batch is not None:
                self.prepare(batch)
        else:
            history.key_positions = torch.cat([history.key_positions, positions], dim=1)
        if cache is not None:
            self._histories[cache] = history
        self._now, self._n_queries = history, ids.shape[1]
        self.passes += 1

    def leave_pass(self, *_: Any) -> None:
        """Forget the pass when the model returns or fails."""
        if not self._paused and threading.get_ident() == self._thread:
            self._now = None

    def _read(
        self, ids: Tensor, mask: Tensor | None, past: int, history: History | None
    ) -> tuple[Batch | None, Int[Tensor, "batch pos"]]:
        """Find the batch and the absolute positions of the tokens fed: announced, from the given batch, or from the mask."""
        announced = running_pass(self.model)
        if announced is not None:
            return announced.batch, announced.positions.to(ids.device)
        n_queries = ids.shape[1]
        if history is None and self._batch is not None:
            tokens = self._batch.tokens.to(ids.device)
            if ids.shape != tokens.shape or not torch.equal(ids, tokens):
                raise BadOption(
                    f"the model was called with tokens {tuple(ids.shape)} that are not those of the batch given to "
                    f"intervene {tuple(tokens.shape)}; give the batch that is run, or use headscope's forward."
                )
            return self._batch, self._batch.positions.to(ids.device)
        if mask is not None and tuple(mask.shape) != (ids.shape[0], past + n_queries):
            raise BadOption(
                f"intervene reads positions from an attention mask of shape {(ids.shape[0], past + n_queries)}, cached "
                f"tokens included; this one has shape {tuple(mask.shape)}."
            )
        if mask is None:
            before = history.key_positions if history is not None else ids.new_zeros(ids.shape[0], 0)
            real = torch.cat([before >= 0, before.new_ones(ids.shape[0], n_queries).bool()], dim=1)
        else:
            real = mask.to(ids.device) != 0
        positions = (real.long().cumsum(1) - 1).masked_fill(~real, -1)
        return (history.batch if history is not None else None), positions[:, past : past + n_queries]

    def _see_values(self, layer: int) -> Any:
        def see(v: Tensor, hook: Any) -> None:
            if self._paused or self._now is None:
                return
            earlier = self._now.values.get(layer)
            self._now.values[layer] = v if earlier is None else torch.cat([earlier, v], dim=1)

        return see

    def _replace(self, layer: int) -> Any:
        def replace(z: Tensor, hook: Any) -> Tensor | None:
            if self._paused:
                return None
            now = self._now
            if now is None:
                raise BadOption(f"layer {layer} ran on its own inside intervene(...), where positions are not known.")
            queries = now.key_positions[:, -self._n_queries :]
            v = now.values.get(layer)
            for index, intervention in enumerate(self.interventions):
                heads = intervention.in_layer(layer)
                if not heads:
                    continue
                site = Site(
                    layer, z, v, queries, now.key_positions, now.lengths, self._windows.get(layer), now.batch, self._references
                )
                mask = chosen(intervention, site)
                if not bool(mask.any()):
                    continue
                changed = apply(intervention, site)
                self._fired[index] += 1
                self._changed[index] |= _differs(z[:, :, heads][mask], changed[:, :, heads][mask])
                z = changed
            return z

        return replace

    def _point(self, layer: int, name: str) -> str:
        full = f"blocks.{layer}.attn.{name}"
        if full not in self.model.hook_dict:
            raise HookNeverFired(f"{full}: {self.model.cfg.model_name} has no such hook point, so this head cannot be changed.")
        return full


@contextmanager
def intervene(
    model: Any, interventions: Intervention | Iterable[Intervention], batch: Batch | None = None
) -> Iterator[Run]:
    """Apply interventions to every forward pass of a model inside the block.

    Interventions act in the order given; an inner block acts after an outer one. Whatever happens, the model is as
    before when the block is left. An exception from the block's body passes through untouched.

    Args:
        model: The bridge. Only the thread that entered the block may run it.
        interventions: One or several; none is allowed and changes nothing.
        batch: The prompts, if the model will be called directly and an intervention needs their spans or corrupted
            texts. Headscope's `forward` and `generate` make it known themselves.

    Yields:
        The run, whose `fired` counts what happened so far.

    Raises:
        UnknownHead: the model does not have a head.
        BadOption: the model is in use by another thread, or an intervention cannot be applied as asked.
        HookNeverFired: on leaving normally, an intervention never chose a position.
        NoEffect: on leaving normally, an intervention other than an identity changed nothing.
    """
    listed = (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
    for intervention in listed:
        if not isinstance(intervention, Intervention):
            raise BadOption(f"{intervention!r} is not an intervention; make one with zero, mean, resample, uniform or scale.")
        parse_heads(intervention.heads, model)
    run = Run(model, listed, batch)
    run.prepare(batch)
    with ExitStack() as stack:
        stack.enter_context(_registered(run))
        if listed:
            module = model.original_model
            for handle in (
                module.register_forward_pre_hook(run.enter_pass, with_kwargs=True),
                module.register_forward_hook(run.leave_pass, always_call=True),
            ):
                stack.callback(handle.remove)
            stack.enter_context(model.hooks(fwd_hooks=run.hooks()))
        yield run
    run.check()


@contextmanager
def paused(model: Any) -> Iterator[None]:
    """Let forward passes inside the block run clean, whatever `intervene` blocks are open on the model."""
    runs = list(_active.get(model, ()))
    for run in runs:
        run._paused += 1
    try:
        yield
    finally:
        for run in runs:
            run._paused -= 1


@contextmanager
def _registered(run: Run) -> Iterator[None]:
    with _lock:
        runs = _active.setdefault(run.model, [])
        if runs and runs[-1]._thread != run._thread:
            raise BadOption(
                f"{run.model.cfg.model_name} is inside intervene(...) of another thread; give each thread its own model."
            )
        runs.append(run)
    try:
        yield
    finally:
        with _lock:
            runs.remove(run)


def _differs(old: Tensor, new: Tensor) -> bool:
    """Whether two tensors differ by more than the rounding of one run against another."""
    bound = 4 * torch.finfo(old.dtype).eps * max(float(old.abs().max()), float(new.abs().max()))
    return not bool(((old - new).abs() <= bound).all())
