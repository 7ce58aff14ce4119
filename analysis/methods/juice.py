"""Memory and context heads: those whose gain makes one side of a knowledge conflict win in every form of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Literal

import numpy as np
import torch

from ...datasets.prompts import PromptSet
from ...errors import BadOption, MissingData, NoEffect
from ...hooks.capture import capture_z
from ...hooks.encode import Batch, encode
from ...hooks.forward import forward
from ...hooks.heads import Head, all_heads
from ...hooks.interventions import resample
from ...hooks.points import hook_name
from ...hooks.tokens import Codec
from ...hooks.turn import watching
from ..context.juice import AMOUNTS, SUMMED, Progress, Side, answer_probability, asking, consistent, gains
from ..direct import direct
from ..registry import Measured, method

PAPER = "Li et al. 2025, arXiv:2503.10996"
Sign = Literal["positive", "negative"]


@method(
    "juice-memory",
    data="knowledge-conflict",
    higher="more of the head's output makes the answer from memory likelier, in every form of the conflict",
    reference=PAPER,
    intervenes=True,
)
def juice_memory(
    model: Any,
    prompts: PromptSet,
    *,
    sign: Sign = "positive",
    tolerance: float = 0.0,
    progress: Progress | None = None,
) -> Measured:
    """Measure how much likelier the answer from memory gets with more of a head's output, with or against the context.

    Formula: s_c = mean over items and a of P(memory's answer | x_c, attention + a·o_h) − P(memory's answer | x_c), a in
        {1, 3, 5, 10, 30}, or {−1, −2, −5} for `sign="negative"`; o_h = z_h·W_O at every position; c is clean,
        substitution, coherent. The score is Σ_c s_c where every s_c > 0 (a consistent head), else the lowest s_c.
    Direction: above 0 the head is on JUICE's list: of heads to boost, or, for `sign="negative"`, to suppress. 0 and
        below: in some form it does not help, and it is on no list.
    Shape and unit: one number per item and head, a sum of differences of probabilities, in [−3, 3].
    Reference: Li et al. 2025, arXiv:2503.10996, and the authors' code. Certain (read in the code): the amounts, all
        positions, the consistency over the forms and the sum. They keep no number for heads that are not consistent;
        the lowest s_c is ours, so that those rank last; so is `tolerance` (see `JuiceGains.lists`), which is 0 as in
        the paper. They use 4 items, which is few: report other seeds. By this rule a form in which the model is certain
        of the answer already bars every head; `conflict(others=...)` writes items on which it is not.
    """
    return _juice(model, prompts, "memory", sign, tolerance, progress)


@method(
    "juice-context",
    data="knowledge-conflict",
    higher="more of the head's output makes the answer from the context likelier, in every form of the conflict",
    reference=PAPER,
    intervenes=True,
)
def juice_context(
    model: Any,
    prompts: PromptSet,
    *,
    sign: Sign = "positive",
    tolerance: float = 0.0,
    progress: Progress | None = None,
) -> Measured:
    """Measure how much likelier the answer from the context gets with more of a head's output.

    Formula: as for `juice-memory`, with the probability of what the context says, and c over substitution and coherent;
        `sign` and `tolerance` are those of `juice-memory` too.
    Direction: above 0 the head is on JUICE's list: of heads to boost, or, for `sign="negative"`, to suppress.
    Shape and unit: one number per item and head, a sum of differences of probabilities, in [−2, 2].
    Reference: Li et al. 2025, arXiv:2503.10996, and the authors' code, where the context's list sums the two forms of
        conflict. That consistency is asked of the same two forms is our reading: the clean form has no context to
        answer from.
    """
    return _juice(model, prompts, "context", sign, tolerance, progress)


def _juice(
    model: Any, prompts: PromptSet, side: Side, sign: Sign, tolerance: float, progress: Progress | None
) -> Measured:
    forms = SUMMED[side]
    measured = gains(model, prompts, side, AMOUNTS[sign], forms=forms, progress=progress)
    samples = consistent(measured, tolerance)
    of_form = measured.mean(axis=1)
    n_consistent = int((of_form > -tolerance).all(axis=0).sum())
    certain = [form for form, most in zip(forms, of_form.max(axis=(1, 2)), strict=True) if most < 1e-3]
    how = "added" if sign == "positive" else "taken away"
    notes = [
        f"Each head alone was changed: more of its output was {how}; a score is the effect of that.",
        f"{n_consistent} of {samples[0].size} heads help in every form ({', '.join(forms)}; tolerance {tolerance:g}); "
        "for the others the score is the gain in the form where they are worst.",
    ]
    if certain:
        notes.append(
            f"No head makes the answer likelier by 0.001 in the form {' and '.join(certain)}: where it is all but "
            "certain already, consistency has nothing to go by. Take items on which it is not, which "
            "conflict(others=8) writes, or a tolerance."
        )
    return Measured(samples, np.zeros(len(prompts)), tuple(notes))


@method(
    "ph3",
    data="knowledge-conflict",
    higher="the head's direct path to the logits carries this side of the conflict, at the cost of the other",
    reference="Jin et al. 2024, arXiv:2402.18154",
    alternative="two-sided",
    intervenes=True,
    per_prompt=True,
    passes=lambda n_heads, options: n_heads + 2,
)
def ph3(
    model: Any,
    prompts: PromptSet,
    *,
    side: Literal["memory", "context"] = "memory",
    mlps: Literal["kept", "run"] = "kept",
    progress: Progress | None = None,
) -> Measured:
    """Measure what a head's direct path to the logits does for one side of a conflict and against the other.

    Formula: (ΔP(other) − ΔP(side)) / (P(side) + P(other)), P the probability of a side's first answer token on the
        prompt, ΔP its change when the head's output, on the direct path to the last norm only, is replaced by what the
        head writes on the `corrupted` text, in which neither answer is right.
    Direction: above 0 the head speaks for the side: without its path, the side loses and the other gains. A memory head
        has a high score for `memory`, a context head for `context`; one score is minus the other.
    Shape and unit: one number per prompt and head, without unit; 0 for a head that writes the same on both texts. NaN
        rows for prompts whose `corrupted` text is missing or has another number of tokens.
    Reference: Jin et al. 2024, arXiv:2402.18154 (PH3). FROM MEMORY: that path patching with a corrupted prompt is used
        and that importance joins a rise and a fall is what we remember; the exact formula is not confirmed, and the
        common denominator is ours (it bounds the score where one side is all but certain). Whether MLPs are part of a
        direct path is not confirmed either: path patching as Wang et al. 2022 (arXiv:2211.00593) describe it lets them
        run, TransformerLens' direct paths do not, so both are there.
        TransformerLens' `get_act_patch_direct_path` is not called, because its paths end in a later head's query, key
        or value, and none ends in the logits. Sure is, by a test of two heads into every later one, that `hooks.graph`
        gives what it gives on the paths that both know, and that on the path to the logits `hooks.graph` gives what
        this does.

    Args:
        model: The bridge.
        prompts: Conflicts with `corrupted` texts of as many tokens.
        side: The side that a head is asked about.
        mlps: `kept`: only the last norm sees the change, see `analysis.direct`. `run`: so do later MLPs, while all
            other heads keep their clean values.
        progress: Called with (heads done, all of them).

    Raises:
        BadOption: `mlps` is neither.
        MissingData: No prompt has such a text, or one is no conflict.
    """
    if mlps not in ("kept", "run"):
        raise BadOption(f"mlps={mlps!r}: expected kept or run.")
    rows = _paired(model, prompts)
    paired = PromptSet(prompts.name, tuple(prompts[row] for row in rows))
    others = asking(paired, "context" if side == "memory" else "memory")
    batches = [encode(model, asking(paired, side)), encode(model, others)]
    heads = all_heads(model)
    samples = np.full((len(prompts), int(model.cfg.n_layers), int(model.cfg.n_heads)), np.nan)

    def probabilities() -> list[torch.Tensor]:
        logits = forward(model, batches[0], logits_at="last")[:, 0]
        return [answer_probability(logits, batch).double().cpu() for batch in batches]

    with torch.no_grad():
        own, other = probabilities()
        held = _Held(model, batches[0]) if mlps == "run" else None
        for done, head in enumerate(heads, 1):
            # One head may well write the same on both texts, as far as half precision tells.
            with suppress(NoEffect), held.but(head) if held else direct(model, resample((head,)), batches[0]):
                changed = probabilities()
            effect = ((changed[1] - other) - (changed[0] - own)) / (own + other)
            samples[rows, head.layer, head.index] = effect.numpy()
            if progress:
                progress(done, len(heads))
    notes = [
        f"Each head's direct path to the logits, with MLPs {mlps}, was given what the head writes on the corrupted "
        "text; the formula is from memory of the paper, not read there.",
    ]
    if lacking := len(prompts) - len(rows):
        notes.append(
            f"{lacking} of {len(prompts)} prompts have no corrupted text of as many tokens and do not count."
        )
    return Measured(samples, np.where(np.isin(range(len(prompts)), rows), 0.0, np.nan), tuple(notes))


class _Held:
    """Keeps heads at what they hand over on a clean batch, but one, which hands over what it does on the corrupted."""

    def __init__(self, model: Any, batch: Batch):
        self.model, self.clean = model, capture_z(model, batch)
        self.corrupted = capture_z(model, batch.corrupted())

    def but(self, head: Head) -> AbstractContextManager[None]:
        """Hold the heads of this layer and of all later ones inside the block; earlier ones are clean by themselves."""

        def hold(layer: int) -> Callable[..., torch.Tensor]:
            z = self.clean[layer].clone()
            if layer == head.layer:
                z[:, :, head.index] = self.corrupted[layer][:, :, head.index]
            return lambda value, hook: z

        later = range(head.layer, len(self.clean))
        return watching(self.model, [(hook_name(self.model, layer, "z"), hold(layer)) for layer in later])


def _paired(model: Any, prompts: PromptSet) -> list[int]:
    """Return the rows whose corrupted text has as many tokens as the text.

    Raises:
        MissingData: There are none.
    """
    codec = Codec.of(model)
    rows = [
        row
        for row, prompt in enumerate(prompts)
        if prompt.corrupted
        and len(codec.tokens(prompt.text, f"prompt {row}").ids)
        == len(codec.tokens(prompt.corrupted, f"corrupted text of prompt {row}").ids)
    ]
    if not rows:
        raise MissingData(
            f"{prompts.name}: no prompt has a corrupted text of as many tokens as its text, so there is nothing to "
            "give a head instead of what it writes."
        )
    return rows
