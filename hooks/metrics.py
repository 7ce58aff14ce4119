"""Numbers read from the next-token logits of a batch: one per prompt, each a plain function.

A metric is any function `(logits, batch, clean_logits) -> [batch]`. `logits` are those of each prompt's last
real position, which is where the answer's first token is predicted; `clean_logits` are the same logits of the
unchanged model, and only a metric that compares two runs looks at them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import MissingData, UnknownMetric, nearest

if TYPE_CHECKING:
    from .encode import Batch


class Metric(Protocol):
    """What every metric looks like; write a new one as a function of this form."""

    __name__: str

    def __call__(
        self,
        logits: Float[Tensor, "batch vocab"],
        batch: Batch,
        clean_logits: Float[Tensor, "batch vocab"] | None = None,
        /,
    ) -> Float[Tensor, " batch"]: ...


def logit_difference(
    logits: Float[Tensor, "batch vocab"],
    batch: Batch,
    clean_logits: Float[Tensor, "batch vocab"] | None = None,
) -> Float[Tensor, " batch"]:
    """Subtract the logit of the foil's first token from that of the answer's first token.

    Direction: above 0 the model prefers the answer. Shape and unit: one number per prompt, in logits.

    Raises:
        MissingData: a prompt has no answer or no foil, or both begin with the same token.
    """
    answer = first_tokens(batch, "answer").to(logits.device)
    foil = first_tokens(batch, "foil").to(logits.device)
    same = (answer == foil).nonzero().flatten().tolist()
    if same:
        raise MissingData(
            f"logit_difference: answer and foil of {_describe(batch, same)} begin with the same token, "
            "so their difference is always 0. Give a foil that differs in its first token."
        )
    rows = torch.arange(len(logits), device=logits.device)
    # Two half-precision logits differ by less than their own rounding step only where it is not rounded again.
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits[rows, answer].to(wide) - logits[rows, foil].to(wide)


def answer_logprob(
    logits: Float[Tensor, "batch vocab"],
    batch: Batch,
    clean_logits: Float[Tensor, "batch vocab"] | None = None,
) -> Float[Tensor, " batch"]:
    """Give the log-probability of the answer's first token.

    Direction: 0 is certainty, lower is less likely. Shape and unit: one number per prompt, in nats.

    Raises:
        MissingData: a prompt has no answer.
    """
    answer = first_tokens(batch, "answer").to(logits.device)
    return logits.float().log_softmax(-1).gather(-1, answer[:, None]).squeeze(-1)


def kl_to_clean(
    logits: Float[Tensor, "batch vocab"],
    batch: Batch,
    clean_logits: Float[Tensor, "batch vocab"] | None = None,
) -> Float[Tensor, " batch"]:
    """Measure how far the next-token distribution moved: KL(clean ‖ changed).

    Summed in float64: the divergence of a head that hardly matters is far below float32's rounding.
    Direction: 0 means unchanged, higher is further. Shape and unit: one number per prompt, in nats.

    Raises:
        MissingData: there are no clean logits to compare with.
    """
    if clean_logits is None:
        raise MissingData("kl_to_clean compares with the unchanged model: pass clean_logits as well.")
    clean = clean_logits.double().log_softmax(-1)
    changed = logits.double().log_softmax(-1)
    divergence = (clean.exp() * (clean - changed)).sum(-1)
    return divergence.clamp_min(0).to(torch.promote_types(logits.dtype, torch.float32))


def accuracy(
    logits: Float[Tensor, "batch vocab"],
    batch: Batch,
    clean_logits: Float[Tensor, "batch vocab"] | None = None,
) -> Float[Tensor, " batch"]:
    """Say whether the most likely next token is the answer's first token.

    Direction: 1 is right, 0 is wrong. Shape and unit: one 0 or 1 per prompt.

    Raises:
        MissingData: a prompt has no answer.
    """
    return (logits.argmax(-1) == first_tokens(batch, "answer").to(logits.device)).float()


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (logit_difference, answer_logprob, kl_to_clean, accuracy)
}


def get_metric(metric: str | Metric) -> Metric:
    """Look a metric up by name; a function is handed back as it is.

    Raises:
        UnknownMetric: no metric has this name; the message lists the nearest ones.
    """
    if callable(metric):
        return metric
    if metric not in METRICS:
        raise UnknownMetric(f"There is no metric {metric!r}.{nearest(metric, METRICS)}")
    return METRICS[metric]


def first_tokens(batch: Batch, field: str) -> Int[Tensor, " batch"]:
    """Give the first token of every prompt's `answer` or `foil`.

    Raises:
        MissingData: a prompt has none; the message names the first such prompts.
    """
    ids: Tensor = batch.answer_ids if field == "answer" else batch.foil_ids
    if ids.shape[1] == 0:
        ids = torch.full((len(batch), 1), -1)
    absent = (ids[:, 0] < 0).nonzero().flatten().tolist()
    if absent:
        raise MissingData(
            f"{_describe(batch, absent)} {'has' if len(absent) == 1 else 'have'} no {field}. "
            f"Give each Prompt its `{field}`, or choose a metric that needs none, such as kl_to_clean."
        )
    return ids[:, 0]


def _describe(batch: Batch, rows: list[int]) -> str:
    """Name up to three prompts by number and text."""
    shown = "; ".join(f"{row} ({batch.prompts[row].text[:40]!r})" for row in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"{'prompt' if len(rows) == 1 else 'prompts'} {shown}{more}"
