"""Bars with names: missing values say so, heads can be clicked, foreign text stays text."""

from __future__ import annotations

import numpy as np

from headscope.analysis.figures.bars import value_bars


def test_a_missing_value_is_not_run_and_not_zero() -> None:
    figure = value_bars(["a", "b"], [0.5, np.nan], low=[0.4, np.nan], high=[0.6, np.nan])
    (bar,) = figure.data
    assert list(bar.x) == [0.5, 0.0] and "not run" in bar.text[1]
    assert [note.text for note in figure.layout.annotations] == ["not run"]
    np.testing.assert_allclose(bar.error_x.array, [0.1, 0])


def test_heads_can_be_clicked_and_other_bars_cannot() -> None:
    figure = value_bars(["L1H2", "MLP 0"], [1, 2], heads=[(1, 2), None])
    assert [list(data) for data in figure.data[0].customdata] == [[1, 2], []]


def test_names_are_escaped_and_the_level_is_named() -> None:
    figure = value_bars(["<b>x</b>"], [1.0], name="<i>", level=0.25, level_name="chance")
    assert figure.layout.yaxis.ticktext == ("&lt;b&gt;x&lt;/b&gt;",)
    assert figure.layout.xaxis.title.text == "&lt;i&gt;"
    assert any(note.text == "chance 0.25" for note in figure.layout.annotations)


def test_it_has_a_dark_side() -> None:
    light, dark = (value_bars(["a"], [1.0], dark=side).layout.template.layout for side in (False, True))
    assert light.paper_bgcolor != dark.paper_bgcolor
