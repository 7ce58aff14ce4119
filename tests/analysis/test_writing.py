"""Direct logit attribution adds up to the model's logits on every architecture; OV tokens against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import sentence

from headscope.analysis.norms import read_norm
from headscope.analysis.weights import cap, token_text
from headscope.analysis.writing import attribute, ov_tokens, read_out, written_tokens
from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption, UnknownHead
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.heads import Head

PROMPT = Prompt(" " + sentence(9, 3), answer=" cat", foil=" dog")


def _logits(model: Any, prompt: Any, position: int) -> torch.Tensor:
    with torch.no_grad():
        return forward(model, encode(model, prompt))[0, position]


@pytest.mark.parametrize("position", [-1, 2])
def test_heads_mlps_embedding_and_biases_add_up_to_the_logit(any_model: Any, position: int) -> None:
    logits = _logits(any_model, PROMPT, position)
    for token in (3, 7, 11):
        found = attribute(any_model, PROMPT, position=position, token=token)
        assert found.total == pytest.approx(
            found.heads.sum() + found.mlps.sum() + sum(found.rest.values()), abs=1e-9
        )
        capped = float(cap(any_model, torch.tensor(found.total)))
        assert capped == pytest.approx(float(logits[token]), abs=1e-4)


def test_a_trained_model_adds_up_too(stories: Any) -> None:
    found = attribute(stories, "Once upon a time, there was a little girl")
    logits = _logits(stories, "Once upon a time, there was a little girl", -1)
    assert found.total == pytest.approx(float(logits.max()), abs=1e-4)
    assert found.target.startswith("logit of '")


def test_the_answer_and_its_foil_are_the_target_at_the_last_position(tiny: Any) -> None:
    model = tiny("llama")
    batch = encode(model, PROMPT)
    answer, foil = int(batch.answer_ids[0, 0]), int(batch.foil_ids[0, 0])
    found, logits = attribute(model, PROMPT), _logits(model, PROMPT, -1)
    assert found.total == pytest.approx(float(logits[answer] - logits[foil]), abs=1e-4)
    assert " minus " in found.target
    elsewhere = attribute(model, PROMPT, position=1)
    assert " minus " not in elsewhere.target
    assert elsewhere.total == pytest.approx(float(_logits(model, PROMPT, 1).max()), abs=1e-4)


def test_a_share_is_what_the_head_adds_before_the_frozen_norm(tiny: Any) -> None:
    """An independent form: take the head's own vector out of the final residual, keep the old scale."""
    model = tiny("gpt2")
    kept: dict[str, torch.Tensor] = {}
    hooks = [
        (name, lambda value, hook, name=name: kept.__setitem__(name, value[0, -1].detach()))
        for name in ("ln_final.hook_in", "blocks.1.attn.hook_z")
    ]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        forward(model, encode(model, PROMPT))
    x, z = kept["ln_final.hook_in"], kept["blocks.1.attn.hook_z"]
    norm = model.ln_final.original_component
    for index in range(4):
        v = z[index] @ model.blocks[1].attn.W_O[index].detach()
        scale = (x.var(unbiased=False) + norm.eps).sqrt()
        expected = ((v - v.mean()) / scale * norm.weight.detach()) @ model.W_U[:, 7].detach()
        assert attribute(model, PROMPT, token=7).heads[1, index] == pytest.approx(float(expected), abs=1e-5)


def test_the_table_lists_every_part_once_with_the_largest_first(tiny: Any) -> None:
    found = attribute(tiny("qwen3"), PROMPT, token=5)
    table = found.table()
    assert len(table) == 3 * 4 + 3 + 3 and table["part"].is_unique
    assert (np.diff(table["logits"].abs()) <= 0).all()
    assert table["logits"].sum() == pytest.approx(found.total)


def test_written_tokens_are_those_of_the_heads_share_of_every_logit(any_model: Any) -> None:
    head = Head(2, 1)
    shares = np.array([attribute(any_model, PROMPT, token=t).heads[head] for t in range(12)])
    spoken = written_tokens(any_model, PROMPT, head, k=len(any_model.tokenizer))
    by_text = {one.token: one.value for one in spoken.raised}
    values = np.array([by_text[token_text(any_model, t)] for t in range(12)])
    np.testing.assert_allclose(values - values[0], shares - shares[0], atol=1e-4)
    assert [one.value for one in spoken.raised] == sorted(by_text.values(), reverse=True)
    assert spoken.lowered[0].value == pytest.approx(min(one.value for one in spoken.raised))


def test_ov_tokens_against_the_plain_product(tiny: Any) -> None:
    model, token = tiny("llama"), 9
    hf = model.original_model.model
    layer = hf.layers[1]

    def plain(module: Any) -> torch.Tensor:  # the bridge wraps modules; weights are the originals
        return getattr(module, "original_component", module).weight.detach()

    e = plain(hf.embed_tokens)[token]
    read = e / (e.square().mean() + 1e-6).sqrt() * plain(layer.input_layernorm)
    value = plain(layer.self_attn.v_proj)[8:16] @ read  # query heads 2 and 3 share the second value head
    out = plain(layer.self_attn.o_proj)[:, 24:32] @ value
    logits = plain(model.original_model.lm_head) @ (out * plain(hf.norm))
    order = torch.argsort(logits, descending=True)[:5].tolist()
    found = ov_tokens(model, Head(1, 3), token, k=5)
    assert [one.token for one in found.raised] == [token_text(model, t) for t in order]
    assert found.raised[0].value == pytest.approx(float(logits.max() - logits.mean()), abs=1e-4)


def test_a_planted_copying_head_speaks_for_the_token_it_looks_at(planted: Any) -> None:
    """The induction head of the planted model copies: its OV circuit raises the token itself most."""
    word = planted.tokenizer("apple banana", add_special_tokens=False)["input_ids"][1]
    spoken = ov_tokens(planted, Head(2, 1), word, k=3)
    assert token_text(planted, word) in [one.token for one in spoken.raised]


def test_norms_are_read_from_what_they_do(any_model: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, int(any_model.cfg.d_model))
    norm = read_norm(any_model.ln_final, x[0])
    with torch.no_grad():
        y = any_model.ln_final(x[None])[0]
    rebuilt = norm.direction(x) / norm.scale(x, y) + norm.bias
    torch.testing.assert_close(rebuilt, y, atol=1e-5, rtol=1e-5)
    assert norm.centre == (any_model.cfg.normalization_type == "LN")


def test_what_is_no_norm_is_refused() -> None:
    with pytest.raises(BadOption, match="neither a layer norm nor an RMS norm"):
        read_norm(torch.nn.Tanh(), torch.zeros(8))


def test_wrong_positions_heads_and_tokens_are_named(tiny: Any) -> None:
    model = tiny("gpt2")
    with pytest.raises(BadOption, match="position 99: the prompt has tokens 0-9"):
        read_out(model, PROMPT, 99)
    with pytest.raises(UnknownHead):
        written_tokens(model, PROMPT, Head(9, 0))
    with pytest.raises(BadOption, match="ids 0-"):
        ov_tokens(model, Head(0, 0), 10**6)
