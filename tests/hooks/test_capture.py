import weakref

import pytest
import torch
from models import N_HEADS, N_LAYERS, sentence

from headscope.errors import HookNeverFired
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.encode import encode

TEXTS = [sentence(n, seed=n) for n in (1, 20, 9)]


def patterns(model, batch):
    found = {}
    each_pattern(model, batch, lambda layer, pattern: found.__setitem__(layer, pattern.clone()))
    return found


def test_every_layer_is_shown_once_and_in_order(any_model):
    seen = []
    batch = encode(any_model, TEXTS)
    each_pattern(any_model, batch, lambda layer, pattern: seen.append((layer, tuple(pattern.shape))))
    width = batch.tokens.shape[1]
    assert seen == [(layer, (3, N_HEADS, width, width)) for layer in range(N_LAYERS)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_pattern_and_no_z(any_model, side):
    batch = encode(any_model, TEXTS, padding_side=side)
    shown, z = patterns(any_model, batch), capture_z(any_model, batch)
    for row, text in enumerate(TEXTS):
        alone = encode(any_model, text)
        real = batch.attention_mask[row].bool()
        for layer, own in patterns(any_model, alone).items():
            torch.testing.assert_close(shown[layer][row][:, real][:, :, real], own[0], atol=1e-5, rtol=0)
            assert shown[layer][row][:, real][:, :, ~real].abs().max() == 0 if bool((~real).any()) else True
        torch.testing.assert_close(z[:, row, real], capture_z(any_model, alone)[:, 0], atol=1e-5, rtol=0)


def test_z_is_the_pattern_applied_to_the_values(any_model):
    batch = encode(any_model, TEXTS[1])
    shown, z = patterns(any_model, batch), capture_z(any_model, batch)
    values = {}

    def keep(v, hook):
        values[int(hook.name.split(".")[1])] = v.clone()

    names = [(f"blocks.{layer}.attn.hook_v", keep) for layer in range(N_LAYERS)]
    with torch.no_grad(), any_model.hooks(fwd_hooks=names):
        any_model(batch.tokens)
    for layer, v in values.items():
        v = v.view(*v.shape[:2], -1, z.shape[-1])
        v = v.repeat_interleave(
            N_HEADS // v.shape[2], dim=2
        )  # each key-value head serves neighbouring query heads
        expected = torch.einsum("bhqk,bkhd->bqhd", shown[layer], v)
        torch.testing.assert_close(z[layer], expected, atol=1e-5, rtol=1e-5)


def test_what_visit_does_stays_outside_the_model(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS)
    before = capture_z(model, batch)
    each_pattern(model, batch, lambda layer, pattern: pattern.zero_())
    assert torch.equal(capture_z(model, batch), before)
    spoiled = {}

    def visit(layer, pattern):
        spoiled[layer] = pattern.clone()
        pattern.zero_()

    each_pattern(model, batch, visit)
    for layer, pattern in patterns(model, batch).items():
        assert torch.equal(spoiled[layer], pattern)


def test_only_one_layers_pattern_is_alive_at_a_time(any_model):
    earlier, alive = [], []

    def count(pattern, hook):
        alive.append(sum(reference() is not None for reference in earlier))
        earlier.append(weakref.ref(pattern))

    names = [(f"blocks.{layer}.attn.hook_pattern", count) for layer in range(N_LAYERS)]
    with any_model.hooks(fwd_hooks=names):
        each_pattern(any_model, encode(any_model, TEXTS), lambda layer, pattern: count(pattern, None))
    assert alive == [0, 1] * N_LAYERS, "the model's own pattern, then our copy of the same layer"


def test_an_error_in_visit_leaves_no_hook(tiny):
    model = tiny("gpt2")

    def visit(layer, pattern):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each_pattern(model, encode(model, TEXTS), visit)


def test_a_layer_without_a_pattern_is_an_error(tiny, monkeypatch):
    model = tiny("gpt2")
    monkeypatch.setattr("headscope.hooks.capture.forward", lambda *args, **options: None)
    with pytest.raises(HookNeverFired, match=r"hook_pattern of layers \[0, 1, 2\]"):
        each_pattern(model, encode(model, TEXTS), lambda layer, pattern: None)
    with pytest.raises(HookNeverFired, match=r"hook_z of layers \[0, 1, 2\]"):
        capture_z(model, encode(model, TEXTS))


def test_attention_of_the_outside_model_is_the_known_one(stories, stories_oracle):
    for known in stories_oracle["prompts"]:
        measured = {}

        def visit(layer, pattern, measured=measured):
            one = pattern[0].double()  # head query_pos key_pos
            measured[layer] = {
                "prev_token": one.diagonal(-1, 1, 2).mean(-1),
                "self": one.diagonal(0, 1, 2).mean(-1),
                "first_token": one[:, :, 0].mean(-1),
                "entropy_nats": torch.special.entr(one).sum(-1).mean(-1),
            }

        each_pattern(stories, encode(stories, known["text"]), visit)
        for layer, scores in measured.items():
            for name, values in scores.items():
                assert values.tolist() == pytest.approx(known[name][layer], abs=1e-5), (layer, name)
