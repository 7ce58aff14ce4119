"""Effects as scores: totals are the sweep's, direct effects are those of a plain loop over the last residual stream."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from models import sentence

from headscope.analysis.effects import HOW, direct_effects, effects
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, BadPrompts, EmptyPromptSet, MissingData
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.heads import Head
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import mean, resample, uniform, zero
from headscope.hooks.metrics import answer_logprob
from headscope.hooks.sweep import sweep

PROMPTS = PromptSet(
    "some",
    tuple(
        Prompt(
            " " + sentence(n, n),
            answer=" cat",
            foil=" dog",
            corrupted=" " + " ".join(reversed(sentence(n, n).split())),
        )
        for n in (9, 4, 13)
    ),
)
KINDS = {"zero": zero, "mean": partial(mean, reference=PROMPTS), "resample": resample, "uniform": uniform}


@pytest.mark.parametrize("how", HOW)
def test_total_effects_are_those_of_the_sweep(tiny: Any, how: Any) -> None:
    model = tiny("llama")
    found = effects(model, PROMPTS, "logit_difference", how=how)
    plain = sweep(model, encode(model, PROMPTS), "logit_difference", KINDS[how]).numpy()
    np.testing.assert_allclose(found.samples, plain, atol=1e-5)
    assert found.causal and found.method == f"{how}-effect" and found.alternative == "two-sided"
    assert list(found.table().columns) == ["layer", "head", "score", "low", "high", "p", "q", "n"]


@pytest.mark.parametrize("how", HOW)
def test_direct_effects_are_those_of_a_loop(any_model: Any, how: Any) -> None:
    """Replace one head's z in a full pass, but give every later part its clean output."""
    model, batch = any_model, encode(any_model, PROMPTS)
    found = direct_effects(model, batch, "answer_logprob", KINDS[how]).numpy()
    names = [f"blocks.{layer}.hook_in" for layer in range(3)] + ["ln_final.hook_in"]
    names += [f"blocks.{layer}.hook_resid_mid" for layer in range(3)]

    def run(*changes: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        kept: dict[str, torch.Tensor] = {}
        hooks = [(n, lambda value, hook, n=n: kept.__setitem__(n, value.detach())) for n in names]
        with torch.no_grad(), intervene(model, list(changes), batch), model.hooks(fwd_hooks=hooks):
            logits = forward(model, batch)
        return kept, logits

    clean, logits = run()
    rows = torch.arange(len(batch))
    before = answer_logprob(logits[rows, batch.last], batch)
    for head in (Head(0, 1), Head(2, 3)):
        changed, _ = run(KINDS[how]((head,)))
        middle = f"blocks.{head.layer}.hook_resid_mid"
        delta = changed[middle] - clean[middle]

        def add(value: Any, hook: Any, delta: torch.Tensor = delta) -> Any:
            return value + delta

        with torch.no_grad(), model.hooks(fwd_hooks=[("ln_final.hook_in", add)]):
            after = answer_logprob(forward(model, batch)[rows, batch.last], batch)
        np.testing.assert_allclose(found[:, head.layer, head.index], (after - before).numpy(), atol=1e-4)


def test_the_last_layers_direct_effect_without_an_mlp_behind_it_is_total(planted: Any) -> None:
    """Nothing comes after the heads of the last layer of the planted model but MLPs that write nothing."""
    prompts = [Prompt("apple banana orange apple", answer=" banana", foil=" orange")]
    total = effects(planted, prompts, "logit_difference", how="zero").values
    direct = effects(planted, prompts, "logit_difference", how="zero", flow="direct").values
    np.testing.assert_allclose(direct[-1], total[-1], atol=1e-3)


def test_what_cannot_be_asked_is_refused_in_words(tiny: Any) -> None:
    model = tiny("gpt2")
    with pytest.raises(BadOption, match="how='nil'"):
        effects(model, PROMPTS, how="nil")  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="flow='back'"):
        effects(model, PROMPTS, flow="back")  # type: ignore[arg-type]
    with pytest.raises(EmptyPromptSet):
        effects(model, PROMPTS[:0])
    with pytest.raises(MissingData, match="no answer"):
        effects(model, "the cat")
    for flow in ("total", "direct"):
        with pytest.raises(BadPrompts, match="no corrupted text"):
            effects(model, [Prompt(" the cat", answer=" dog")], how="resample", flow=flow)
