"""What the views of attention are given to draw."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from headscope.analysis.look_figures import gallery_figure, head_figure, lines_data, pair_figure, text_data
from headscope.analysis.looks import Looks, look
from headscope.hooks.heads import Head

HEAD = Head(0, 0)


def uniform(n, norms=None):
    pattern = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    return Looks(tuple(f"t{i} " for i in range(n)), 1, 1, None, pattern[None, None], norms)


def test_short_prompts_travel_whole_and_long_ones_as_one_row_and_column():
    data = text_data(uniform(4), HEAD, None)
    whole = np.frombuffer(base64.b64decode(data["whole"]), np.uint8).reshape(4, 4)
    assert whole[0, 0] == 255 and whole[3].tolist() == [64] * 4 and whole[0, 1] == 0
    assert (data["token"], data["chosen"]) == (3, False)
    data = text_data(uniform(300), HEAD, 1)
    assert "whole" not in data and data["chosen"]
    assert data["looks_at"][:3] == [0.5, 0.5, 0.0] and data["seen_by"][:3] == [0.0, 0.5, 0.3333]


def test_a_token_beyond_the_prompt_is_the_last_one():
    assert text_data(uniform(4), HEAD, 99)["token"] == 3


def test_weighted_attention_is_painted_as_a_share_of_its_largest_value():
    data = text_data(uniform(2, np.array([[[1.0, 8.0]]])), HEAD, 1, weighted=True)
    assert data["unit"] == 4.0
    assert np.frombuffer(base64.b64decode(data["whole"]), np.uint8).tolist() == [64, 0, 32, 255]


def test_lines_of_a_long_prompt_are_those_around_the_token():
    pattern = torch.eye(500)
    looks = Looks(tuple("x" * 500), 1, 2, None, pattern.expand(1, 2, -1, -1), None)
    data = lines_data(looks, [Head(0, 0), Head(0, 1)], 400)
    assert data["first"] == 320 and len(data["tokens"]) == 120
    assert [head["name"] for head in data["heads"]] == ["L0H0", "L0H1"]
    assert data["heads"][0]["lines"][0] == [320, 320, 1.0] and len(data["heads"][1]["lines"]) == 120
    assert lines_data(looks, [HEAD], None)["first"] == 380
    assert lines_data(looks, [HEAD], 3)["first"] == 0


def test_a_large_pattern_names_tokens_and_a_very_large_one_ranges():
    assert head_figure(uniform(60), HEAD).data[0].x[59] == "59 t59·"
    figure = head_figure(uniform(1000), HEAD)
    assert figure.data[0].z.shape == (256, 256)
    assert figure.data[0].x[1].startswith("3-6 t3")
    assert figure.data[0].z[0, 0] == 1 and np.isnan(figure.data[0].z[0, 5])
    assert figure.data[0].z[255, 0] == pytest.approx(1 / 997)


def test_the_scale_of_a_weighted_pattern_ends_at_its_largest_value():
    looks = uniform(2, np.array([[[1.0, 8.0]]]))
    assert head_figure(looks, HEAD, weighted=True).data[0].zmax == 4
    assert head_figure(looks, HEAD).data[0].zmax == 1


def test_every_view_of_a_real_model_can_be_drawn_dark_and_light(tiny):
    looks = look(tiny("qwen3"), "the cat found a red box")
    for dark in (False, True):
        assert gallery_figure(looks, Head(1, 1), dark=dark).layout.images
        assert pair_figure(looks, Head(1, 1), 3, 2, dark=dark).data
