"""Sinks by massive activations, and attention that moves off them: by hand, by a loop, and under the cache."""

from __future__ import annotations

import pytest
import torch

from headscope.analysis.defaults import default_prompts
from headscope.errors import BadOption, NoEffect, UnknownHead
from headscope.hooks.capture import each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.intervene import intervene
from headscope.hooks.sinks import activation, image_centric, massive_dimensions, threshold_for, var

DIMENSIONS, TAU = (3, 7, 11), 1.6
LOOSE = {"dimensions": DIMENSIONS, "tau": TAU, "min_mass": 0.2, "min_nonsink_ratio": 0.5, "layers": (0, 1, 2)}


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


@pytest.fixture
def batch(llava):
    return encode(llava, list(default_prompts(llava, "scenes", n=4)), padding_side="left")


def test_activation_is_the_largest_of_the_dimensions_over_the_root_mean_square():
    x = torch.tensor([[3.0, -4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert activation(x, (0, 1)).tolist() == pytest.approx([4 / 2.5, 0])
    assert activation(x, (3,)).tolist() == pytest.approx([0, 2])
    assert activation(x, ()).tolist() == [0, 0]
    assert threshold_for(1024) == pytest.approx(10)


def test_massive_dimensions_are_those_in_which_the_first_token_is_massive(llava, batch):
    rows = torch.arange(len(batch))
    first = batch.attention_mask.argmax(1)
    found = []
    hooks = [("blocks.2.hook_in", lambda x, hook: found.append(x[rows, first].float()))]
    with torch.no_grad(), llava.hooks(fwd_hooks=hooks):
        forward(llava, batch, logits_at="last")
    shares = torch.stack([x.abs() / x.pow(2).mean().sqrt() for x in found[0]]).mean(0)
    wanted = [d for d, share in enumerate(shares.tolist()) if share >= 1.5]
    assert wanted and massive_dimensions(llava, batch, tau=1.5) == tuple(wanted)
    assert massive_dimensions(llava, batch, tau=100.0) == ()


def test_rows_count_by_how_much_of_the_image_they_see_and_how_much_of_that_is_no_sink():
    image = torch.tensor([0, 1, 1, 1, 0], dtype=torch.bool)[None, None, None]
    sinks = torch.tensor([1, 1, 0, 0, 0], dtype=torch.bool)[None, None, None]
    rows = torch.tensor(
        [
            [0.1, 0.1, 0.3, 0.3, 0.2],  # 0.7 on the image, 0.6 of it on no sink
            [0.1, 0.5, 0.2, 0.1, 0.1],  # 0.8, of which 0.3
            [0.8, 0.0, 0.1, 0.05, 0.05],  # only 0.15
            [0.2, 0.8, 0.0, 0.0, 0.0],  # sinks alone
        ]
    )[None, None]
    assert image_centric(rows, image, sinks, 0.5, 0.2)[0, 0].tolist() == [True, False, False, False]
    assert image_centric(rows, image, sinks, 0.0, 0.0)[0, 0].tolist() == [True, True, True, False]


@torch.no_grad()
def test_a_loop_over_rows_moves_the_same_attention(llava, batch):
    resid, clean, changed = {}, {}, {}
    hooks = [("blocks.0.hook_in", lambda x, hook: resid.__setitem__(0, x.clone()))]
    with llava.hooks(fwd_hooks=hooks):
        each_pattern(llava, batch, lambda layer, pattern: clean.__setitem__(layer, pattern))
    steer = var(llava, batch, 0.6, **{**LOOSE, "layers": (0,)})
    with intervene(llava, steer):
        each_pattern(llava, batch, lambda layer, pattern: changed.__setitem__(layer, pattern))
    n_moved = n_rows = 0
    for row in range(len(batch)):
        x = resid[0][row]
        real, image = batch.attention_mask[row].bool(), batch.spans["image"][row]
        sink = (x[:, list(DIMENSIONS)].abs().amax(-1) / x.pow(2).mean(-1).sqrt() >= TAU) & real
        sink[int(batch.last[row])] = False
        for query in range(int(image.nonzero().max()) + 1, len(image)):
            for head in range(4):
                n_rows += 1
                own = clean[0][row, head, query]
                wanted = own.clone()
                mass, off = own[image].sum(), own[image & ~sink].sum()
                if mass >= 0.2 and off >= 0.5 * mass:
                    budget = 0.6 * own[sink].sum()
                    wanted[sink] *= 0.4
                    wanted[image & ~sink] += budget * own[image & ~sink] / off
                    n_moved += 1
                assert torch.allclose(changed[0][row, head, query], wanted, atol=1e-6)
        before = real & (torch.arange(len(image)) <= image.nonzero().max())
        assert torch.equal(changed[0][row][:, before], clean[0][row][:, before])
    assert 10 < n_moved < n_rows - 10


def test_rows_keep_their_sum_in_every_layer(llava, batch):
    real = batch.attention_mask.bool()

    def check(layer, pattern):
        sums = pattern.sum(-1).transpose(1, 2)[real]
        assert (sums - 1).abs().max() < 1e-5

    with intervene(llava, var(llava, batch, 1.0, **LOOSE)):
        each_pattern(llava, batch, check)


def test_it_finds_the_same_sinks_under_the_cache_and_fraction_0_leaves_every_bit(llava, batch):
    prompts, options = list(batch.prompts), {"max_new_tokens": 5, "batch_size": 2}
    steps = []
    made = generate(
        llava, prompts[:1], interventions=var(llava, batch, 0.6, **LOOSE), on_step=steps.append, **options
    )
    one = encode(llava, prompts[:1])
    with torch.no_grad(), intervene(llava, var(llava, batch, 0.6, **LOOSE)):
        whole = forward(llava, one, logits_at="last")[0, 0]
    assert torch.allclose(steps[0].logits[0], whole, atol=1e-5) and len(made[0].tokens) == 5
    clean = generate(llava, prompts, **options)
    same = generate(llava, prompts, interventions=var(llava, batch, 0.0, **LOOSE), **options)
    assert [(x.tokens, x.logprobs) for x in clean] == [(x.tokens, x.logprobs) for x in same]


def test_padding_and_company_change_nothing(llava, batch):
    steer = var(llava, batch, 0.6, **LOOSE)
    with torch.no_grad(), intervene(llava, steer):
        together = forward(llava, batch, logits_at="last")
    for row, prompt in enumerate(batch.prompts):
        with torch.no_grad(), intervene(llava, steer):
            alone = forward(llava, encode(llava, [prompt], padding_side="right"), logits_at="last")
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.no_grad()
def test_the_control_moves_attention_off_as_many_random_pieces(llava, batch):
    clean, found = {}, {}
    each_pattern(llava, batch, lambda layer, pattern: clean.__setitem__(layer, pattern))
    options = {**LOOSE, "layers": (0,), "min_mass": 0.0, "min_nonsink_ratio": 0.0}
    for draw in (None, 1, 2):
        with intervene(llava, var(llava, batch, 1.0, draw=draw, **options)):
            each_pattern(
                llava, batch, lambda layer, p, draw=draw: found.setdefault(draw, {}).__setitem__(layer, p)
            )
    last = torch.arange(len(batch)), slice(None), batch.last
    emptied = {draw: (found[draw][0][last] == 0).all(1) & (clean[0][last] > 0).all(1) for draw in found}
    assert torch.equal(emptied[1].sum(1), emptied[None].sum(1)) and bool(emptied[1].any())
    assert not torch.equal(emptied[1], emptied[2]) and not bool((emptied[1] & ~batch.spans["image"]).any())


def test_what_cannot_be_redistributed_is_refused(llava, batch):
    with pytest.raises(BadOption, match="massive in no dimension"):
        var(llava, batch, layers=[1], tau=20.0)
    with pytest.raises(BadOption, match="the first two and the last are left alone"):
        var(llava, batch)
    with pytest.raises(UnknownHead, match="layer 5"):
        var(llava, batch, layers=[5])
    with pytest.raises(BadOption, match="move_fraction is 1.5"):
        var(llava, batch, 1.5, **LOOSE)
    blind = var(llava, batch, 0.6, **{**LOOSE, "min_mass": 1.0})
    with pytest.raises(NoEffect), torch.no_grad(), intervene(llava, blind):
        forward(llava, batch)
