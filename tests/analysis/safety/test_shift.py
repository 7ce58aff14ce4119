"""Principal angles: against scipy, against hand-built spaces, and where the cosine alone fails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from headscope.analysis.safety.shift import leading_directions, principal_angles


def drawn(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_angles_are_those_of_scipy(rank: int) -> None:
    one, two = (leading_directions(drawn(9, 20, seed), rank) for seed in (0, 1))
    found = principal_angles(one, two)
    # With rank 5 of 9 a direction is shared; scipy's angle there is its rounding, 2e-8.
    assert np.allclose(found, np.sort(subspace_angles(one, two)), atol=1e-7)
    assert (found >= 0).all() and (found <= np.pi / 2).all() and (np.diff(found) >= 0).all()


def test_hand_built_angles_come_back_at_every_size() -> None:
    for angle in (0.0, 1e-12, 1e-9, 1e-4, 0.5, np.pi / 4, np.pi / 2 - 1e-10, np.pi / 2):
        one = np.array([[1.0], [0.0], [0.0]])
        two = np.array([[np.cos(angle)], [np.sin(angle)], [0.0]])
        assert principal_angles(one, two)[0] == pytest.approx(angle, abs=1e-15, rel=1e-6)


def test_a_shared_direction_and_a_turned_one() -> None:
    one = np.eye(4)[:, :2]
    two = np.stack([np.eye(4)[0], np.array([0, np.cos(0.3), np.sin(0.3), 0])], axis=1)
    assert np.allclose(principal_angles(one, two), [0, 0.3])
    assert np.allclose(principal_angles(one, np.eye(4)[:, 2:]), np.pi / 2)


def test_sign_scale_and_basis_change_nothing() -> None:
    hidden = drawn(8, 16, 2)
    one, two = leading_directions(hidden, 3), leading_directions(drawn(8, 16, 3), 3)
    angles = principal_angles(one, two)
    turn = np.linalg.qr(drawn(3, 3, 4))[0]
    for other in (-two, two @ turn, two * [1, -1, 1]):
        assert np.allclose(principal_angles(one, other), angles, atol=1e-12)
    for factor in (-3.0, 1e-6, 1e6):
        same = leading_directions(factor * hidden, 3)
        assert np.allclose(principal_angles(one, same), 0, atol=1e-12)
    width = np.linalg.qr(drawn(16, 16, 5))[0]
    assert np.allclose(principal_angles(one, leading_directions(hidden @ width, 3)), 0, atol=1e-12)
