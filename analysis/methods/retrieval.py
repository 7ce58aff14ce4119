"""Retrieval heads: those that look at the needle's token while the model writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...datasets.prompts import Prompt, PromptSet
from ...errors import HookNeverFired, MissingData
from ...hooks.encode import encode
from ...hooks.generate import Generation, Step, check_lengths, generate
from ...hooks.sweep import Progress
from ...hooks.turn import watching
from ..outcomes import word_recall
from ..registry import Measured, method
from ..scores import HeadScores

THRESHOLD = 0.1  # from here on the paper calls a head a retrieval head
_EDGES = (0.1, 0.5)
_ROWS = 16  # prompts that are continued together


def recalls_half(prompt: Prompt, text: str) -> bool:
    """Accept a case if the written text has more than half of the answer's words (see `word_recall`).

    The authors use ROUGE-1 recall with stemming; without it, an inflected form of a word does not count.
    """
    return word_recall(prompt.answer, text) > 0.5


@method(
    "retrieval",
    data="needle",
    higher="copies the needle's tokens into the answer",
    reference="Wu et al. 2024, arXiv:2404.15574",
    metric="needle_accuracy",
    phase="decode",
    per_prompt=True,
)
def retrieval(
    model: Any,
    prompts: PromptSet,
    *,
    form: Literal["paper", "code"] = "paper",
    span: str = "needle",
    accept: Callable[[Prompt, str], bool] = recalls_half,
    max_new_tokens: int = 50,
    stop: str | None = "\n",
    progress: Progress | None = None,
) -> Measured:
    """Measure how much of the needle each head copies during greedy decoding.

    A head copies at step t if the key it attends to most, in the row that predicts the new token w_t, lies in the
    needle and holds the token w_t.

    Formula: `form="paper"`: |needle positions copied at any step| / |needle positions|. `form="code"`, as the authors
        compute it: (number of copying steps) / |needle positions|, where a position copied twice counts twice.
        Then the mean over the accepted prompts.
    Direction: 1 means that the head copied the whole needle; 0.1 and above is called a retrieval head.
    Shape and unit: a share per prompt and head, in [0, 1] for the paper's form; the code's form may exceed 1. NaN rows
        for prompts that `accept` rejects, because where nothing was retrieved no head can have retrieved it.
        Chance is a head whose strongest key is any of the real tokens with equal probability.
    Reference: Wu et al. 2024, arXiv:2404.15574, eq. 1, and the authors' code. The equation speaks of sets of tokens;
        we count positions, so that a word that stands twice in the needle has to be copied twice. The span comes from
        the prompt; the authors find it by word overlap.

    Args:
        model: The bridge.
        prompts: Each with the span and an `answer`.
        form: See the formula.
        span: Name of the span that holds the needle's words.
        accept: Says of a prompt and the text written for it whether the case counts.
        max_new_tokens: Longest text written.
        stop: Text that ends the writing.
        progress: Called with the number of prompts done and of all after every batch.

    Raises:
        MissingData: A prompt lacks the span or the answer.
        HookNeverFired: A layer shows no attention row while decoding.
        PromptTooLong: A prompt with its answer would not fit the context.
    """
    for index, prompt in enumerate(prompts):
        lacks = f"span {span!r}" if not prompt.spans.get(span) else "answer" if not prompt.answer else ""
        if lacks:
            raise MissingData(
                f"{prompts.name}[{index}] ({prompt.text[:40]!r}) has no {lacks}: retrieval needs it."
            )
    watch = _Copies(model, span)
    hooks = [(f"blocks.{layer}.attn.hook_pattern", watch.row(layer)) for layer in range(watch.n_layers)]
    check_lengths(model, encode(model, prompts), max_new_tokens)
    written: list[Generation] = []
    for start in range(0, len(prompts), _ROWS):
        some = prompts[start : start + _ROWS]
        with watching(model, hooks):
            written += generate(model, some, max_new_tokens=max_new_tokens, stop=stop, on_step=watch)
        if progress:
            progress(len(written), len(prompts))
    samples, chance = watch.shares(form)
    accepted = np.array([bool(accept(one.prompt, one.text)) for one in written])
    samples[~accepted] = np.nan
    chance[~accepted] = np.nan
    name = getattr(accept, "__name__", "accept")
    rule = f"more than half of the answer's words were written, {name}" if accept is recalls_half else name
    notes = [
        f"{accepted.sum()} of {len(accepted)} prompts were accepted ({rule}); "
        f"{(~accepted).sum()} were rejected and count for nothing."
    ]
    if accepted.any():
        values = np.nanmean(samples, axis=0)
        n_found = int((values >= THRESHOLD).sum())
        counted = buckets(HeadScores(values, None, "retrieval"))
        classes = "; ".join(
            f"{name}: {n}" for name, n in zip(counted["bucket"], counted["heads"], strict=True)
        )
        notes.append(
            f"{n_found} of {values.size} heads score {THRESHOLD} or more: retrieval heads. Heads by score, {classes}."
        )
    return Measured(samples, chance, tuple(notes))


def buckets(scores: HeadScores) -> pd.DataFrame:
    """Count heads by the paper's classes of score: 0, (0, 0.1), [0.1, 0.5), [0.5, 1].

    Returns:
        Columns `bucket`, `heads`, `share` (of the heads that were run). Scores above 1, which the code's form allows,
        fall into the last class.
    """
    values = scores.values[np.isfinite(scores.values)]
    low, high = _EDGES
    counts = {
        "0": int((values <= 0).sum()),
        f"(0, {low})": int(((values > 0) & (values < low)).sum()),
        f"[{low}, {high})": int(((values >= low) & (values < high)).sum()),
        f"[{high}, 1]": int((values >= high).sum()),
    }
    share = [count / len(values) if len(values) else float("nan") for count in counts.values()]
    return pd.DataFrame({"bucket": list(counts), "heads": list(counts.values()), "share": share})


class _Copies:
    """Collects copy events while `generate` runs, from one attention row a step; no pattern is kept."""

    def __init__(self, model: Any, span: str) -> None:
        self.n_layers = int(model.cfg.n_layers)
        self._name = str(model.cfg.model_name)
        self._span = span
        self._best: dict[int, tuple[Int[Tensor, "batch head"], int]] = {}
        self._done: list[_Batch] = []

    def row(self, layer: int) -> Callable[[Tensor, Any], None]:
        """Return the hook that notes each head's strongest key in a decoding step."""

        def note(pattern: Tensor, hook: Any) -> None:
            if pattern.shape[-2] == 1:  # longer ones are the prefill
                self._best[layer] = (pattern[:, :, 0].argmax(-1), pattern.shape[-1])

        return note

    def __call__(self, step: Step) -> None:
        missing = sorted(set(range(self.n_layers)) - set(self._best))
        if missing:
            raise HookNeverFired(
                f"{self._name}: hook_pattern of layers {missing} did not fire while decoding."
            )
        if step.index == 0:
            self._done.append(_Batch(step, self._span))
        width = step.batch.tokens.shape[1] + step.index
        # A sliding window drops the oldest keys, so columns are counted from the right.
        columns = [best + (width - n_keys) for best, n_keys in map(self._best.get, range(self.n_layers))]  # pyright: ignore
        self._done[-1].see(torch.stack(columns, dim=1), step)
        self._best.clear()

    def shares(self, form: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples `[prompt, layer, head]` and the chance level `[prompt]`."""
        parts = [batch.shares(form) for batch in self._done]
        samples, chance = (torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True))
        return samples, chance


class _Batch:
    """The needle positions of one batch, and how often each head copied each of them."""

    def __init__(self, step: Step, span: str) -> None:
        batch = step.batch
        self._needle: Bool[Tensor, "batch pos"] = batch.spans[span]
        self._length = self._needle.sum(1)
        # Needle positions are numbered from 0, so that counts need no column for the rest of the prompt.
        self._number = (self._needle.cumsum(1) - 1).clamp_min(0)
        self._copies: Int[Tensor, "batch layer head needle_pos"] | None = None
        shape = (len(batch), int(self._length.max()))
        self._missed = torch.ones(shape, dtype=torch.float64, device=batch.tokens.device)
        self._expected = torch.zeros(shape, dtype=torch.float64, device=batch.tokens.device)

    def see(self, columns: Int[Tensor, "batch layer head"], step: Step) -> None:
        """Count the copies of one step; `columns` are the strongest keys."""
        tokens, written = step.batch.tokens, step.next_tokens.to(step.batch.tokens.device)
        columns = columns.to(tokens.device)
        # Written tokens stand behind the prompt's and are no part of the needle.
        right = self._needle & (tokens == written[:, None]) & step.alive[:, None]
        inside = columns < tokens.shape[1]
        column = columns.clamp_max(tokens.shape[1] - 1)
        flat = column.flatten(1)
        hit = (right.gather(1, flat).view_as(column) & inside).long()
        if self._copies is None:
            self._copies = hit.new_zeros(*hit.shape, self._missed.shape[1])
        self._copies.scatter_add_(-1, self._number.gather(1, flat).view_as(column)[..., None], hit[..., None])

        n_keys = (step.batch.lengths + step.index).double()
        chance = right.double() / n_keys[:, None]
        per_place = torch.zeros_like(self._missed).scatter_add_(1, self._number, chance)
        self._missed *= 1 - per_place
        self._expected += per_place

    def shares(self, form: str) -> tuple[Tensor, Tensor]:
        assert self._copies is not None, "no step ran"
        length = self._length[:, None, None]
        if form == "code":
            return self._copies.sum(-1) / length, self._expected.sum(-1) / self._length
        return (self._copies > 0).sum(-1) / length, (1 - self._missed).sum(-1) / self._length
