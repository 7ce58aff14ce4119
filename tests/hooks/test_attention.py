"""Our attention function: the same numbers as the model's own, and edits of the pattern that act."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.vit.modeling_vit import eager_attention_forward

from headscope.errors import BadOption
from headscope.hooks import check
from headscope.hooks.attention import NAME, attend, route
from headscope.hooks.check import edits_made_to_act, plain_logits
from headscope.hooks.info import describe


class Module(torch.nn.Module):
    num_key_value_groups = 1


class Flat:
    def hook_pattern(self, pattern):
        return torch.ones_like(pattern) / pattern.shape[-1]


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3)]


def test_it_computes_what_the_models_own_function_does(parts):
    module = Module().eval()
    mask = torch.zeros(2, 1, 6, 6).masked_fill(
        torch.ones(6, 6).triu(1).bool(), torch.finfo(torch.float32).min
    )
    for given in (None, mask):
        ours = attend(module, *parts, given, scaling=0.3)
        theirs = eager_attention_forward(module, *parts, given, scaling=0.3)
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_shared_keys_caps_and_edits(parts):
    query, key, value = parts
    out, pattern = attend(Module().eval(), query, key[:, :2], value[:, :2], None, softcap=2.0)
    for head in range(4):
        scores = query[:, head] @ key[:, head // 2].transpose(1, 2) * 8**-0.5
        wanted = (2 * torch.tanh(scores / 2)).softmax(-1)
        assert torch.allclose(pattern[:, head], wanted, atol=1e-6)
        assert torch.allclose(out[:, :, head], wanted @ value[:, head // 2], atol=1e-6)
    module = Module().eval()
    route(module, Flat())
    flat, _ = attend(module, query, key, value, None)
    assert torch.allclose(flat, value.mean(2, keepdim=True).expand_as(value).transpose(1, 2), atol=1e-6)
    with pytest.raises(BadOption, match="learned sink"):
        attend(Module().eval(), query, key, value, None, s_aux=torch.ones(4))


def test_a_model_that_only_shows_its_pattern_is_made_to_heed_edits(tiny):
    vit = tiny("vit")
    assert describe(vit).pattern_edits and vit.original_model.config._attn_implementation == NAME
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    clean, shapes = plain_logits(vit, pixels), []

    def flatten(pattern, hook):
        shapes.append(tuple(pattern.shape))
        return torch.full_like(pattern, 1 / pattern.shape[-1])

    with vit.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", flatten)]):
        changed = plain_logits(vit, pixels)
    assert shapes == [(2, 4, 17, 17)]  # once, not a second time as a copy
    assert (changed - clean).abs().max() > 1e-4
    assert torch.equal(plain_logits(vit, pixels), clean)

    def mean_of_values(z, hook):
        v = seen[0]
        return v.mean(1, keepdim=True).expand_as(z)

    seen = []
    with vit.hooks(
        fwd_hooks=[
            ("blocks.1.attn.hook_v", lambda v, hook: seen.append(v.reshape(2, 17, 4, 8))),
            ("blocks.1.attn.hook_z", mean_of_values),
        ]
    ):
        by_hand = plain_logits(vit, pixels)
    assert torch.allclose(changed, by_hand, atol=1e-5)


def test_its_logits_are_those_of_the_plain_model(tiny, model_folder):
    from transformers import ViTForImageClassification

    plain = ViTForImageClassification.from_pretrained(model_folder("vit")).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(plain_logits(tiny("vit"), pixels), plain(pixels).logits, atol=1e-6)


def test_a_text_model_runs_with_it_as_without(tmp_path):
    """Grouped queries and a causal mask, as the text sides of models have it that compute attention themselves."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    ).eval()
    tokens = torch.arange(20).reshape(2, 10) + 3
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    with torch.no_grad():
        model.set_attn_implementation("eager")
        before = model(tokens, attention_mask=mask).logits
        model.set_attn_implementation(NAME)
        after = model(tokens, attention_mask=mask).logits
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=4, do_sample=False)
        model.set_attn_implementation("eager")
        assert torch.equal(
            made, model.generate(tokens, attention_mask=mask, max_new_tokens=4, do_sample=False)
        )
    assert torch.allclose(before[mask.bool()], after[mask.bool()], atol=1e-6)


def test_a_model_whose_logits_would_change_keeps_its_own_attention(tiny, monkeypatch):
    llama = tiny("llama")

    def wrong(model):
        monkeypatch.setattr(check, "plain_logits", lambda model, inputs: plain_logits(model, inputs) + 1)
        return True

    monkeypatch.setattr(check, "make_editable", wrong)
    monkeypatch.setattr(check, "undo_editable", lambda model: undone.append(model))
    undone = []
    assert not edits_made_to_act(llama) and undone == [llama]
