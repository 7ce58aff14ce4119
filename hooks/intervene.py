"""Apply interventions to a model inside a `with` block, count what they did, and undo them on the way out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import BadOption, HookNeverFired, NoEffect
from .apply import apply, chosen, own
from .clean import run_clean, silenced
from .encode import Batch
from .interventions import Intervention
from .passes import Passes
from .points import POINTS, hook_name
from .references import References
from .site import window_of
from .tower import Tower
from .turn import Owner, open_blocks, refuse_others, registered, turn


class Run:
    """One `with intervene(...)` block.

    Attributes:
        interventions: What is applied, in order.
        batch: The prompts, if they were given.
        owner: Who entered the block.
    """

    def __init__(
        self,
        model: Any,
        interventions: tuple[Intervention, ...],
        batch: Batch | None,
        references: References | None = None,
    ) -> None:
        self.model = model
        self.interventions = interventions
        self.batch = batch
        self.owner = Owner.now()
        self._passes = Passes(model, batch)
        self._paused = 0
        self._references = References(model) if references is None else references
        self._fired: list[Counter[int]] = [Counter() for _ in interventions]  # by layer
        self._changed = [False] * len(interventions)

    @property
    def passes(self) -> int:
        """Forward passes of the model so far."""
        return self._passes.count

    @property
    def fired(self) -> dict[Intervention, int]:
        """How often each intervention acted: once per layer and forward pass in which it chose a position."""
        counts = dict.fromkeys(self.interventions, 0)
        for intervention, count in zip(self.interventions, self._fired, strict=True):
            counts[intervention] += count.total()
        return counts

    def check(self) -> None:
        """Refuse to let a run pass for an intervention if it was none.

        Raises:
            HookNeverFired: an intervention chose no position in any pass, or none in the layer of one of its heads.
            NoEffect: every value that an intervention put in place was there already.
        """
        for intervention, fired, changed in zip(self.interventions, self._fired, self._changed, strict=True):
            if not self.passes:
                raise HookNeverFired(
                    f"{intervention}: no forward pass ran inside the block; run the model inside it."
                )
            silent = [
                one for one in intervention.acts_on if not fired[one if isinstance(one, int) else one.layer]
            ]
            if silent:
                named = ", ".join(f"layer {one}" if isinstance(one, int) else str(one) for one in silent)
                raise HookNeverFired(
                    f"{intervention}: did not act on {named} in {self.passes} forward passes; "
                    f"check positions ({intervention.positions!r}) and phase ({intervention.phase!r}) against what was "
                    "run, and that the passes reached the layer."
                )
            if not changed and not intervention.is_identity:
                what = "head outputs" if intervention.at == "z" else intervention.at
                raise NoEffect(
                    f"{intervention}: replaced {what} {fired.total()} times and changed none of them; its values "
                    "equal the clean ones (for resample: is the corrupted text the same?)."
                )

    def hooks(self) -> list[tuple[str, Any]]:
        """Return the hook points of the layers concerned, with what to do there."""
        found: list[tuple[str, Any]] = []
        for layer in sorted({layer for one in self.interventions for layer in one.in_layers}):
            here = [one for one in self.interventions if layer in one.in_layers]
            if any(one.needs_values for one in here):
                window_of(self.model, layer)  # refuses layers whose z is no mean of values
                found.append((hook_name(self.model, layer, "v"), self._see_values(layer)))
            if any(one.needs_resid for one in here):
                found.append((f"blocks.{layer}.hook_in", self._see_resid(layer)))
            for at in POINTS:
                if any(one.at == at for one in here):
                    found.append((hook_name(self.model, layer, at), self._replace(layer, at)))
        return found

    def prepare(self, batch: Batch | None) -> None:
        """Make the clean runs that the interventions refer to; no intervention of any open block is active in them."""
        with paused(self.model), silenced(self.model):
            for intervention in self.interventions:
                intervention.prepare(self._references, batch)

    def enter_pass(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Learn positions before the model runs (a forward pre-hook)."""
        if self._paused:
            return
        refuse_others(self.model)
        if self._passes.enter(args, kwargs):
            assert self._passes.now is not None
            if self._passes.now.batch is not None:
                self.prepare(self._passes.now.batch)
        wanted = {(layer, one.at) for one in self.interventions if one.needs_clean for layer in one.in_layers}
        if wanted and not (isinstance(self.model, Tower) and kwargs.get("pixel_values") is None):
            with paused(self.model):
                run_clean(self.model, self._passes, wanted, args, kwargs)

    def leave_pass(self, *_: Any) -> None:
        """Forget the pass when the model returns or fails (a forward hook)."""
        if not self._paused and not self.owner.excludes(Owner.now()):
            self._passes.leave()

    def _see_values(self, layer: int) -> Any:
        def see(v: Tensor, hook: Any) -> None:
            if not self._paused:
                self._passes.see_values(layer, v)

        return see

    def _see_resid(self, layer: int) -> Any:
        def see(resid: Tensor, hook: Any) -> None:
            if not self._paused:
                self._passes.see_resid(layer, resid)

        return see

    def _replace(self, layer: int, at: str) -> Any:
        def act(value: Tensor, hook: Any) -> Tensor | None:
            if self._paused:
                return None
            for index, intervention in enumerate(self.interventions):
                if intervention.at != at or layer not in intervention.in_layers:
                    continue
                site = self._passes.site(layer, value, self._references, at, index)
                mask = chosen(intervention, site)
                if not bool(mask.any()):
                    intervention.pass_over(site)
                    continue
                new = apply(intervention, site)
                self._fired[index][layer] += 1
                if not self._changed[index]:
                    self._changed[index] = _differs(
                        *(_chosen_part(one, intervention, site, mask) for one in (value, new))
                    )
                value = new
            return value

        return act


def _chosen_part(value: Tensor, intervention: Intervention, site: Site, mask: Tensor) -> Tensor:
    """Return what stands at the chosen queries of the intervention's heads, in any order."""
    part = own(intervention, replace(site, value=value))
    return part.transpose(1, 2)[mask] if POINTS[site.at].head_axis == 1 else part[mask]


@contextmanager
def intervene(
    model: Any,
    interventions: Intervention | Iterable[Intervention],
    batch: Batch | None = None,
    *,
    references: References | None = None,
) -> Iterator[Run]:
    """Apply interventions to every forward pass of a model inside the block.

    Interventions act in the order given; an inner block acts after an outer one. Whatever happens, the model is as
    before when the block is left. An exception from the block's body passes through untouched.

    Args:
        model: The bridge. Only the thread that entered the block may run it, and of the tasks of one event loop only
            the one that did; others are refused. If another thread is in a pass of the model, its end is waited for.
        interventions: One or several; none is allowed and changes nothing.
        batch: The prompts, if the model will be called directly and an intervention needs their spans or corrupted
            texts. Headscope's `forward` and `generate` make it known themselves.
        references: Reference runs to share between blocks while the weights stay as they are; None makes its own.

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
            raise BadOption(
                f"{intervention!r} is no intervention; make one with zero, mean, resample, uniform or scale."
            )
        intervention.check(model)
    with applied(Run(model, listed, batch, references)) as run:
        yield run


@contextmanager
def applied(run: Run) -> Iterator[Run]:
    """Hold a run's hooks in its model inside the block, and check on leaving that they acted; see `intervene`."""
    with ExitStack() as stack:
        if run.interventions:
            with turn(run.model):
                stack.enter_context(registered(run.model, run))
                run.prepare(run.batch)
                module = run.model.original_model
                stack.callback(module.register_forward_pre_hook(run.enter_pass, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(run.leave_pass, always_call=True).remove)
                stack.enter_context(run.model.hooks(fwd_hooks=run.hooks()))
        yield run
    run.check()


@contextmanager
def paused(model: Any) -> Iterator[None]:
    """Let forward passes inside the block run clean, whatever `intervene` blocks are open on the model."""
    runs: list[Run] = []
    try:
        for run in open_blocks(model):
            assert isinstance(run, Run)
            runs.append(run)
            run._paused += 1
        yield
    finally:
        for run in runs:
            run._paused -= 1


def _differs(old: Tensor, new: Tensor) -> bool:
    """Whether two tensors differ by more than the rounding of one run against another."""
    old, new = old.detach(), new.detach()
    bound = 4 * torch.finfo(old.dtype).eps * max(float(old.abs().max()), float(new.abs().max()))
    if not math.isfinite(bound):
        return not torch.equal(old, new)  # infinity is within any bound of its own
    return not bool(((old - new).abs() <= bound).all())
