"""Metrics: hand-made logits with known answers, and errors that name the prompt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from headscope.datasets.prompts import Prompt
from headscope.errors import MissingData, UnknownMetric
from headscope.hooks.metrics import (
    METRICS,
    accuracy,
    answer_logprob,
    get_metric,
    kl_to_clean,
    logit_difference,
)


class HandMade:
    """The part of a Batch that metrics read."""

    def __init__(self, answers: list[int], foils: list[int]):
        self.answer_ids = torch.tensor(answers)[:, None]
        self.foil_ids = torch.tensor(foils)[:, None]
        self.prompts = tuple(Prompt(text=f"prompt number {index}") for index in range(len(answers)))

    def __len__(self) -> int:
        return len(self.prompts)


def batch(answers: list[int], foils: list[int]) -> Any:
    return HandMade(answers, foils)


LOGITS = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])


def test_logit_difference_is_answer_minus_foil() -> None:
    found = logit_difference(LOGITS, batch([1, 1], [0, 0]))
    assert found.tolist() == pytest.approx([math.log(3), -math.log(4)])


def test_answer_logprob_is_in_nats() -> None:
    found = answer_logprob(LOGITS, batch([1, 1], [0, 0]))
    assert found.tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 5)])


def test_accuracy_asks_for_the_first_answer_token() -> None:
    assert accuracy(LOGITS, batch([1, 1], [0, 0])).tolist() == [1.0, 0.0]


def test_kl_has_the_value_of_its_formula_and_the_right_direction() -> None:
    changed = LOGITS.flip(1)
    clean, other = [1 / 4, 3 / 4], [3 / 4, 1 / 4]
    expected = sum(p * math.log(p / q) for p, q in zip(clean, other, strict=True))
    assert float(kl_to_clean(changed, batch([1, 1], [0, 0]), LOGITS)[0]) == pytest.approx(expected)


def test_kl_is_zero_for_equal_logits_and_ignores_a_shift() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 20
    any_batch = batch([0, 0, 0], [1, 1, 1])
    assert torch.equal(kl_to_clean(logits, any_batch, logits), torch.zeros(3))
    assert kl_to_clean(logits + 5, any_batch, logits).max() < 1e-9


def test_kl_of_a_tiny_change_keeps_its_digits() -> None:
    # For a small change d of the logits, KL is half the variance of d under the clean distribution.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1000, generator=generator, dtype=torch.float64)
    step = torch.randn(1, 1000, generator=generator, dtype=torch.float64) * 1e-5
    weight = logits.softmax(-1)
    variance = (weight * step**2).sum() - (weight * step).sum() ** 2
    found = kl_to_clean(logits + step, batch([0], [1]), logits)
    assert float(found) == pytest.approx(float(variance / 2), rel=1e-3)


def test_kl_needs_clean_logits() -> None:
    with pytest.raises(MissingData, match="clean_logits"):
        kl_to_clean(LOGITS, batch([1, 1], [0, 0]))


@pytest.mark.parametrize("metric", [logit_difference, answer_logprob, accuracy])
def test_a_missing_answer_is_named(metric: Any) -> None:
    with pytest.raises(MissingData, match=r"prompt 1 \('prompt number 1'\) has no answer"):
        metric(LOGITS, batch([1, -1], [0, 0]))


def test_a_missing_foil_is_named() -> None:
    with pytest.raises(MissingData, match="prompts 0 .* and 1 more have no foil"):
        logit_difference(torch.zeros(4, 2), batch([1] * 4, [-1] * 4))


def test_an_answer_that_begins_like_its_foil_is_refused() -> None:
    with pytest.raises(MissingData, match="prompt 1 .* begin with the same token"):
        logit_difference(LOGITS, batch([1, 1], [0, 1]))


def test_metrics_are_found_by_name_and_wrong_names_list_the_nearest() -> None:
    assert all(get_metric(name) is function for name, function in METRICS.items())
    assert get_metric(accuracy) is accuracy
    with pytest.raises(UnknownMetric, match="Nearest: kl_to_clean"):
        get_metric("kl_to_cleen")
