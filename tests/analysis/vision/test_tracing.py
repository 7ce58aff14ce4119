"""Causal tracing: by plain patched runs, of everything at once, and with numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headscope.analysis.figures.tracing import tracing_figure
from headscope.analysis.vision.tracing import COMPONENTS, GROUPS, Tracing, noised, token_groups, trace
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, MissingData
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


@pytest.fixture(scope="module")
def prompts():
    image = {"image": "scene:1:red-circle@4,blue-star@0", "boxes": {"object": ((16, 16, 32, 32),)}}
    return PromptSet(
        "mine",
        (
            Prompt("the red box saw a cat near the fox", " dog", spans={"word": ((4, 11),)}, **image),
            Prompt("a gold ring on the", " cat", spans={"word": ((2, 11),)}, **image),
        ),
    )


@pytest.fixture(scope="module")
def seed(llava, prompts):
    """Of a noise that takes something from both answers; a random model's may also gain."""
    for seed in range(50):
        if (trace(llava, prompts[:1], sigma=1.5, min_gap=1e-9, seed=seed).gaps > 1e-4).all() and (
            trace(llava, prompts[1:], sigma=1.5, min_gap=1e-9, seed=seed + 1).gaps > 1e-4
        ).all():
            return seed
    raise AssertionError("no noise takes something from both answers")


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_token_but_the_first_is_in_one_group(llava, prompts, side):
    batch = encode(llava, prompts, padding_side=side)
    groups = token_groups(batch)
    assert tuple(groups) == GROUPS
    total = sum(mask.int() for mask in groups.values())
    real = batch.attention_mask.bool()
    first = batch.positions == 0
    assert (total[real & ~first] == 1).all() and (total[~real | first] == 0).all()
    own = {name: mask[0][real[0]] for name, mask in groups.items()}
    words = [llava.tokenizer.convert_ids_to_tokens(int(i)) for i in batch.tokens[0][real[0]]]
    assert [word for word, here in zip(words, own["textual object"], strict=True) if here] == ["red", "box"]
    assert [word for word, here in zip(words, own["late textual"], strict=True) if here] == [
        "saw",
        "a",
        "cat",
        "near",
        "the",
    ]
    assert int(own["object visual"].sum()) in (1, 4) and own["last token"].nonzero().item() == len(words) - 1


def _probability(model, batch):
    logits = forward(model, batch, logits_at="last")[:, 0].double()
    return logits.softmax(-1).gather(1, batch.answer_ids[:, :1])[:, 0].numpy()


@torch.no_grad()
def test_plain_patched_runs_agree(llava, prompts, seed):
    found = trace(llava, prompts, sigma=1.5, min_gap=1e-9, seed=seed)
    for row, prompt in enumerate(prompts):
        clean = encode(llava, [prompt])
        corrupt = noised(clean, 1.5, [seed + row])
        p_clean, p_noised = _probability(llava, clean)[0], _probability(llava, corrupt)[0]
        assert found.gaps[row] == pytest.approx(p_clean - p_noised, abs=1e-6)
        for component, point in enumerate(COMPONENTS.values()):
            for layer in (1,):
                name, kept = f"blocks.{layer}.{point}", {}
                with llava.hooks(
                    fwd_hooks=[(name, lambda x, hook, kept=kept: kept.__setitem__(0, x.clone()))]
                ):
                    forward(llava, clean)
                for group, mask in enumerate(token_groups(clean).values()):

                    def patch(x, hook, kept=kept, mask=mask):
                        x[0, mask[0]] = kept[0][0, mask[0]]
                        return x

                    with llava.hooks(fwd_hooks=[(name, patch)]):
                        p_patch = _probability(llava, corrupt)[0]
                    wanted = (p_patch - p_noised) / (p_clean - p_noised)
                    assert found.rates[row, component, layer, group] == pytest.approx(
                        wanted, rel=1e-2, abs=1e-2
                    )


@torch.no_grad()
def test_restoring_the_whole_stream_brings_everything_back_and_the_last_layers_last_token_too(
    llava, prompts, seed
):
    found = trace(llava, prompts, sigma=1.5, min_gap=1e-9, seed=seed)
    kept = np.isfinite(found.rates[:, 2, 2, 6])
    assert kept.all() and np.allclose(found.rates[kept, 2, 2, 6], 1, atol=1e-2)
    clean = encode(llava, list(prompts))
    corrupt, kept = noised(clean, 1.5, [seed, seed + 1]), {}
    with llava.hooks(fwd_hooks=[("blocks.0.hook_in", lambda x, hook: kept.__setitem__(0, x.clone()))]):
        wanted = _probability(llava, clean)
    with llava.hooks(fwd_hooks=[("blocks.0.hook_in", lambda x, hook: kept[0])]):
        assert np.allclose(_probability(llava, corrupt), wanted, atol=1e-7)


def test_noise_belongs_to_the_prompt_and_not_to_its_batch(llava, prompts):
    batch = encode(llava, list(prompts))
    both, second = noised(batch, 1.0, [1, 2]), noised(encode(llava, [prompts[1]]), 1.0, [2])
    assert torch.equal(both.images[1].tensors["pixel_values"], second.images[0].tensors["pixel_values"])
    assert not torch.equal(both.images[0].tensors["pixel_values"], batch.images[0].tensors["pixel_values"])


def test_prompts_with_a_small_gap_are_dropped_and_counted(llava, prompts):
    found = trace(llava, prompts, sigma=1.5, min_gap=0.999)
    assert found.dropped == 2 and np.isnan(found.rates).all()
    assert found.notes[0].startswith("2 of 2 prompts were dropped")
    assert found.table().recovery.isna().all() and (found.table().n == 0).all()


def test_the_table_and_the_figure_tell_mean_rates():
    rates = np.zeros((3, 3, 2, 7))
    rates[:, 0, 1, 6] = [0.5, 1.0, 0.75]
    rates[:, :, :, 4] = np.nan
    found = Tracing(rates, np.ones(3), 0.1, 2.0, "m", "d", 0)
    table = found.table()
    row = table[(table.component == "attention") & (table.layer == 1) & (table.group == "last token")].iloc[0]
    assert row.recovery == pytest.approx(0.75) and row.low < 0.75 < row.high and row.n == 3
    figure = tracing_figure(table)
    assert len(figure.data) == 3 and figure.data[0].z[1][6] == pytest.approx(0.75)
    assert np.isnan(figure.data[0].z[0][4])


def test_what_cannot_be_traced_is_refused(llava, prompts):
    with pytest.raises(MissingData, match=r"mine\[0\] .* has no span 'word'"):
        trace(
            llava,
            PromptSet("mine", (Prompt("a", " dog", image="scene:1:red-circle@4", boxes=prompts[0].boxes),)),
        )
    with pytest.raises(BadOption, match="sigma is 0"):
        trace(llava, prompts, sigma=0)
