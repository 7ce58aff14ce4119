"""Vision-aware head reinforcement: one pass equals two, layer by layer, and nothing else moves."""

from __future__ import annotations

import pytest
import torch

from headscope.analysis.defaults import default_prompts
from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption, UnknownHead
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.intervene import intervene
from headscope.hooks.vision import divergence, vhr, vision_aware_heads, without_image

LAYERS = (0, 1, 2)


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


@pytest.fixture
def scenes(llava):
    return list(default_prompts(llava, "scenes", n=4))


@torch.no_grad()
def _z_last(model, prompt, gains):
    """Every layer's z at the last token in a plain run of one prompt whose heads are scaled by `gains`."""
    found = []

    def act(layer):
        def hook_fn(z, hook):
            found.append(z[0, -1].clone())
            return z * gains[layer][None, None, :, None]

        return hook_fn

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(len(gains))]
    with model.hooks(fwd_hooks=[(name, act(layer)) for layer, name in enumerate(names)]):
        forward(model, encode(model, [prompt]), logits_at="last")
    return found


@pytest.mark.parametrize("blind_too", [True, False])
@pytest.mark.parametrize("drop", [True, False])
def test_one_pass_chooses_what_separate_passes_layer_by_layer_do(llava, scenes, blind_too, drop):
    options = {"alpha": 2.0, "blind_too": blind_too, "drop_outliers": drop}
    together = vision_aware_heads(llava, [*scenes, Prompt("a dog")], LAYERS, **options)
    assert not together[-1].any()
    for row, prompt in enumerate(scenes):
        gains = torch.ones(3, 4)
        for layer in LAYERS:
            seen = _z_last(llava, prompt, gains)[layer]
            blind_gains = gains if blind_too else torch.ones(3, 4)
            blind = _z_last(llava, without_image(llava, prompt), blind_gains)[layer]
            found = divergence(seen, blind, drop=drop)
            low, high = found.sort().values[1:3]
            wanted = found > (low + high) / 2
            assert together[row, layer].tolist() == wanted.tolist()
            gains[layer][wanted] = 2.0


@pytest.mark.parametrize("blind_too", [True, False])
def test_divergences_of_one_pass_are_those_of_two_separate_passes_to_one_millionth(
    llava, scenes, blind_too, monkeypatch
):
    found = []

    def watched(seen, blind, *, drop=True):
        found.append(divergence(seen, blind, drop=drop))
        return found[-1]

    monkeypatch.setattr("headscope.hooks.vision.divergence", watched)
    chosen = vision_aware_heads(llava, scenes, LAYERS, blind_too=blind_too)
    for row, prompt in enumerate(scenes):
        gains = 1 + chosen[row].float()
        seen = _z_last(llava, prompt, gains)
        blind = _z_last(llava, without_image(llava, prompt), gains if blind_too else torch.ones(3, 4))
        for layer in LAYERS:
            wanted = divergence(seen[layer], blind[layer])
            assert torch.allclose(found[layer][row], wanted, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_the_intervention_scales_the_chosen_heads_of_each_prompt_and_nothing_else(llava, scenes):
    prompts = [scenes[0], Prompt("a dog saw"), scenes[1]]
    batch = encode(llava, prompts, padding_side="left")
    chosen = vision_aware_heads(llava, prompts, LAYERS)
    with intervene(llava, vhr(llava, layers=LAYERS)):
        found = forward(llava, batch, logits_at="last")
    clean = forward(llava, batch, logits_at="last")
    assert torch.equal(found[1], clean[1]) and (found[0] - clean[0]).abs().max() > 1e-4
    for row in (0, 2):
        gains = 1 + chosen[row].float()
        hooks = [
            (f"blocks.{layer}.attn.hook_z", lambda z, hook, g=gains[layer]: z * g[None, None, :, None])
            for layer in LAYERS
        ]
        with llava.hooks(fwd_hooks=hooks):
            alone = forward(llava, encode(llava, [prompts[row]]), logits_at="last")
        assert (found[row] - alone[0]).abs().max() < 2e-6


def test_gain_1_is_a_no_op_under_the_cache_and_gain_2_keeps_its_heads_while_it_writes(llava, scenes):
    options = {"max_new_tokens": 6, "batch_size": 2}
    clean = generate(llava, scenes, **options)
    same = generate(llava, scenes, interventions=vhr(llava, 1.0, layers=LAYERS), **options)
    assert [(one.tokens, one.logprobs) for one in clean] == [(one.tokens, one.logprobs) for one in same]
    changed = generate(llava, scenes, interventions=vhr(llava, 3.0, layers=LAYERS), **options)
    assert [one.logprobs for one in clean] != [one.logprobs for one in changed]
    for prompt, made in zip(scenes, changed, strict=True):
        gains = 1 + 2 * vision_aware_heads(llava, [prompt], LAYERS, alpha=3.0)[0].float()
        hooks = [
            (f"blocks.{layer}.attn.hook_z", lambda z, hook, g=gains[layer]: z * g[None, None, :, None])
            for layer in LAYERS
        ]
        batch = encode(llava, [prompt])
        ids = batch.tokens
        for token in made.tokens:
            with torch.no_grad(), llava.hooks(fwd_hooks=hooks):
                logits = llava(ids, output_attentions=False, use_cache=False, **batch.image_inputs)
            assert int(logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_outliers_are_heads_that_stand_out_with_and_without_the_image():
    blind, seen = torch.zeros(8, 2), torch.zeros(8, 2)
    seen[:, 0] = torch.tensor([1.0, 2, 1, 2, 1, 2, 9, 0])
    blind[6, 0], blind[7, 1] = -8, 9  # both surge; the first's distance is 17, the second's 9
    kept, dropped = divergence(seen, blind, drop=False), divergence(seen, blind)
    assert kept.tolist() == [1, 2, 1, 2, 1, 2, 17, 9]
    assert dropped.tolist() == [1, 2, 1, 2, 1, 2, 0, 9]  # 9 is below the mean 4.4 plus 5.4


def test_the_published_layers_are_the_second_and_the_last_fourteen_of_thirty_two(llava):
    class Deep:
        tokenizer = object()
        cfg = type("Cfg", (), {"n_layers": 32, "n_heads": 2, "model_name": "deep"})

    assert vhr(Deep()).in_layers == (1, *range(18, 32))
    assert vhr(llava).in_layers == (1, 2)


def test_what_cannot_be_reinforced_is_refused(llava):
    with pytest.raises(BadOption, match="no prompt has an image"):
        generate(llava, ["a dog"], interventions=vhr(llava))
    with pytest.raises(UnknownHead, match=r"layer 7: .* has layers 0-2"):
        vhr(llava, layers=[7])
    with pytest.raises(BadOption, match="alpha is one number"):
        vhr(llava, (1.0, 2.0))
    with pytest.raises(BadOption, match="alpha is nan"):
        vhr(llava, float("nan"))
