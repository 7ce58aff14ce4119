"""Rows on demand are the rows of the model's own patterns, on every architecture."""

from __future__ import annotations

import pytest
import torch
from models import sentence

from headscope.errors import PromptTooLong
from headscope.hooks import rows as module
from headscope.hooks.capture import each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.rows import RowsDiffer, Scoring, read_rows


def own_patterns(model, text):
    found = {}
    each_pattern(
        model, encode(model, text), lambda layer, pattern: found.__setitem__(layer, pattern[0].clone())
    )
    return found


@pytest.mark.parametrize("chunk", [512, 7])
def test_every_row_of_every_head_is_the_models_own(any_model, chunk):
    text = sentence(30, seed=1)
    patterns = own_patterns(any_model, text)
    rows = read_rows(any_model, text, chunk=chunk)
    for layer, pattern in patterns.items():
        for head in range(len(pattern)):
            ours = rows.attention(layer, head)
            assert (ours - pattern[head]).abs().max() < 1e-5
            some = rows.attention(layer, head, [3, 29, 0])
            assert torch.allclose(some, ours[[3, 29, 0]], atol=1e-6)
            assert torch.allclose(some.sum(-1), torch.ones(3))


def test_soft_caps_and_sliding_windows_are_in_use_on_gemma(tiny):
    rows = read_rows(tiny("gemma2"), sentence(30, seed=1))
    assert {how.window for how in rows.scoring} == {None, 6}
    assert all(how.cap == 5.0 for how in rows.scoring)
    windowed = next(layer for layer, how in enumerate(rows.scoring) if how.window)
    assert (rows.attention(windowed, 0)[20, :15] == 0).all() and rows.attention(windowed, 0)[20, 15:21].all()


def test_query_heads_share_keys_and_values_in_order(tiny):
    rows = read_rows(tiny("llama"), sentence(5, seed=0))
    assert [rows.group(0, head) for head in range(4)] == [0, 0, 1, 1]
    assert rows.keys[0].shape[0] == rows.values[0].shape[0] == 2


def test_a_row_by_hand():
    rows = module.Rows(
        tokens=torch.tensor([0, 1]),
        queries=(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]),),
        keys=(torch.tensor([[[1.0, 5.0], [0.0, 5.0]]]),),
        values=(torch.zeros(1, 2, 2),),
        scoring=(Scoring(scale=0.5),),
    )
    e = torch.tensor(1.0).exp()
    assert torch.allclose(
        rows.attention(0, 0), torch.stack([torch.tensor([1.0, 0]), torch.stack([e, e / e]) / (e + 1)])
    )


def test_attention_that_is_something_else_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(module, "_scoring", lambda model, layer: Scoring(scale=0.123))
    with pytest.raises(RowsDiffer, match="layer 0"):
        read_rows(tiny("gpt2"), sentence(8, seed=0))


def test_a_prompt_that_does_not_fit_is_refused(tiny):
    with pytest.raises(PromptTooLong):
        read_rows(tiny("llama"), sentence(300, seed=0))


def test_the_models_hooks_and_results_are_as_before(tiny):
    model, text = tiny("qwen3"), sentence(9, seed=2)
    before = own_patterns(model, text)
    read_rows(model, text, chunk=4)
    after = own_patterns(model, text)
    assert all(torch.equal(before[layer], after[layer]) for layer in before)
