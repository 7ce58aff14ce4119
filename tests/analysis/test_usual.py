"""Activity by a plain loop, whatever the padding; examples from every part of it, by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import sentence

from headscope.analysis.usual import Activity, activity, draw, examples
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption
from headscope.hooks.encode import encode
from headscope.hooks.heads import Head

PROMPTS = PromptSet("some", tuple(Prompt(" " + sentence(n, n)) for n in (9, 4, 13, 6, 11)))


def test_activity_is_the_largest_weighted_look_without_the_first_token(any_model: Any) -> None:
    found = activity(any_model, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        kept: dict[str, torch.Tensor] = {}
        batch = encode(any_model, prompt)
        names = [f"blocks.{layer}.attn.{point}" for layer in range(3) for point in ("hook_pattern", "hook_v")]
        hooks = [
            (name, lambda value, hook, name=name, kept=kept: kept.__setitem__(name, value[0].detach()))
            for name in names
        ]
        with torch.no_grad(), any_model.hooks(fwd_hooks=hooks):
            any_model(batch.tokens)
        for layer in range(3):
            pattern, v = (kept[f"blocks.{layer}.attn.{point}"] for point in ("hook_pattern", "hook_v"))
            for head in range(4):
                out = any_model.blocks[layer].attn.W_O[head].detach()
                best = (-1.0, 0, 0)
                for q in range(1, len(v)):
                    for k in range(1, q + 1):
                        size = float((v[k, head * v.shape[1] // 4] @ out).norm())
                        best = max(best, (float(pattern[head, q, k]) * size, q, k))
                assert found.strength[row, layer, head] == pytest.approx(best[0], rel=1e-4, abs=1e-6)
                assert (found.query[row, layer, head], found.key[row, layer, head]) == best[1:]


def test_a_prompt_of_one_token_has_no_activity(tiny: Any) -> None:
    found = activity(tiny("qwen3"), [Prompt("a"), Prompt(" the cat")])  # no BOS: one token
    assert np.isnan(found.strength[0]).all() and np.isfinite(found.strength[1]).all()
    drawn = examples(tiny("qwen3"), found, Head(0, 0))
    assert [one.index for one in drawn] == [1]


def test_examples_come_from_every_part_and_follow_the_seed(tiny: Any) -> None:
    model = tiny("llama")
    found = activity(model, PROMPTS)
    drawn = examples(model, found, Head(1, 2), parts=2, per_part=1, seed=0)
    assert [one.part for one in drawn] == [2, 1] and all(one.n_parts == 2 for one in drawn)
    assert drawn[0].strength > drawn[1].strength
    for one in drawn:
        assert len(one.tokens) == len(one.attention) and one.attention.sum() == pytest.approx(1, abs=1e-5)
        assert "".join(one.tokens).endswith(PROMPTS[one.index].text)
    again = examples(model, found, Head(1, 2), parts=2, per_part=1, seed=0)
    assert [one.index for one in again] == [one.index for one in drawn]
    chosen = {tuple(i for *_, i in draw(found.strength[:, 1, 2], 2, 1, seed)) for seed in range(20)}
    assert len(chosen) > 1


def test_parts_are_equal_and_every_prompt_can_be_drawn() -> None:
    strength = np.random.default_rng(0).permutation(100).astype(float)
    drawn = list(draw(strength, 10, 10, seed=3))
    assert sorted(index for *_, index in drawn) == list(range(100))
    for part, n_parts, index in drawn:
        assert n_parts == 10 and strength[index] // 10 == part - 1


def test_fewer_prompts_than_parts_and_no_prompt_at_all() -> None:
    assert [part for part, *_ in draw(np.array([2.0, 1.0]), 10, 3, seed=0)] == [2, 1]
    assert list(draw(np.array([np.nan]), 10, 1, seed=0)) == []


def test_no_parts_are_refused(tiny: Any) -> None:
    empty = Activity(np.zeros((0, 3, 4)), np.zeros((0, 3, 4), int), np.zeros((0, 3, 4), int), PROMPTS[:0])
    with pytest.raises(BadOption, match="expected 1 or more"):
        examples(tiny("gpt2"), empty, Head(0, 0), parts=0)
