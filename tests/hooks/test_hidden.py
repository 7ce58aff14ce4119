"""The hidden state that is unembedded, clean and with each head changed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from models import sentence

from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.heads import Head
from headscope.hooks.hidden import final_hidden
from headscope.hooks.interventions import scale, uniform, zero
from headscope.hooks.sweep import sweep_hidden

PROMPTS = [sentence(n, n) for n in (9, 4, 13)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_is_what_the_unembedding_turns_into_logits(any_model: Any, side: str) -> None:
    batch = encode(any_model, PROMPTS, padding_side=side)
    with torch.no_grad():
        logits = forward(any_model, batch, logits_at="last")[:, 0]
        ours = any_model.unembed(final_hidden(any_model, batch))
    cap = getattr(any_model.original_model.config, "final_logit_softcapping", None)
    ours = cap * torch.tanh(ours / cap) if cap else ours
    assert (ours - logits).abs().max() < 1e-5


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", [uniform, zero, partial(scale, gain=1e-5)])
def test_the_sweep_equals_one_pass_per_head(any_model: Any, kind: Any) -> None:
    batch = encode(any_model, PROMPTS)
    heads = [Head(0, 1), Head(1, 3), Head(2, 0), Head(2, 2)]
    found = sweep_hidden(any_model, batch, kind, heads=heads)
    plain = torch.stack([final_hidden(any_model, batch, [kind((head,))]) for head in heads])
    clean = final_hidden(any_model, batch)
    assert found.shape == plain.shape and (plain - clean).abs().max() > 1e-3
    assert (found - plain).abs().max() < 1e-5
    for chunk in (1, 2):
        assert (sweep_hidden(any_model, batch, kind, heads=heads, chunk=chunk) - plain).abs().max() < 1e-5


def test_changing_nothing_gives_the_clean_state(any_model: Any) -> None:
    batch = encode(any_model, PROMPTS)
    clean = final_hidden(any_model, batch)
    same = sweep_hidden(any_model, batch, partial(scale, gain=1.0), heads="L0H0,L2H1")
    assert (same - clean).abs().max() < 1e-5
    assert torch.equal(final_hidden(any_model, batch, [scale("L1H1", 1.0)]), clean)
