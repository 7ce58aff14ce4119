"""`sweep` against the plain loop, against numbers made without this project, and against what must not change it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models import sentence

from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption, HeadscopeError, NoEffect, NonFinite, UnknownHead, UnknownMetric
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import Zero, mean, resample, scale, uniform, zero
from headscope.hooks.sweep import choose_chunk, sweep, sweep_one_by_one

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracles" / "stories260k.json"
PROMPTS = [
    Prompt(
        text=" " + sentence(n, n),
        corrupted=" " + " ".join(reversed(sentence(n, n).split())),
        answer=" cat",
        foil=" dog",
        spans={"start": ((1, 4),)} if n > 5 else {},
    )
    for n in (9, 4, 13)
]
KINDS = {
    "zero": zero,
    "uniform": uniform,
    "scale": partial(scale, gain=2.0),
    "mean": partial(mean, reference=PROMPTS[:2]),
    "mean by position": partial(mean, reference=PROMPTS, by_position=True),
    "resample": resample,
    "at the decode position": partial(zero, phase="decode"),
    "at one position": partial(uniform, positions=(3,)),
    "in a span": partial(zero, positions="start"),
}


def batch_of(model: Any, side: str | None = None) -> Any:
    return encode(model, PROMPTS, padding_side=side)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_equals_one_forward_pass_per_head(any_model: Any, side: str, kind: str) -> None:
    batch = batch_of(any_model, side)
    for metric in ("kl_to_clean", "logit_difference"):
        found = sweep(any_model, batch, metric, KINDS[kind])
        plain = sweep_one_by_one(any_model, batch, metric, KINDS[kind])
        assert found.isfinite().all() and plain.abs().max() > 1e-4
        assert (found - plain).abs().max() < 1e-5


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_shipped_attention_only_model_equals_the_loop(planted: Any) -> None:
    words = [word for word in planted.tokenizer.get_vocab() if word.isalnum()][:9]
    batch = encode(planted, [" ".join(words * 2), " ".join(words[:4])])
    found = sweep(planted, batch, "kl_to_clean", zero)
    assert (found - sweep_one_by_one(planted, batch, "kl_to_clean", zero)).abs().max() < 1e-5


def test_agrees_with_numbers_made_without_this_project(stories: Any) -> None:
    if not ORACLE.is_file():
        pytest.skip("../shared/oracles/stories260k.json is not here: it is an outside check")
    oracle = json.loads(ORACLE.read_text())
    kinds = {"zero": zero, "uniform": uniform, "2.0": partial(scale, gain=2.0)}
    for entry in oracle["prompts"]:
        batch = encode(stories, [entry["text"]])
        assert batch.tokens[0].tolist() == entry["ids"]
        top = forward(stories, batch, logits_at="last")[0, 0].argmax()

        def top_logprob(logits: Any, batch: Any, clean: Any = None, top: Any = top) -> Any:
            return logits.log_softmax(-1)[:, top]

        for name, kind in kinds.items():
            for key, metric, within in (
                (f"kl_{name}", "kl_to_clean", 2e-6),
                (f"delta_logprob_top_{name}", top_logprob, 1e-5),
            ):
                expected = torch.tensor(entry[key])
                assert (sweep(stories, batch, metric, kind)[0] - expected).abs().max() < within, key


def test_chunks_and_batch_neighbours_change_nothing(any_model: Any) -> None:
    batch = batch_of(any_model)
    whole = sweep(any_model, batch, "kl_to_clean", zero)
    for chunk in (1, 2, 7, 1000):
        assert (sweep(any_model, batch, "kl_to_clean", zero, chunk=chunk) - whole).abs().max() < 1e-5
    alone = torch.cat(
        [sweep(any_model, encode(any_model, [prompt]), "kl_to_clean", zero) for prompt in PROMPTS]
    )
    assert (alone - whole).abs().max() < 1e-5


def test_heads_that_were_not_asked_for_are_nan(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    batch = batch_of(model)
    some = sweep(model, batch, "kl_to_clean", zero, heads="L2H3,L0H1")
    run = ~some.isnan()
    assert run.sum(0).nonzero().tolist() == [[0, 1], [2, 3]] and run[:, 0, 1].all()
    assert (some - sweep(model, batch, "kl_to_clean", zero))[run].abs().max() < 1e-6


def test_identity_has_no_effect_and_is_not_an_error(any_model: Any) -> None:
    effects = sweep(any_model, batch_of(any_model), "logit_difference", partial(scale, gain=1.0))
    assert effects.abs().max() < 1e-5


def test_the_model_is_left_as_it_was(any_model: Any) -> None:
    batch = batch_of(any_model)
    before = forward(any_model, batch)
    replaced = [name for name, module in any_model.named_modules() if "forward" in module.__dict__]
    sweep(any_model, batch, "kl_to_clean", zero)
    with pytest.raises(ZeroDivisionError):
        sweep(any_model, batch, "kl_to_clean", zero, chunk=3, progress=lambda done, total: 1 / 0)
    assert torch.equal(forward(any_model, batch), before)
    assert [name for name, module in any_model.named_modules() if "forward" in module.__dict__] == replaced
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in any_model.blocks)


def test_progress_ends_with_every_changed_sequence(tiny: Callable[[str], Any]) -> None:
    model, seen = tiny("gpt2"), []
    sweep(model, batch_of(model), "kl_to_clean", zero, chunk=6, progress=lambda *now: seen.append(now))
    assert seen == sorted(seen) and seen[-1] == (36, 36) and len(seen) == 6


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_early_layers_and_unread_positions_are_not_computed_for_every_head(
    tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    batch = batch_of(model)
    sequences, unembedded = [0] * len(model.blocks), []

    def counting(module: Any, count: Callable[[Any], None]) -> None:
        own = module.forward

        @functools.wraps(own)
        def counted(*args: Any, **kwargs: Any) -> Any:
            count(args[0] if args else kwargs["hidden_states"])
            return own(*args, **kwargs)

        monkeypatch.setattr(module, "forward", counted)

    def counter(layer: int) -> Callable[[Any], None]:
        def count(hidden: Any) -> None:
            sequences[layer] += len(hidden)

        return count

    for layer, block in enumerate(model.blocks):
        counting(block.original_component, counter(layer))
    counting(model.unembed.original_component, lambda hidden: unembedded.append(hidden.shape[:2].numel()))
    sweep(model, batch, "kl_to_clean", zero)
    changed = model.cfg.n_layers * model.cfg.n_heads * len(batch)
    assert sequences[0] < changed / 2, "a changed head needs no layer before its own"
    assert changed <= sum(unembedded) < 1.5 * changed, "one position a changed sequence"


def test_blocks_that_cannot_run_alone_fall_back_to_the_loop(
    tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    batch = batch_of(model)
    plain = sweep_one_by_one(model, batch, "kl_to_clean", zero)
    # A block that depends on something that was not stored: here, on how often it was called.
    calls = iter(range(10**6))
    block = model.blocks[1].original_component
    own = block.forward
    monkeypatch.setattr(block, "forward", lambda *args, **kwargs: own(*args, **kwargs) + next(calls) * 0.1)
    with pytest.warns(RuntimeWarning, match="once per head"):
        sweep(model, batch, "kl_to_clean", zero)
    monkeypatch.undo()
    with pytest.warns(RuntimeWarning, match="output projection"):
        monkeypatch.setattr(model.blocks[2].attn.o, "_modules", dict(model.blocks[2].attn.o._modules))
        projection = model.blocks[2].attn.o.original_component
        model.blocks[2].attn.o._modules["_original_component"] = torch.nn.Sequential(projection)
        found = sweep(model, batch, "kl_to_clean", zero)
    assert (found - plain).abs().max() < 1e-5


def test_an_open_intervention_is_refused(tiny: Callable[[str], Any]) -> None:
    model = tiny("gpt2")
    batch = batch_of(model)
    with pytest.raises(BadOption, match="has a hook on it"), intervene(model, [zero("L0H0")], batch):
        sweep(model, batch, "kl_to_clean", zero)


class ToNaN(Zero):
    def new_z(self, site: Any) -> Any:
        return super().new_z(site) * torch.nan


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (UnknownHead, "L9H0", {"heads": "L9H0"}),
        (UnknownMetric, "Nearest: accuracy", {"metric": "acuracy"}),
        (BadOption, "chunk is 0", {"chunk": 0}),
        (BadOption, "no heads", {"heads": []}),
        (NonFinite, r"prompt 0 .*of L0H0", {"kind": ToNaN}),
        (NoEffect, "changed no head's output", {"kind": partial(zero, positions=(99,))}),
    ],
)
def test_bad_calls_say_what_is_wrong(
    tiny: Callable[[str], Any], error: type[HeadscopeError], message: str, options: dict[str, Any]
) -> None:
    model = tiny("llama")
    call = {"metric": "kl_to_clean", "kind": zero} | options
    with pytest.raises(error, match=message):
        sweep(model, batch_of(model), call.pop("metric"), call.pop("kind"), **call)


def test_longer_prompts_get_smaller_chunks(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    short, long = (encode(model, [sentence(n, 0)]) for n in (5, 100))
    assert choose_chunk(model, short) > 10 * choose_chunk(model, long) >= 10
