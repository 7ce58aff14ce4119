"""Heads whose gain makes an answer more likely in every form of a conflict: the choice of heads that JUICE makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ...datasets.conflict import FORMS, as_form
from ...datasets.prompts import Prompt, PromptSet
from ...errors import BadOption, MissingData, nearest
from ...hooks.encode import Batch, encode
from ...hooks.heads import Head
from ...hooks.interventions import scale
from ...hooks.metrics import first_tokens
from ...hooks.sweep import sweep

Side = Literal["memory", "context"]
Progress = Callable[[int, int], None]

AMOUNTS = {"positive": (1.0, 3.0, 5.0, 10.0, 30.0), "negative": (-1.0, -2.0, -5.0)}
"""What is added of a head's own output, times the output: 1 doubles it, -1 removes it, -2 turns its sign."""
SUMMED = {"memory": FORMS, "context": ("substitution", "coherent")}
"""Forms of a conflict that count for each side; without a statement there is no context to answer from."""


def answer_probability(
    logits: Float[Tensor, "batch vocab"], batch: Batch, clean_logits: Tensor | None = None
) -> Float[Tensor, " batch"]:
    """Give the probability of the answer's first token, in [0, 1], for every prompt."""
    ids = first_tokens(batch, "answer").to(logits.device)
    return logits.float().softmax(-1).gather(1, ids[:, None])[:, 0]


def sides(prompt: Prompt) -> tuple[str, str]:
    """Return what the context says and what memory says: of answer and foil, the one only the conflict states is first.

    Raises:
        MissingData: The prompt lacks the forms of a conflict, or they do not tell its answers apart.
    """
    lacking = [form for form in FORMS if form not in prompt.variants]
    where = f"prompt {prompt.text[:40]!r}"
    if lacking:
        raise MissingData(f"{where} has no variant {lacking[0]!r}: a conflict needs {', '.join(FORMS)}.")
    stated = [
        answer
        for answer in (prompt.answer, prompt.foil)
        if answer.strip()
        and _says(prompt.variants["substitution"], answer)
        and not _says(prompt.variants["clean"], answer)
    ]
    if len(stated) != 1 or not (prompt.answer.strip() and prompt.foil.strip()):
        raise MissingData(
            f"{where}: of its answer {prompt.answer!r} and foil {prompt.foil!r}, exactly one must stand in the variant "
            "substitution and not in clean: that is what the context says."
        )
    context = stated[0]
    return context, prompt.foil if context == prompt.answer else prompt.answer


def _says(text: str, answer: str) -> bool:
    """Whether a text has the answer as whole words: `Germany` does not say `German`."""
    return re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", text) is not None


def asking(prompts: PromptSet, side: str) -> PromptSet:
    """Return the same items with the answer of one side as the right one, and the other as the foil.

    Raises:
        BadOption: The side is neither `memory` nor `context`.
        MissingData: See `sides`.
    """
    if side not in SUMMED:
        raise BadOption(f"side={side!r}: there is no such side.{nearest(side, SUMMED)}")
    made = []
    for prompt in prompts:
        context, memory = sides(prompt)
        wanted, other = (context, memory) if side == "context" else (memory, context)
        made.append(replace(prompt, answer=wanted, foil=other))
    return PromptSet(f"{prompts.name}-{side}", tuple(made))


def gains(
    model: Any,
    prompts: PromptSet,
    side: Side,
    amounts: Sequence[float],
    *,
    forms: Sequence[str] = FORMS,
    progress: Progress | None = None,
) -> Float[np.ndarray, "form example layer head"]:
    """Measure how much likelier an answer gets when more, or less, of one head's output is added.

    Formula: mean over amounts a of P(answer | x, attention + a·o_h) − P(answer | x), o_h = z_h·W_O at every position.
    Nothing before the head changes, so adding a times its output is the same as multiplying z by 1 + a.

    Args:
        model: The bridge.
        prompts: Conflicts with all forms.
        side: Whose answer is meant.
        amounts: The values of a.
        forms: Forms to measure, the first axis of the result.
        progress: Called with (steps done, all of them).
    """
    asked = asking(prompts, side)
    total = np.zeros((len(forms), len(prompts), int(model.cfg.n_layers), int(model.cfg.n_heads)))
    for i, form in enumerate(forms):
        batch = encode(model, as_form(asked, form))
        for j, amount in enumerate(amounts):
            effect = sweep(model, batch, answer_probability, partial(scale, gain=1 + amount))
            total[i] += effect.double().numpy() / len(amounts)
            if progress:
                progress(i * len(amounts) + j + 1, len(forms) * len(amounts))
    return total


def consistent(
    measured: Float[np.ndarray, "form example layer head"], tolerance: float = 0.0
) -> Float[np.ndarray, "example layer head"]:
    """Turn gains into scores per item: their sum over forms where the head helps in every form.

    A head helps in a form if its gain there, on the mean over items, is above −tolerance. One that does not help in
    some form gets its gain in the form where it is worst. So with the paper's tolerance, 0, the mean over items is
    above 0 for a consistent head, and for no other.

    Raises:
        BadOption: The tolerance is below 0.
    """
    if tolerance < 0:
        raise BadOption(f"tolerance={tolerance}: expected 0, as in the paper, or a small probability.")
    of_form = measured.mean(axis=1)  # form layer head
    worst = np.take_along_axis(measured, of_form.argmin(axis=0)[None, None], axis=0)[0]
    return np.where((of_form > -tolerance).all(axis=0), measured.sum(axis=0), worst)


@dataclass(frozen=True)
class JuiceLists:
    """The heads that JUICE boosts and those that it suppresses to make one side's answer likelier.

    Attributes:
        positive: Boost these: more of their output helps in every form, best first.
        negative: Suppress these: less of their output helps in every form, best first.
        table: One row per head: its gain in each form and its score, for both signs; `positive_rank` and
            `negative_rank` count from 1, 0 for a head that is in no list.
    """

    positive: tuple[Head, ...]
    negative: tuple[Head, ...]
    table: pd.DataFrame


@dataclass(frozen=True)
class JuiceGains:
    """What more, and what less, of every head does to one side's answer in each form of a conflict.

    Attributes:
        forms: First axis of `measured`.
        measured: By sign, `positive` and `negative`: what `gains` returns, [form, item, layer, head].
    """

    forms: tuple[str, ...]
    measured: dict[str, Float[np.ndarray, "form example layer head"]]

    def lists(self, *, k: int = 5, tolerance: float = 0.0) -> JuiceLists:
        """Choose the heads to act on.

        Args:
            k: Heads per list at most; the lists are shorter where fewer heads are consistent.
            tolerance: How much of the answer's probability a head may cost in a form and still count as helping there.
                0 is the paper's rule. In a small model a head does many things, so that one that decides a conflict
                costs a little elsewhere. Where a model is all but certain in a form, nothing can raise that
                probability, and no head is consistent by the paper's rule; items on which it is not certain help more
                than a tolerance, see `conflict(others=...)`.

        Raises:
            BadOption: The tolerance is below 0.
        """
        n_layers, n_heads = self.measured["positive"].shape[2:]
        layer, head = np.divmod(np.arange(n_layers * n_heads), n_heads)
        table = pd.DataFrame({"layer": layer, "head": head})
        chosen: dict[str, tuple[Head, ...]] = {}
        for sign, measured in self.measured.items():
            score = consistent(measured, tolerance).mean(axis=0).ravel()
            order = [cell for cell in np.argsort(-score, kind="stable") if score[cell] > 0][:k]
            chosen[sign] = tuple(Head(*map(int, divmod(cell, n_heads))) for cell in order)
            for form, values in zip(self.forms, measured.mean(axis=1), strict=True):
                table[f"{sign}_{form}"] = values.ravel()
            table[f"{sign}_score"] = score
            table[f"{sign}_rank"] = 0
            table.loc[order, f"{sign}_rank"] = range(1, len(order) + 1)
        return JuiceLists(chosen["positive"], chosen["negative"], table)


@torch.no_grad()
def juice_gains(
    model: Any, prompts: PromptSet, side: Side = "memory", *, progress: Progress | None = None
) -> JuiceGains:
    """Measure what JUICE chooses its heads by, Li et al. 2025 (arXiv:2503.10996); `.lists()` chooses.

    Args:
        model: The bridge.
        prompts: The selection set, conflicts with all forms; the authors use 4 items.
        side: Whose answer is to become likelier.
        progress: Called with (steps done, all of them).

    Raises:
        BadOption: There is no such side.
        MissingData: A prompt is no conflict.
    """
    forms = tuple(SUMMED.get(side, FORMS))
    steps = [len(forms) * len(amounts) for amounts in AMOUNTS.values()]
    measured = {}
    for number, (sign, amounts) in enumerate(AMOUNTS.items()):
        before = sum(steps[:number])
        told = None if progress is None else lambda done, _, b=before, p=progress: p(b + done, sum(steps))
        measured[sign] = gains(model, prompts, side, amounts, forms=forms, progress=told)
    return JuiceGains(forms, measured)
