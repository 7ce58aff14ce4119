"""The grid of small patterns and the figure of a pair of tokens."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from headscope.analysis.figures import DARK, LIGHT, neuron_figure, pattern_gallery
from headscope.analysis.figures.png import png_address, shades


def pixels(address: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.array(image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def test_a_picture_has_the_colours_it_was_given():
    levels = np.array([[0, 1], [2, 1]])
    colours = [(0, 0, 0), (10, 200, 30), (255, 255, 255)]
    found = pixels(png_address(levels, colours, zoom=2))
    assert found.shape == (4, 4, 3)
    assert (found[0, 0] == 0).all() and tuple(found[1, 3]) == (10, 200, 30) and (found[3, 1] == 255).all()


def test_shades_begin_and_end_at_their_colours():
    found = shades(LIGHT.sequential)
    assert len(found) == 255 and found[0] == (0xF2, 0xF5, 0xF7) and found[-1] == (0x1B, 0x2F, 0x66)


@pytest.mark.parametrize("dark", [False, True])
def test_a_head_with_all_attention_is_the_strongest_colour_in_its_own_cell(dark):
    small = np.zeros((2, 3, 8, 8))
    small[1, 2] = 1
    picture = pixels(pattern_gallery(small, dark=dark).layout.images[0].source)
    cell = picture.shape[0] // 2
    theme = DARK if dark else LIGHT
    strong, weak = shades(theme.sequential)[-1], shades(theme.sequential)[0]
    middle = lambda layer, head: tuple(picture[layer * cell + cell // 2, head * cell + cell // 2])  # noqa: E731
    assert middle(1, 2) == strong
    assert {middle(0, 0), middle(0, 2), middle(1, 1)} == {weak}


def test_every_cell_answers_a_click_with_its_head():
    figure = pattern_gallery(np.zeros((2, 3, 4, 4)), selected=(1, 0))
    targets = figure.data[-1]
    assert [tuple(pair) for pair in targets.customdata] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [(x, y) for x, y in zip(targets.x, targets.y, strict=True)][3] == (0, 1)
    frame = figure.layout.shapes[0]
    assert frame.x0 < 0 < frame.x1 and frame.y0 < 1 < frame.y1


def test_the_pair_is_among_the_keys_however_little_it_is_looked_at():
    n = 200
    attention = np.linspace(0, 1, n)
    figure = neuron_figure(
        np.ones(4), np.ones(4), np.zeros(n), attention, ["t"] * n, query_position=199, key_position=3
    )
    bars = figure.data[2]
    assert len(bars.x) == 61 and bars.x[0] == "3 t" and bars.x[-1] == "199 t"
    hidden = np.where(np.arange(n) > 5, -np.inf, 0.0)
    bars = neuron_figure(
        np.ones(4), np.ones(4), hidden, attention, ["t"] * n, query_position=5, key_position=3
    ).data[2]
    assert len(bars.x) == 6
