"""What holds for any prompts, heads and kinds of change: padding, identities, order, unions, inverses, sweep = loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ARCHITECTURES, N_HEADS, N_LAYERS, WORDS

from headscope.analysis.score import score_patterns
from headscope.datasets.prompts import Prompt
from headscope.errors import HookNeverFired, NoEffect
from headscope.hooks.capture import each_pattern
from headscope.hooks.directions import Directions
from headscope.hooks.encode import Batch, encode
from headscope.hooks.forward import Pass, announce, forward
from headscope.hooks.generate import generate
from headscope.hooks.heads import Head
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import mean, resample, scale, uniform, zero
from headscope.hooks.reweight import act, reweight, split_softmax
from headscope.hooks.steering import add, replay
from headscope.hooks.sweep import sweep, sweep_one_by_one

few = partial(settings, max_examples=12)
architectures = st.sampled_from(ARCHITECTURES)
sides = st.sampled_from(["left", "right"])
heads = st.builds(Head, st.integers(0, N_LAYERS - 1), st.integers(0, N_HEADS - 1))
some_heads = st.lists(heads, min_size=1, max_size=5, unique=True)
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    text = draw(words)
    joined = " ".join(text)
    marked = draw(st.integers(0, len(text) - 1))
    start = len(" ".join([*text[:marked], ""])) if marked else 0
    return Prompt(
        joined,
        corrupted=" ".join(draw(st.permutations(text))),
        answer=" cat",
        foil=" dog",
        spans={"needle": ((start, start + len(text[marked])),)},
    )


groups = st.lists(prompts(), min_size=1, max_size=5)
phases = st.sampled_from(["all", "decode", "prefill"])


def logits(model: Any, batch: Batch, changes: Any = ()) -> list[torch.Tensor]:
    """Logits of every prompt's real tokens, whatever stands beside them; an intervention may find nothing to do."""
    with torch.no_grad(), suppress(HookNeverFired, NoEffect), intervene(model, changes):
        found = forward(model, batch)
    return [row[mask.bool()] for row, mask in zip(found, batch.attention_mask, strict=True)]


def kinds_of(some: list[Head], phase: Any) -> dict[str, Any]:
    at = {"phase": phase}
    return {
        "zero": zero(some, **at),
        "scale": scale(some, -1.7, **at),
        "uniform": uniform(some, **at),
        "mean": mean(some, ["the cat saw a dog", "one two"], **at),
        "needle": zero(some, positions="needle", **at),
        "first": uniform(some, positions=(0, -1), **at),
        "reweight": reweight(some, source=0, fraction=0.6, **at),
        "split": split_softmax(some, keys="needle", tau=0.5, **at),
        "act": act(some, beta=0.3, threshold=0.15, **at),
        "replay": replay(some, 0.7, **at),
    }


KINDS = st.sampled_from(sorted(kinds_of([Head(0, 0)], "all")))


# --- encoding under padding ------------------------------------------------------------------------------------------


@few()
@given(architecture=architectures, some=groups, side=sides, extra=groups)
def test_a_prompt_encodes_alike_in_any_company(tiny, architecture, some, side, extra):
    model = tiny(architecture)
    together = encode(model, [*some, *extra], padding_side=side)
    for row, prompt in enumerate(some):
        alone = encode(model, [prompt])
        real = together.attention_mask[row].bool()
        assert torch.equal(together.tokens[row, real], alone.tokens[0])
        assert together.positions[row, real].tolist() == list(range(len(alone.tokens[0])))
        assert int(together.lengths[row]) == len(alone.tokens[0])
        assert torch.equal(together.spans["needle"][row, real], alone.spans["needle"][0])
        assert not together.spans["needle"][row, ~real].any()
        assert together.answer_ids[row].tolist() == alone.answer_ids[0].tolist()
        assert int(together.last[row]) == int(real.nonzero()[-1])


@few()
@given(
    architecture=architectures,
    some=groups,
    side=sides,
    cut=st.integers(0, 5),
    kind=KINDS,
    chosen=some_heads,
    phase=phases,
)
def test_numbers_do_not_depend_on_padding_and_grouping(
    tiny, architecture, some, side, cut, kind, chosen, phase
):
    """Clean and changed: any side, any way to cut the prompts into batches."""
    model, change = tiny(architecture), kinds_of(chosen, phase)[kind]
    alone = [logits(model, encode(model, [prompt]), change)[0] for prompt in some]
    parts = [part for part in (some[:cut], some[cut:]) if part]
    grouped = [row for part in parts for row in logits(model, encode(model, part, padding_side=side), change)]
    for one, other in zip(alone, grouped, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=2e-5)


@few(max_examples=8)
@given(architecture=architectures, some=groups, order=st.randoms(use_true_random=False))
def test_scores_follow_their_prompts_through_any_order(tiny, architecture, some, order):
    model = tiny(architecture)
    places = list(range(len(some)))
    order.shuffle(places)
    methods = ["first-token", "previous-token", "entropy"]
    straight = score_patterns(model, some, methods)
    mixed = score_patterns(model, [some[place] for place in places], methods)
    for name in methods:
        np.testing.assert_allclose(mixed[name].samples, straight[name].samples[places], atol=1e-5, rtol=0)


# --- interventions ---------------------------------------------------------------------------------------------------


@few(max_examples=20)
@given(architecture=architectures, some=groups, side=sides, chosen=some_heads, phase=phases)
def test_what_is_meant_to_change_nothing_leaves_every_bit(tiny, architecture, some, side, chosen, phase):
    model = tiny(architecture)
    batch = encode(model, some, padding_side=side)
    clean = logits(model, batch)
    d_head, d_model = int(model.cfg.d_head), int(model.cfg.d_model)
    by_head = Directions("z", {head: torch.ones(d_head) for head in chosen})
    by_layer = Directions("resid", {head.layer: torch.ones(d_model) for head in chosen})
    identities = [
        scale(chosen, 1.0, phase=phase),
        reweight(chosen, source=0, fraction=0.0, phase=phase),
        split_softmax(chosen, keys="needle", tau=1.0, phase=phase),
        act(chosen, beta=1.0, phase=phase),
        replay(chosen, 0.0, phase=phase),
        replay(chosen, 0.0, dual=False, phase=phase),
        add(by_head, 0.0, phase=phase),
        add(by_layer, 0.0, phase=phase),
    ]
    for change in [*identities, identities]:
        for one, other in zip(clean, logits(model, batch, change), strict=True):
            assert torch.equal(one, other), change


@few()
@given(architecture=architectures, some=groups, one=some_heads, other=some_heads, phase=phases)
def test_the_union_of_heads_is_both_at_once(tiny, architecture, some, one, other, phase):
    """In a list, in nested blocks, in either order, and for heads that are named twice."""
    model, batch = tiny(architecture), encode(tiny(architecture), some)
    rest = [head for head in other if head not in one]
    both = [*one, *rest]
    for kind in (zero, uniform):
        union = logits(model, batch, kind(both, phase=phase))
        separate = [kind(one, phase=phase), *([kind(rest, phase=phase)] if rest else [])]
        for changes in (separate, separate[::-1]):
            for a, b in zip(union, logits(model, batch, changes), strict=True):
                assert torch.equal(a, b)
        with intervene(model, separate[0]):
            nested = logits(model, batch, separate[1:])
            if phase == "prefill":
                with torch.no_grad():
                    forward(model, encode(model, ["the cat saw a dog"]))
        for a, b in zip(union, nested, strict=True):
            assert torch.equal(a, b)


@few()
@given(
    architecture=architectures,
    some=groups,
    head=heads,
    gains=st.lists(st.sampled_from([0.25, 0.5, 2.0, 4.0, -1.0]), min_size=2, max_size=4),
)
def test_gains_multiply_in_any_order_and_an_inverse_undoes(tiny, architecture, some, head, gains):
    """Powers of two, so that products are exact and every bit can be asked for."""
    model, batch = tiny(architecture), encode(tiny(architecture), some)
    changes = [scale(head, gain) for gain in gains]
    want = logits(model, batch, scale(head, float(np.prod(gains))))
    for listed in (changes, changes[::-1]):
        for one, other in zip(want, logits(model, batch, listed), strict=True):
            assert torch.equal(one, other)
    undone = [*changes, *(scale(head, 1 / gain) for gain in gains)]
    for one, other in zip(logits(model, batch), logits(model, batch, undone), strict=True):
        assert torch.equal(one, other)


@few()
@given(
    architecture=architectures,
    some=groups,
    head=heads,
    a=st.floats(-2, 2),
    b=st.floats(-2, 2),
    seed=st.integers(0, 9),
)
def test_strengths_and_directions_add_up_and_their_negative_undoes(
    tiny, architecture, some, head, a, b, seed
):
    model, batch = tiny(architecture), encode(tiny(architecture), some)
    drawn = torch.randn(2, int(model.cfg.d_head), generator=torch.Generator().manual_seed(seed))
    one, two = (Directions("z", {head: row}) for row in drawn)
    summed = logits(model, batch, add(a * one + b * two))
    apart = logits(model, batch, [add(one, a), add(two, b)])
    swapped = logits(model, batch, [add(two, b), add(one, a)])
    for x, y, z in zip(summed, apart, swapped, strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(y, z, atol=2e-5, rtol=2e-5)
    undone = logits(model, batch, [add(one, a), add(-one, a)])
    for x, y in zip(undone, logits(model, batch), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)
    doubled = logits(model, batch, replay(head, 1.0, dual=False))
    for x, y in zip(doubled, logits(model, batch, scale(head, 2.0)), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)


@few()
@given(architecture=architectures, some=groups, side=sides, chosen=some_heads, kind=KINDS, phase=phases)
def test_rows_of_attention_sum_to_one_also_after_edits(tiny, architecture, some, side, chosen, kind, phase):
    model = tiny(architecture)
    batch = encode(model, some, padding_side=side)
    real = batch.attention_mask.bool()

    def check(layer: int, pattern: torch.Tensor) -> None:
        sums = pattern.sum(-1).transpose(1, 2)[real]
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
        rows = pattern.transpose(1, 2)[real]
        assert (rows >= 0).all() and (rows <= 1 + 1e-5).all()
        hidden = ~real[:, None, None, :] & real[:, None, :, None]
        assert (pattern.masked_select(hidden) == 0).all(), "padding is never looked at"
        assert (pattern.triu(1)[real[:, None].expand(pattern.shape[:3])] == 0).all(), (
            "nor is what comes later"
        )

    each_pattern(model, batch, check)
    with suppress(HookNeverFired, NoEffect), intervene(model, kinds_of(chosen, phase)[kind], batch):
        each_pattern(model, batch, check)


@few(max_examples=10)
@given(
    architecture=architectures,
    some=st.lists(prompts(), min_size=1, max_size=3),
    chosen=some_heads,
    kind=KINDS,
)
def test_generation_follows_the_whole_text_whatever_is_cached(tiny, architecture, some, chosen, kind):
    """Tokens that were written one by one, read again in one go under the same change, are the likeliest ones."""
    model, change = tiny(architecture), kinds_of(chosen, "all")[kind]
    if kind in ("act", "needle", "first"):
        return  # whose keys or places are counted from the prompt's end
    with suppress(HookNeverFired, NoEffect):
        written = generate(model, some, interventions=change, max_new_tokens=4)
        alone = generate(model, some[0], interventions=change, max_new_tokens=4)
        assert alone[0].tokens == written[0].tokens
        np.testing.assert_allclose(alone[0].logprobs, written[0].logprobs, atol=2e-5)
        for one in written:
            own = encode(model, [one.prompt])
            fed = torch.cat([own.tokens[0], torch.tensor(one.tokens[:-1], dtype=torch.long)])[None]
            whole = announce(model, Pass(torch.arange(fed.shape[1])[None], own))
            with torch.no_grad(), suppress(NoEffect), intervene(model, change), whole:
                found = model(fed)[0, len(own.tokens[0]) - 1 :].log_softmax(-1)
            picked = found[torch.arange(len(one.tokens)), list(one.tokens)]
            np.testing.assert_allclose(picked, one.logprobs, atol=5e-5)


# --- sweep = loop ----------------------------------------------------------------------------------------------------

SWEPT = {
    "zero": zero,
    "uniform": uniform,
    "scale": partial(scale, gain=-0.5),
    "mean": partial(mean, reference=["the cat saw a dog", "one two"]),
    "by position": partial(mean, reference=[" ".join(WORDS[:30])], by_position=True),
    "resample": resample,
    "decode": partial(zero, phase="decode"),
    "needle": partial(uniform, positions="needle"),
    "last two": partial(zero, positions=(-1, -2)),
}


@few(max_examples=25)
@given(
    architecture=architectures,
    some=groups,
    side=sides,
    chosen=some_heads,
    kind=st.sampled_from(sorted(SWEPT)),
    metric=st.sampled_from(["kl_to_clean", "answer_logprob", "logit_difference"]),
    chunk=st.none() | st.integers(1, 9),
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_sweep_equals_the_loop(tiny, architecture, some, side, chosen, kind, metric, chunk):
    model = tiny(architecture)
    if architecture == "qwen3" and kind == "resample":
        some = [
            Prompt(one.text, corrupted=one.text[::-1].replace(" ", "x"), answer=" cat", foil=" dog")
            for one in some
        ]
        some = [one for one in some if len({*encode(model, [one.text, one.corrupted]).lengths.tolist()}) == 1]
    if kind == "by position":
        some = [one for one in some if len(encode(model, [one.text]).tokens[0]) <= 30]
    if not some:
        return
    batch = encode(model, some, padding_side=side)

    def of(run: Callable[..., torch.Tensor], **options: Any) -> torch.Tensor | str:
        try:
            return run(model, batch, metric, SWEPT[kind], heads=chosen, **options)
        except NoEffect:
            return "no effect"

    fast, plain = of(sweep, chunk=chunk), of(sweep_one_by_one)
    assert isinstance(fast, str) == isinstance(plain, str), (fast, plain)
    if not isinstance(fast, str) and not isinstance(plain, str):
        run = torch.zeros(N_LAYERS, N_HEADS, dtype=torch.bool)
        for head in chosen:
            run[head] = True
        assert torch.equal(~fast.isnan(), run.expand_as(fast))
        assert (fast - plain)[:, run].abs().max() < 2e-5
