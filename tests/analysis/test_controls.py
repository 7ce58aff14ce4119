"""Random heads that chosen heads are compared with."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from headscope.analysis.controls import draw_controls
from headscope.errors import BadOption
from headscope.hooks.heads import Head

GRID = [Head(layer, index) for layer in range(4) for index in range(6)]
TOP = (Head(2, 1), Head(0, 3), Head(2, 5))


def _draw(top=TOP, pool=GRID, kind="same-layers", draws=5, seed=0):
    return draw_controls(top, pool, kind, draws=draws, rng=np.random.default_rng(seed))


def test_same_layers_keeps_the_layer_histogram():
    sets, notes = _draw()
    assert len(sets) == 5 and not notes
    for heads in sets:
        assert Counter(head.layer for head in heads) == {2: 2, 0: 1}


@pytest.mark.parametrize("kind", ["same-layers", "anywhere"])
def test_no_chosen_head_is_drawn_and_no_set_twice(kind):
    sets, _ = _draw(kind=kind, draws=20)
    assert len(set(sets)) == 20
    assert not set(TOP) & {head for heads in sets for head in heads}
    assert all(len(set(heads)) == 3 for heads in sets)


def test_anywhere_reaches_every_layer():
    sets, _ = _draw(kind="anywhere", draws=50)
    assert {head.layer for heads in sets for head in heads} == {0, 1, 2, 3}


def test_heads_outside_the_pool_are_never_drawn():
    pool = [head for head in GRID if head.index < 4]
    sets, _ = _draw(pool=pool, kind="anywhere", draws=50)
    assert {head for heads in sets for head in heads} <= set(pool)


def test_same_seed_same_heads():
    assert _draw(seed=1) == _draw(seed=1) != _draw(seed=2)


def test_a_layer_with_too_few_heads_borrows_from_its_neighbours_and_says_so():
    top = tuple(Head(2, index) for index in range(4))
    sets, notes = _draw(top=top)
    for heads in sets:
        layers = Counter(head.layer for head in heads)
        assert layers[2] == 2 and layers[1] == 2
    assert notes == [
        "k=4, same-layers: 2 of 4 heads come from neighbouring layers, because too few others are left in the "
        "layers of the chosen heads."
    ]


def test_too_few_heads_for_a_control_are_reported_not_hidden():
    sets, notes = _draw(pool=[Head(0, 0), Head(0, 1)])
    assert sets == [] and notes == ["k=3, same-layers: not run, only 2 heads are left to draw from."]


def test_fewer_sets_than_draws_are_reported():
    sets, notes = _draw(top=(Head(0, 0),), pool=[Head(0, 1), Head(0, 2)])
    assert sorted(sets) == [(Head(0, 1),), (Head(0, 2),)]
    assert "2 of 5 draws, because no more than 2 different sets exist" in notes[0]
    (note,) = _draw(top=(Head(0, 0),), pool=[Head(0, 1)])[1]
    assert note.endswith("1 of 5 draws, because no more than 1 different set exists.")


def test_an_unknown_control_names_the_nearest():
    with pytest.raises(BadOption, match=r"same-layer: no such control\. Nearest: same-layers"):
        _draw(kind="same-layer")
