"""What a causal check measures: one number per prompt, of the model as it is changed."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import Prompt, PromptSet
from ..errors import MissingData, UnknownMetric, nearest
from ..hooks.encode import Batch, encode
from ..hooks.forward import forward
from ..hooks.generate import generate
from ..hooks.intervene import intervene
from ..hooks.interventions import Intervention
from ..hooks.metrics import METRICS, Metric

Measure = Callable[[Any, PromptSet, Sequence[Intervention]], Float[np.ndarray, " prompt"]]

_ROWS = 32  # prompts in one forward pass


@dataclass(frozen=True)
class Outcome:
    """A measurement of a changed model: call it with model, prompts and interventions.

    Attributes:
        name: What tables and figures call it.
        measure: Returns one number per prompt.
    """

    name: str
    measure: Measure

    def __call__(
        self, model: Any, prompts: PromptSet, interventions: Sequence[Intervention] = ()
    ) -> Float[np.ndarray, " prompt"]:
        return np.asarray(self.measure(model, prompts, interventions), dtype=np.float64)


def needle_accuracy() -> Outcome:
    """Measure whether greedy decoding writes the whole answer, token by token, right after the prompt.

    Direction: 1 is right, 0 is wrong. Shape and unit: 0 or 1 per prompt; the mean is the share of right answers.
    """

    def measure(model: Any, prompts: PromptSet, interventions: Sequence[Intervention]) -> np.ndarray:
        wanted = _answers(model, prompts)
        longest = max(len(ids) for ids in wanted)
        written = generate(model, prompts, interventions=interventions, max_new_tokens=longest)
        return np.array(
            [float(one.tokens[: len(ids)] == ids) for one, ids in zip(written, wanted, strict=True)]
        )

    return Outcome("needle_accuracy", measure)


def needle_recall(*, max_new_tokens: int = 50, stop: str | None = "\n") -> Outcome:
    """Measure how many of the answer's words the greedy continuation contains, in any order.

    Direction: 1 means all of them. Shape and unit: a share in [0, 1] per prompt, see `word_recall`.
    Reference: Wu et al. 2024, arXiv:2404.15574, who measure ROUGE-1 recall in this way.
    """

    def measure(model: Any, prompts: PromptSet, interventions: Sequence[Intervention]) -> np.ndarray:
        _answers(model, prompts)
        written = generate(
            model, prompts, interventions=interventions, max_new_tokens=max_new_tokens, stop=stop
        )
        return np.array([word_recall(one.prompt.answer, one.text) for one in written])

    return Outcome("needle_recall", measure)


def word_recall(answer: str, text: str) -> float:
    """Return the share of the answer's words that the text contains, each as often as it stands there at most.

    This is ROUGE-1 recall without stemming: case and punctuation are ignored, `walks` does not match `walked`.
    NaN for an answer without words.

    >>> word_recall("red blue", "It is Red.")
    0.5
    """
    wanted, found = (Counter(re.findall(r"\w+", part.lower())) for part in (answer, text))
    return (wanted & found).total() / wanted.total() if wanted else float("nan")


def of_metric(metric: Metric) -> Outcome:
    """Turn a metric of next-token logits into an outcome: one forward pass, read at each prompt's last token.

    The encoded prompts, and the clean logits that some metrics compare with, are made at the first call and kept, so
    that an outcome belongs to one model and one prompt set.
    """
    kept: list[tuple[Batch, Float[Tensor, "batch vocab"]]] = []

    @torch.no_grad()
    def measure(model: Any, prompts: PromptSet, interventions: Sequence[Intervention]) -> np.ndarray:
        if not kept:
            for start in range(0, len(prompts), _ROWS):
                batch = encode(model, prompts[start : start + _ROWS])
                kept.append((batch, forward(model, batch, logits_at="last")[:, 0]))
        values = []
        with intervene(model, interventions):
            for batch, clean in kept:
                changed = forward(model, batch, logits_at="last")[:, 0] if interventions else clean
                values.append(metric(changed, batch, clean).double().cpu().numpy())
        return np.concatenate(values)

    return Outcome(metric.__name__, measure)


OUTCOMES: dict[str, Callable[[], Outcome]] = {
    "needle_accuracy": needle_accuracy,
    "needle_recall": needle_recall,
}


def as_outcome(metric: str | Metric | Outcome | Measure) -> Outcome:
    """Read what the user calls a metric: a name, a function of logits, or a function of the changed model.

    Raises:
        UnknownMetric: There is no metric of this name; the nearest names are given.
    """
    if isinstance(metric, Outcome):
        return metric
    if isinstance(metric, str):
        if metric in OUTCOMES:
            return OUTCOMES[metric]()
        if metric in METRICS:
            return of_metric(METRICS[metric])
        raise UnknownMetric(f"{metric}: no such metric.{nearest(metric, [*METRICS, *OUTCOMES])}")
    if not callable(metric):
        raise UnknownMetric(f"{metric!r} is neither a metric's name nor a function.")
    name = getattr(metric, "__name__", type(metric).__name__)
    if next(iter(inspect.signature(metric).parameters), "") == "model":
        return Outcome(name, metric)  # pyright: ignore[reportArgumentType]
    return of_metric(metric)  # pyright: ignore[reportArgumentType]


def _answers(model: Any, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Return each prompt's answer tokens."""
    lacking = [index for index, prompt in enumerate(prompts) if not prompt.answer]
    if lacking:
        raise MissingData(
            f"prompt {lacking[0]} ({prompts[lacking[0]].text[:40]!r}) has no answer to look for; "
            "give every prompt its `answer`."
        )
    return [tuple(i for i in row if i >= 0) for row in encode(model, prompts).answer_ids.tolist()]
