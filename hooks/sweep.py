"""Measure the exact effect of changing every head, one head at a time, in about one pass through the model.

The obvious way runs the whole model once per head. Here each layer's clean input is kept, a changed run starts in
the layer of its head, and the changed runs of many heads move through the later layers together: a wave that grows
by one layer's heads at a time. The result is that of the plain loop, `sweep_one_by_one`, to float32's rounding. A run
that changes nothing travels along and must arrive at the clean logits; where it does not, or where a model's blocks
cannot be run one by one, the plain loop is taken and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadOption, NoEffect
from .blocks import Unsupported
from .encode import Batch
from .forward import forward
from .heads import Head, all_heads, parse_heads
from .hidden import final_hidden
from .intervene import intervene
from .metrics import Metric, get_metric
from .references import References
from .turn import turn
from .wave import Kind, Wave

Progress = Callable[[int, int], None]

WORKING_BYTES = 32 * 2**20
"""What the largest activations of one wave may take on a CPU: more leaves the caches and gets slower, not faster."""
WORKING_BYTES_ON_DEVICE = 2**30


def sweep(
    model: Any,
    batch: Batch,
    metric: str | Metric,
    kind: Kind,
    *,
    heads: Any = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "example layer head"]:
    """Change one head at a time and measure what that does to a metric.

    Formula: metric(changed) - metric(clean), for every prompt and head, all other heads left alone.
    Direction: that of the metric; 0 means that the head does not matter here. For `kl_to_clean`, whose clean value is
    0, the result is the divergence itself.
    Shape and unit: `[example, layer, head]`, in the metric's unit, float32 on the CPU; NaN where a head was not run.

    Args:
        model: The bridge, without hooks of its own and outside any `intervene` block.
        batch: Encoded prompts, padded on either side.
        metric: A metric's name or function; it reads the logits at each prompt's last real position.
        kind: What to do to a head: a function from heads to an intervention, such as `zero`, `uniform`,
            `partial(scale, gain=2.0)` or `partial(mean, reference=prompts)`.
        heads: Heads to change, in any form `parse_heads` reads; None for all.
        chunk: How many changed sequences run at once; None chooses what fits the processor's caches. It bounds memory
            and never changes a result beyond rounding.
        progress: Called with (changed sequences done, all of them) after every chunk.

    Raises:
        UnknownHead, UnknownMetric: the model has no such head; there is no such metric.
        BadOption: the model has hooks, `heads` is empty, or `chunk` is not positive.
        MissingData: a prompt lacks what the metric needs.
        NoEffect: no head's output changed on any prompt, for example because a span is empty.
        NonFinite: a changed run gave NaN or infinite logits; the message names its head.
    """
    metric = get_metric(metric)
    wanted, batch = _checked(model, batch, heads, chunk)
    try:
        return _sweep_in_waves(
            model, batch, metric, kind, wanted, chunk or choose_chunk(model, batch), progress
        )
    except Unsupported as reason:
        _warn_slower(model, reason)
        return sweep_one_by_one(model, batch, metric, kind, heads=wanted, progress=progress)


@torch.no_grad()
def _sweep_in_waves(
    model: Any,
    batch: Batch,
    metric: Metric,
    kind: Kind,
    wanted: Sequence[Head],
    chunk: int,
    progress: Progress | None,
) -> Float[Tensor, "example layer head"]:
    """Do the work of `sweep` after its arguments are checked."""
    effects = torch.full((len(batch), int(model.cfg.n_layers), int(model.cfg.n_heads)), torch.nan)
    for run in _each_change(model, batch, kind, wanted, chunk, progress):
        clean, part = run.wave.clean_logits, run.wave.batch
        if run.head == wanted[0]:
            before = metric(clean, part, clean)
        effect = metric(run.logits, part, clean) - before
        effects[run.rows, run.head.layer, run.head.index] = effect.to(effects)
    return effects


class _Change(NamedTuple):
    """One head changed on some prompts: rows of the batch, and what the model then gives for them."""

    rows: slice
    head: Head
    logits: Float[Tensor, "row vocab"]
    hidden: Float[Tensor, "row d_model"]
    wave: Wave


def _each_change(
    model: Any, batch: Batch, kind: Kind, wanted: Sequence[Head], chunk: int, progress: Progress | None
) -> Iterator[_Change]:
    """Run every changed sequence once, and refuse at the end if nothing was changed."""
    references = References(model)
    done, changed = 0, False
    for first in range(0, len(batch), chunk):
        rows = slice(first, min(first + chunk, len(batch)))
        part = batch.rows(rows)
        wave = Wave(model, part, kind, references)
        per_chunk = _even_split(len(wanted), max(1, chunk // len(part)))
        for start in range(0, len(wanted), per_chunk):
            some = wanted[start : start + per_chunk]
            logits = wave.run(some, check=start == 0)
            for head, one, hidden in zip(some, logits, wave.hidden, strict=True):
                yield _Change(rows, head, one, hidden, wave)
            done += len(some) * len(part)
            if progress:
                progress(done, len(wanted) * len(batch))
        changed = changed or wave.changed
    _refuse_no_effect(changed, kind, wanted, batch)


@torch.no_grad()
def sweep_hidden(
    model: Any,
    batch: Batch,
    kind: Kind,
    *,
    heads: Any = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "head example d_model"]:
    """Change one head at a time and return what the model would unembed at each prompt's last real position.

    That is the hidden state after the last block and the final norm. `sweep` says what the arguments mean and what is
    raised; `hidden.final_hidden` gives the same of the unchanged model. All results are held at once, so on a large
    model ask for the heads of one layer at a time.

    Shape and unit: the asked heads in order of layer and index; float32 on the CPU.
    """
    wanted, batch = _checked(model, batch, heads, chunk)
    found: Tensor | None = None
    try:
        place = {head: index for index, head in enumerate(wanted)}
        for run in _each_change(model, batch, kind, wanted, chunk or choose_chunk(model, batch), progress):
            if found is None:
                found = torch.empty(len(wanted), len(batch), run.hidden.shape[-1])
            found[place[run.head], run.rows] = run.hidden.to(found)
    except Unsupported as reason:
        _warn_slower(model, reason)
        shared = References(model)
        runs = (final_hidden(model, batch, [kind((head,))], references=shared) for head in wanted)
        return torch.stack(list(runs))
    assert found is not None
    return found


def _checked(model: Any, batch: Batch, heads: Any, chunk: int | None) -> tuple[list[Head], Batch]:
    """Read the heads and refuse what no sweep can do."""
    wanted = sorted(all_heads(model) if heads is None else parse_heads(heads, model))
    if not wanted:
        raise BadOption(
            "sweep was given no heads; name at least one, such as L0H0, or leave `heads` out for all."
        )
    if chunk is not None and chunk < 1:
        raise BadOption(f"chunk is {chunk}: at least one changed sequence has to run at a time.")
    _refuse_hooks(model)
    return wanted, batch.to(model.cfg.device)


def _warn_slower(model: Any, reason: Unsupported) -> None:
    warnings.warn(
        f"sweep runs {model.cfg.model_name} once per head, which is slower: {reason}.",
        RuntimeWarning,
        stacklevel=3,
    )


def sweep_one_by_one(
    model: Any,
    batch: Batch,
    metric: str | Metric,
    kind: Kind,
    *,
    heads: Any = None,
    progress: Progress | None = None,
) -> Float[Tensor, "example layer head"]:
    """Give what `sweep` gives by one whole forward pass per head: slow, and plain enough to hold `sweep` against.

    Args: as for `sweep`.
    """
    metric = get_metric(metric)
    wanted = sorted(all_heads(model) if heads is None else parse_heads(heads, model))
    effects = torch.full((len(batch), int(model.cfg.n_layers), int(model.cfg.n_heads)), torch.nan)
    changed = False
    with torch.no_grad():
        clean = forward(model, batch, logits_at="last")[:, 0]
        before = metric(clean, batch, clean)
        for count, head in enumerate(wanted):
            logits = clean
            # One head may well change nothing; that none does is the mistake.
            with suppress(NoEffect), intervene(model, [kind((head,))], batch):
                logits = forward(model, batch, logits_at="last")[:, 0]
            changed = changed or not torch.equal(logits, clean)
            effects[:, head.layer, head.index] = (metric(logits, batch, clean) - before).to(effects)
            if progress:
                progress((count + 1) * len(batch), len(wanted) * len(batch))
    _refuse_no_effect(changed, kind, wanted, batch)
    return effects


def choose_chunk(model: Any, batch: Batch) -> int:
    """Choose how many sequences of this batch's width run at once, from the size of their largest activations."""
    cfg, width = model.cfg, batch.tokens.shape[1]
    mlp = int(getattr(cfg, "d_mlp", None) or 4 * cfg.d_model)
    per_sequence = 4 * width * (mlp + 4 * int(cfg.d_model)) + 8 * int(cfg.n_heads) * width**2
    on_cpu = torch.device(cfg.device).type == "cpu"
    return max(1, (WORKING_BYTES if on_cpu else WORKING_BYTES_ON_DEVICE) // per_sequence)


def _even_split(n: int, most: int) -> int:
    """Choose the size of pieces no longer than `most` so that they are about equally long."""
    n_pieces = -(-n // most)
    return -(-n // n_pieces)


def _refuse_no_effect(changed: bool, kind: Kind, wanted: Sequence[Head], batch: Batch) -> None:
    """Refuse to report a sweep in which nothing was swept."""
    intervention = kind((wanted[0],))
    if not (changed or intervention.is_identity):
        raise NoEffect(
            f"{intervention} and its like changed no head's output on any of {len(batch)} prompts. "
            "Check its positions and span, and that the corrupted texts differ."
        )


def _refuse_hooks(model: Any) -> None:
    """Make sure that nothing changes the model from outside while it is measured."""
    with turn(model):  # hooks of another thread's pass are gone after it
        hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    if hooked:
        raise BadOption(
            f"sweep measures single changes of an unchanged model, but {hooked[0]} has a hook on it"
            f"{f' and {len(hooked) - 1} others' if len(hooked) > 1 else ''}. "
            "Leave the `intervene` block first, or call model.reset_hooks()."
        )
