"""float16 and bfloat16 against float32: the tolerances that the page on precision states, held on six models.

| what | unit | float16 | bfloat16 |
|---|---|---|---|
| scores read from attention, of one prompt | share of attention; nats for `entropy` | 0.003 | 0.03 |
| log-probabilities of next tokens | largest logit | 0.02 | 0.15 |
| effect of one head on one prompt (`sweep`) | nats | 0.05 | 0.3 |
| the same averaged over prompts, and arms of `verify` | nats | 0.02 | 0.1 |

Heads that differ by more than twice the tolerance keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from models import ARCHITECTURES, sentence

from headscope.analysis.context.gates import gated
from headscope.analysis.registry import get
from headscope.analysis.score import default_prompts, score, score_patterns
from headscope.analysis.verify import verify
from headscope.datasets.prompts import Prompt
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.gradients import edge_effects
from headscope.hooks.graph import Graph
from headscope.hooks.heads import all_heads
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import mean, scale, uniform, zero
from headscope.hooks.load import load
from headscope.hooks.metrics import get_metric
from headscope.hooks.reweight import reweight
from headscope.hooks.sweep import sweep, sweep_one_by_one

HALVES = ("float16", "bfloat16")
SCORES = {"float16": 0.003, "bfloat16": 0.03}
LOGPROBS = {"float16": 0.02, "bfloat16": 0.15}
ONE_EFFECT = {"float16": 0.05, "bfloat16": 0.3}
EFFECTS = {"float16": 0.02, "bfloat16": 0.1}
PATTERN_METHODS = ("induction", "previous-token", "duplicate-token", "first-token", "entropy")
MODELS = (*ARCHITECTURES, "planted", "text")
PROMPTS = [Prompt(" " + sentence(n, n), answer=" cat", foil=" dog") for n in (9, 4, 13, 24)]


@pytest.fixture(scope="module")
def loaded(model_folder: Callable[[str], Any]) -> Callable[[str, str], Any]:
    """Return a function that loads a model of any of `MODELS` in a precision, once."""
    kept: dict[tuple[str, str], Any] = {}

    def get_one(name: str, dtype: str) -> Any:
        if (name, dtype) not in kept:
            folder = model_folder(name) if name in ARCHITECTURES else f"organism/{name}"
            kept[name, dtype] = load(folder, dtype=dtype)
        return kept[name, dtype]

    return get_one


def prompts_of(model: Any, name: str) -> Any:
    return default_prompts(model, get("induction").data, 0, n=4) if name in ("planted", "text") else PROMPTS


def agree_in_order(one: np.ndarray, other: np.ndarray, within: float) -> None:
    """Hold that no two heads that differ clearly in one have changed places in the other."""
    clearly = one[:, None] - one[None, :] > 2 * within
    assert (other[:, None] > other[None, :])[clearly].all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MODELS)
def test_scores_of_attention_agree(loaded: Any, name: str, dtype: str) -> None:
    full, half = loaded(name, "float32"), loaded(name, dtype)
    assert next(half.original_model.parameters()).dtype == getattr(torch, dtype)
    data = default_prompts(full, "repeated", 0, n=4)
    ours, theirs = (score_patterns(model, data, PATTERN_METHODS) for model in (half, full))
    for method in PATTERN_METHODS:
        np.testing.assert_allclose(
            ours[method].samples, theirs[method].samples, rtol=0, atol=SCORES[dtype], err_msg=method
        )
        agree_in_order(theirs[method].values.ravel(), ours[method].values.ravel(), SCORES[dtype])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MODELS)
def test_probabilities_and_effects_agree(loaded: Any, name: str, dtype: str) -> None:
    full, half = loaded(name, "float32"), loaded(name, dtype)
    prompts = prompts_of(full, name)
    ours, theirs = (encode(model, prompts) for model in (half, full))
    with torch.no_grad():
        a, b = (forward(m, batch, logits_at="last").float() for m, batch in ((half, ours), (full, theirs)))
    difference = (a.log_softmax(-1) - b.log_softmax(-1)).abs().max()
    assert difference <= LOGPROBS[dtype] * b.abs().max()
    heads = [head for head in all_heads(full) if head.index < 4]
    for metric, kind in (("answer_logprob", uniform), ("kl_to_clean", zero)):
        found, wanted = (
            sweep(m, batch, metric, kind, heads=heads) for m, batch in ((half, ours), (full, theirs))
        )
        found, wanted = ([one[:, head.layer, head.index] for head in heads] for one in (found, wanted))
        found, wanted = torch.stack(found, 1), torch.stack(wanted, 1)
        assert found.dtype == torch.float32 and found.isfinite().all()
        assert (found - wanted).abs().max() <= ONE_EFFECT[dtype], (kind, metric)
        assert (found.mean(0) - wanted.mean(0)).abs().max() <= EFFECTS[dtype], (kind, metric)
        agree_in_order(wanted.mean(0).numpy(), found.mean(0).numpy(), EFFECTS[dtype])


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ("gpt2", "qwen3", "planted"))
def test_sweep_takes_the_fast_way_in_half_precision_and_agrees_with_the_loop(
    loaded: Any, name: str, dtype: str
) -> None:
    model = loaded(name, dtype)
    batch = encode(model, prompts_of(model, name))
    for kind in (zero, partial(mean, reference=PROMPTS[:2])):
        fast, plain = (
            run(model, batch, "answer_logprob", kind, heads="L0H0,L1H1,L1H3")
            for run in (sweep, sweep_one_by_one)
        )
        assert torch.equal(fast.isnan(), plain.isnan())
        assert (fast - plain).nan_to_num().abs().max() <= ONE_EFFECT[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_causal_check_comes_to_the_same_verdict(loaded: Any, dtype: str) -> None:
    full, half = loaded("planted", "float32"), loaded("planted", dtype)
    data = default_prompts(full, get("induction").data, 1, n=6)
    found = {}
    for model in (half, full):
        scores = score(model, "induction", default_prompts(model, get("induction").data, 0, n=6))
        found[model] = verify(model, scores, data, k=(1, 2), draws=2)
    ours, theirs = found[half], found[full]
    np.testing.assert_allclose(ours.clean, theirs.clean, rtol=0, atol=EFFECTS[dtype])
    for one, other in zip(ours.arms, theirs.arms, strict=True):
        assert (one.name, one.heads) == (other.name, other.heads)
        np.testing.assert_allclose(one.values, other.values, rtol=0, atol=EFFECTS[dtype])
    assert ours.verdict.split()[0] == theirs.verdict.split()[0]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_identities_leave_every_bit_of_half_precision_too(loaded: Any, name: str, dtype: str) -> None:
    model = loaded(name, dtype)
    every = [(layer, head) for layer in range(3) for head in range(4)]
    for side in ("left", "right"):
        batch = encode(model, PROMPTS, padding_side=side)
        with torch.no_grad():
            clean = forward(model, batch)[batch.attention_mask.bool()]
            for change in (scale(every, 1.0), reweight(every, source=0, fraction=0.0)):
                with intervene(model, change):
                    assert torch.equal(forward(model, batch)[batch.attention_mask.bool()], clean), change


@pytest.mark.parametrize("dtype", HALVES)
def test_greedy_text_is_the_same_where_the_model_is_sure(loaded: Any, dtype: str) -> None:
    full, half = loaded("text", "float32"), loaded("text", dtype)
    prompts = list(default_prompts(full, get("induction").data, 0, n=4))
    ours, theirs = (generate(model, prompts, max_new_tokens=6) for model in (half, full))
    for one, other in zip(ours, theirs, strict=True):
        sure = 0  # up to the first token that has a rival in reach of the rounding
        while sure < len(other.tokens) and other.logprobs[sure] > -0.3:
            sure += 1
        assert one.tokens[:sure] == other.tokens[:sure]
        np.testing.assert_allclose(one.logprobs[:sure], other.logprobs[:sure], rtol=0, atol=EFFECTS[dtype])


def test_float64_is_closer_to_float32_than_halves_are(loaded: Any) -> None:
    """What differs between precisions is rounding: it shrinks as digits are added."""
    batch = encode(loaded("gpt2", "float64"), PROMPTS)
    with torch.no_grad():
        exact = forward(loaded("gpt2", "float64"), batch, logits_at="last").double()
        off = {d: (forward(loaded("gpt2", d), batch, logits_at="last").double() - exact).abs().max() for d in
               ("float32", "float16", "bfloat16")}  # fmt: skip
    assert off["float32"] < 1e-5 and off["float32"] < off["float16"] / 100 < off["bfloat16"] / 300


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", HALVES)
def test_gates_and_edges_stay_numbers_beside_padding(loaded: Any, dtype: str, side: str) -> None:
    """float16 takes 1e-30 for 0 and has no number below -65504: rows of padding must not become NaN there."""
    pairs = [
        Prompt(one.text, corrupted=" ".join(reversed(one.text.split())), answer=" cat", foil=" dog")
        for one in PROMPTS
    ]
    found = {}
    for name in ("float32", dtype):
        model = loaded("llama", name)
        batch = encode(model, pairs, padding_side=side)
        with torch.no_grad(), gated(model, batch, torch.full((3, 2), 0.5), 1, 2):
            logits = forward(model, batch, logits_at="last").float()
        graph = Graph(model, batch, batch.corrupted())
        found[name] = logits, edge_effects(graph, get_metric("logit_difference"), [1.0])
    for ours, theirs in zip(found[dtype], found["float32"], strict=True):
        assert ours.isfinite().all()
        assert (ours.float() - theirs.float()).abs().max() <= LOGPROBS[dtype] * theirs.abs().max()
