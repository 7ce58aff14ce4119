"""Duplicate-token and induction attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import batch_of, check_pattern_method, random_patterns

from headscope.analysis.methods.repeats import duplicate_token, induction
from headscope.analysis.score import uniform_pattern


def _copies(own: list[int], i: int) -> list[int]:
    return [j for j in range(i) if own[j] == own[i]]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def test_a_head_that_looks_behind_the_last_copy_is_an_induction_head():
    # a b a c a: the last query repeats a; what followed it last time is c, before that b.
    batch = batch_of([[5, 6, 5, 7, 5]])
    pattern = torch.zeros(1, 2, 5, 5)
    pattern[:, :, 0, 0] = pattern[:, :, 1, 1] = pattern[:, :, 3, 3] = 1
    pattern[:, :, 2, 1] = 1  # b followed the first a
    pattern[:, 0, 4, 3] = 1  # head 0 looks at c, head 1 still at b
    pattern[:, 1, 4, 1] = 1
    assert induction(pattern, batch).tolist() == [[1.0, 0.5]]
    assert induction(pattern, batch, earlier="all").tolist() == [[1.0, 1.0]]


def test_a_head_that_looks_at_copies_is_a_duplicate_token_head():
    batch = batch_of([[5, 6, 5, 5]])
    pattern = torch.zeros(1, 1, 4, 4)
    pattern[0, 0, 0, 0] = pattern[0, 0, 1, 1] = 1
    pattern[0, 0, 2, 0] = 1
    pattern[0, 0, 3] = torch.tensor([0.25, 0.25, 0.25, 0.25])
    assert duplicate_token(pattern, batch).item() == pytest.approx((1 + 0.5) / 2)


def test_a_doubled_token_is_its_own_induction_target():
    pattern = torch.tensor([[[[1.0, 0], [0.3, 0.7]]]])
    assert induction(pattern, batch_of([[5, 5]])).item() == pytest.approx(0.7)


@pytest.mark.parametrize("function", [induction, duplicate_token])
def test_a_prompt_that_repeats_nothing_has_no_score(function):
    assert torch.isnan(function(random_patterns(1, 2, 4), batch_of([[1, 2, 3, 4]]))).all()


def test_duplicate_token_equals_a_loop_whatever_padding_and_batch():
    check_pattern_method(
        duplicate_token,
        lambda a, own: _mean(
            [sum(a[i, j] for j in _copies(own, i)) for i in range(len(own)) if _copies(own, i)]
        ),
    )


def test_induction_equals_a_loop_whatever_padding_and_batch():
    check_pattern_method(
        induction,
        lambda a, own: _mean([a[i, _copies(own, i)[-1] + 1] for i in range(len(own)) if _copies(own, i)]),
    )


def test_induction_over_all_copies_equals_a_loop_whatever_padding_and_batch():
    check_pattern_method(
        induction,
        lambda a, own: _mean(
            [sum(a[i, j + 1] for j in _copies(own, i)) for i in range(len(own)) if _copies(own, i)]
        ),
        earlier="all",
    )


@pytest.mark.parametrize("function", [induction, duplicate_token])
def test_random_attention_scores_what_uniform_attention_does(function):
    batch = batch_of([[1, 2, 3, 4, 5, 6] * 3])
    chance = function(uniform_pattern(batch).double(), batch).item()
    found = function(random_patterns(1, 2000, 18), batch)
    assert found.mean().item() == pytest.approx(chance, abs=4 * found.std().item() / 2000**0.5)
