"""Entropy and distance of attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from batches import batch_of, check_pattern_method

from headscope.analysis.methods.spread import entropy, qk_distance
from headscope.analysis.score import uniform_pattern


def test_hand_built_pattern_has_the_known_spread():
    pattern = torch.tensor([[[[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]]])
    batch = batch_of([[7, 8, 9]])
    row = 0.5 * math.log(4) + 0.5 * math.log(2)
    assert entropy(pattern, batch).item() == pytest.approx((math.log(2) + row) / 3)
    assert qk_distance(pattern, batch).item() == pytest.approx((0.5 + 0.25 * 2 + 0.25) / 3)


def test_entropy_equals_a_loop_whatever_padding_and_batch():
    check_pattern_method(
        entropy, lambda a, own: float(np.mean([-sum(p * math.log(p) for p in row if p > 0) for row in a]))
    )


def test_distance_equals_a_loop_whatever_padding_and_batch():
    check_pattern_method(
        qk_distance,
        lambda a, own: float(
            np.mean([sum(a[i, j] * abs(i - j) for j in range(len(own))) for i in range(len(own))])
        ),
    )


def test_uniform_attention_has_the_highest_entropy_and_looks_half_way_back():
    n = 12
    batch = batch_of([list(range(1, n + 1))])
    uniform = uniform_pattern(batch).double()
    assert entropy(uniform, batch).item() == pytest.approx(np.mean(np.log(np.arange(1, n + 1))))
    assert qk_distance(uniform, batch).item() == pytest.approx(np.mean(np.arange(n) / 2))
