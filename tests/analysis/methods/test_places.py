"""Previous-token, self and first-token attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import batch_of, check_pattern_method, random_patterns

from headscope.analysis.methods.places import first_token, previous_token, self_attention
from headscope.analysis.score import uniform_pattern

HAND = torch.tensor([[[[1.0, 0, 0], [0.8, 0.2, 0], [0.1, 0.3, 0.6]]]])


@pytest.mark.parametrize(
    "function, wanted",
    [
        (previous_token, (0.8 + 0.3) / 2),
        (self_attention, (1 + 0.2 + 0.6) / 3),
        (first_token, (1 + 0.8 + 0.1) / 3),
    ],
)
def test_hand_built_pattern_has_the_known_score(function, wanted):
    assert function(HAND, batch_of([[7, 8, 9]])).item() == pytest.approx(wanted)


def test_previous_token_is_the_mean_first_subdiagonal_whatever_padding_and_batch():
    check_pattern_method(
        previous_token, lambda a, own: float(np.mean([a[i, i - 1] for i in range(1, len(own))]))
    )


def test_self_is_the_mean_diagonal_whatever_padding_and_batch():
    check_pattern_method(self_attention, lambda a, own: float(np.mean([a[i, i] for i in range(len(own))])))


def test_first_token_is_the_mean_first_column_whatever_padding_and_batch():
    check_pattern_method(first_token, lambda a, own: float(np.mean([a[i, 0] for i in range(len(own))])))


def test_one_token_has_no_previous_one():
    assert torch.isnan(previous_token(torch.ones(1, 2, 1, 1), batch_of([[7]]))).all()


@pytest.mark.parametrize("function", [previous_token, self_attention, first_token])
def test_random_attention_scores_what_uniform_attention_does(function):
    batch = batch_of([list(range(1, 21))])
    chance = function(uniform_pattern(batch).double(), batch).item()
    found = function(random_patterns(1, 2000, 20), batch)
    assert found.mean().item() == pytest.approx(chance, abs=4 * found.std().item() / 2000**0.5)
