"""Views of attention, against the model's own patterns and value vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import sentence

from headscope.analysis import looks as module
from headscope.analysis.looks import Looks, look
from headscope.errors import BadOption
from headscope.hooks.capture import each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.heads import Head
from headscope.hooks.rows import RowsDiffer


def by_hand(pattern, norms=None, tokens="abcdefgh"):
    pattern = torch.tensor(pattern)[None, None]
    return Looks(tuple(tokens[: pattern.shape[-1]]), 1, 1, None, pattern, norms)


def test_value_weighted_attention_is_attention_times_the_length_of_what_is_written(any_model):
    text = sentence(12, seed=3)
    looks = look(any_model, text)
    kept = {}

    def keep(layer):
        return lambda value, hook: kept.__setitem__(layer, value[0].detach())

    patterns = {}
    with any_model.hooks(fwd_hooks=[(f"blocks.{i}.attn.hook_v", keep(i)) for i in range(3)]):
        each_pattern(any_model, encode(any_model, text), lambda i, p: patterns.__setitem__(i, p[0].clone()))
    for layer in range(3):
        values = kept[layer]  # pos kv_head d_head
        weight = any_model.blocks[layer].attn.W_O
        for head in range(4):
            shared = values[:, head * values.shape[1] // 4]
            written = (shared @ weight[head]).norm(dim=-1).detach()
            expected = (patterns[layer][head] * written).numpy()
            found = looks.pattern(Head(layer, head), weighted=True)
            assert np.allclose(found, expected, atol=1e-4)


def test_a_pair_multiplies_out_to_its_score_and_the_softmax_to_the_pattern(any_model):
    looks = look(any_model, sentence(10, seed=4))
    pair = looks.pair(Head(1, 2), 9, 5)
    how = looks.rows.scoring[1]
    score = how.scale * pair.product.sum()
    score = score if how.cap is None else how.cap * np.tanh(score / how.cap)
    assert pair.score == pytest.approx(score, rel=1e-4)
    assert pair.attention == pytest.approx(looks.pattern(Head(1, 2))[9], abs=1e-6)
    assert np.isneginf(looks.pair(Head(1, 2), 3, 5).score)


def test_thumbnails_keep_the_largest_value_of_each_patch():
    pattern = np.zeros((8, 8), dtype=np.float32)
    pattern[5, 2], pattern[4, 3], pattern[7, 7] = 0.9, 0.4, 0.3
    small = by_hand(pattern).thumbnails(4)[0, 0]
    assert (
        small[2, 1] == np.float32(0.9)
        and small[3, 3] == np.float32(0.3)
        and small.sum() == pytest.approx(1.2)
    )


def test_thumbnails_of_short_prompts_are_the_patterns(tiny):
    looks = look(tiny("llama"), sentence(9, seed=0))
    assert np.array_equal(looks.thumbnails(48)[2, 1], looks.pattern(Head(2, 1)))


@pytest.mark.parametrize("n", [61, 300])
def test_thumbnails_made_in_blocks_equal_those_of_whole_patterns(n):
    pattern = np.random.default_rng(0).random((n, n), dtype=np.float32)
    small = by_hand(pattern, tokens="x" * n).thumbnails(48)[0, 0]
    edge = [i * n // 48 for i in range(48)] + [n]
    for i, j in [(0, 0), (17, 30), (47, 47)]:
        assert small[i, j] == pattern[edge[i] : edge[i + 1], edge[j] : edge[j + 1]].max()


def test_lines_are_the_strongest_looks_in_order():
    lines = by_hand(np.array([[1, 0], [0.3, 0.7]], dtype=np.float32)).lines(Head(0, 0), at_least=0.5)
    assert [(line.query, line.key) for line in lines] == [(0, 0), (1, 1)]
    assert len(by_hand(np.ones((8, 8), dtype=np.float32)).lines(Head(0, 0), most=5)) == 5


def test_who_looks_at_a_token_is_a_column():
    pattern = np.array([[1, 0], [0.3, 0.7]], dtype=np.float32)
    assert by_hand(pattern).seen_by(Head(0, 0), 0) == pytest.approx([1, 0.3])


def test_models_whose_rows_cannot_be_computed_show_whole_patterns(tiny, monkeypatch):
    text, expected = sentence(9, seed=5), look(tiny("gpt2"), sentence(9, seed=5))

    def differ(*_):
        raise RowsDiffer("attention has a sink")

    monkeypatch.setattr(module, "read_rows", differ)
    looks = look(tiny("gpt2"), text)
    assert np.allclose(looks.pattern(Head(2, 3)), expected.pattern(Head(2, 3)), atol=1e-6)
    assert np.allclose(looks.pattern(Head(2, 3), [4, 8]), expected.pattern(Head(2, 3), [4, 8]), atol=1e-6)
    with pytest.raises(BadOption, match="cannot be taken apart"):
        looks.pair(Head(0, 0), 1, 1)
    with pytest.raises(BadOption, match="plain attention"):
        looks.pattern(Head(0, 0), weighted=True)
    monkeypatch.setattr(module, "_MOST_WHOLE", 5)
    with pytest.raises(BadOption, match="attention has a sink.*at most 5 tokens; this prompt has 10"):
        look(tiny("gpt2"), text)


def test_a_token_that_is_not_there_is_refused(tiny):
    with pytest.raises(BadOption, match="key 10: the prompt has tokens 0-9"):
        look(tiny("gpt2"), sentence(9, seed=5)).pair(Head(0, 0), 1, 10)


def test_the_keys_that_a_token_looks_at_most_are_none_that_it_cannot_see():
    looks = by_hand([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.1, 0.6]])
    table = looks.top_keys(Head(0, 0), 2)
    pairs = list(zip(table["query"], table["key"], strict=True))
    assert pairs == [(0, 0), (1, 1), (1, 0), (2, 2), (2, 0)]
    assert table["weight"].tolist() == pytest.approx([1, 1, 0, 0.6, 0.3])
