"""The `intervene` block: exact effect, undoing, and refusing to pass for an intervention that was none."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from fixtures_models import SHARED
from models import N_HEADS, N_LAYERS, sentence
from transformers import DynamicCache

from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption, HookNeverFired, NoEffect, UnknownHead
from headscope.hooks.capture import capture_z
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.heads import Head, all_heads
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import mean, resample, scale, uniform, zero

TEXTS = [sentence(n, seed=n) for n in (12, 5, 17)]
EVERY_HEAD = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]


def logits_of(model, batch, interventions=()):
    """Logits of the real tokens, in order: [token, vocab]."""
    with torch.no_grad(), intervene(model, interventions):
        return forward(model, batch)[batch.attention_mask.bool()]


def hooked(model, batch, hooks):
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        return forward(model, batch)[batch.attention_mask.bool()]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_identity_leaves_every_bit(any_model, side):
    batch = encode(any_model, TEXTS, padding_side=side)
    assert torch.equal(logits_of(any_model, batch), logits_of(any_model, batch, scale(EVERY_HEAD, 1.0)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_uniform_equals_editing_the_pattern(any_model, side):
    """The allowed keys are read off the clean pattern: softmax gives a forbidden key exactly 0."""
    batch = encode(any_model, TEXTS, padding_side=side)

    def spread(heads):
        def edit(pattern, hook):
            even = (pattern > 0).to(pattern)
            pattern = pattern.clone()
            pattern[:, heads] = (even / even.sum(-1, keepdim=True).clamp(min=1))[:, heads]
            return pattern

        return edit

    clean = logits_of(any_model, batch)
    for layer in range(N_LAYERS):
        for heads in ([1], [0, 3], list(range(N_HEADS))):
            want = hooked(any_model, batch, [(f"blocks.{layer}.attn.hook_pattern", spread(heads))])
            got = logits_of(any_model, batch, uniform([(layer, head) for head in heads]))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
            assert (got - clean).abs().max() > 1e-3


def test_uniform_respects_the_sliding_window_in_half_of_the_layers(tiny):
    """Gemma's first layer sees 6 keys, the second all: the sixth-last token matters to one and not to the other."""
    model = tiny("gemma2")
    batch = encode(model, [sentence(20, seed=3)])
    with intervene(model, uniform("L0H0,L1H0")) as run:
        z = capture_z(model, batch)
    v = {}
    keep = [
        (f"blocks.{layer}.attn.hook_v", lambda t, hook: v.__setitem__(hook.name[7], t)) for layer in (0, 1)
    ]
    with intervene(model, uniform("L0H0,L1H0")):
        hooked(model, batch, keep)
    torch.testing.assert_close(z[0, 0, -1, 0], v["0"][0, -6:, 0].mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(z[1, 0, -1, 0], v["1"][0, :, 0].mean(0), atol=1e-6, rtol=1e-5)
    assert run.fired[uniform("L0H0,L1H0")] == 2


def test_removing_every_head_leaves_only_the_output_bias_of_attention(any_model):
    batch = encode(any_model, TEXTS)
    for layer in range(N_LAYERS):
        bias = getattr(any_model.blocks[layer].attn.o.original_component, "bias", None)

        def nothing(out, hook, bias=bias):
            return torch.zeros_like(out) if bias is None else bias.expand_as(out)

        want = hooked(any_model, batch, [(f"blocks.{layer}.attn.hook_out", nothing)])
        got = logits_of(any_model, batch, zero([(layer, head) for head in range(N_HEADS)]))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_heads_are_query_heads_where_keys_and_values_are_shared(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS)
    clean = capture_z(model, batch)
    for kind in (zero, uniform):
        with intervene(model, kind("L1H2")):
            moved = (capture_z(model, batch) - clean).abs().amax((1, 2, 4))[1]
        assert moved[2] > 1e-3 and (moved[[0, 1, 3]] == 0).all()


@pytest.mark.parametrize("kind", [zero, uniform, lambda heads, **at: scale(heads, -2.0, **at)])
def test_padding_and_company_do_not_change_an_intervention(any_model, kind):
    intervention = kind("L0H1,L2H0", phase="decode")
    alone = [logits_of(any_model, encode(any_model, [text]), intervention) for text in TEXTS]
    for side in ("left", "right"):
        together = logits_of(any_model, encode(any_model, TEXTS, padding_side=side), intervention)
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_list_composes_in_its_order_and_so_do_blocks(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS)
    six = logits_of(model, batch, scale("L1H0", 6.0))
    torch.testing.assert_close(logits_of(model, batch, [scale("L1H0", 2.0), scale("L1H0", 3.0)]), six)
    with intervene(model, scale("L1H0", 2.0)) as outer:
        torch.testing.assert_close(logits_of(model, batch, scale("L1H0", 3.0)), six)
    assert outer.fired == {scale("L1H0", 2.0): 1}
    doubled_then_even = logits_of(model, batch, [scale("L1H0", 2.0), uniform("L1H0")])
    assert torch.equal(doubled_then_even, logits_of(model, batch, uniform("L1H0")))
    even_then_doubled = logits_of(model, batch, [uniform("L1H0"), scale("L1H0", 2.0)])
    assert (even_then_doubled - doubled_then_even).abs().max() > 1e-3


def test_reference_runs_are_clean_inside_other_blocks(tiny):
    model = tiny("llama")
    batch = encode(model, [Prompt("the red fox saw", corrupted="a blue cat took")])
    with intervene(model, zero("L0H0,L0H1,L0H2,L0H3")), intervene(model, resample("L1H0")):
        inside = capture_z(model, batch)[1, :, :, 0]
    assert torch.equal(inside, capture_z(model, batch.corrupted())[1, :, :, 0])


def test_positions_and_spans_choose_columns(tiny):
    model = tiny("llama")
    prompts = [Prompt("the red fox saw a cat", spans={"needle": ((4, 7), (12, 15))}), Prompt("a cat saw")]
    batch = encode(model, prompts, padding_side="left")
    clean = capture_z(model, batch)
    for positions, columns in (("needle", [[2, 4], []]), (0, [[0], [3]]), ((-1, 1), [[1, 6], [4, 6]])):
        with intervene(model, zero("L0H2", positions=positions)):
            z = capture_z(model, batch)
        moved = (z[0, :, :, 2] != clean[0, :, :, 2]).any(-1)
        assert [row.nonzero()[:, 0].tolist() for row in moved] == columns


def test_a_direct_call_of_the_model_is_intervened_on_too(tiny):
    """Positions come from the mask, or from the batch that was given."""
    model = tiny("gpt2")
    batch = encode(model, TEXTS, padding_side="left")
    want = logits_of(model, batch, zero("L1H1", phase="decode"))
    with torch.no_grad(), intervene(model, zero("L1H1", phase="decode")):
        from_mask = model(batch.tokens, attention_mask=batch.attention_mask)[batch.attention_mask.bool()]
    torch.testing.assert_close(from_mask, want)
    prompt = Prompt("the red fox saw a cat", spans={"needle": ((4, 7),)})
    with torch.no_grad(), intervene(model, zero("L1H1", positions="needle"), encode(model, [prompt])):
        from_batch = model(encode(model, [prompt]).tokens)
    needle = intervene(model, zero("L1H1", positions="needle"), encode(model, [prompt]))
    with pytest.raises(BadOption, match="not those of the batch"), needle:
        model(encode(model, ["a cat"]).tokens)
    torch.testing.assert_close(
        from_batch[0], logits_of(model, encode(model, [prompt]), zero("L1H1", positions=2))
    )


def test_gradients_pass_through_an_intervention(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS[:1])
    with torch.enable_grad(), intervene(model, [uniform("L1H0"), scale("L2H0", 2.0)]):
        found = []
        with model.hooks(
            fwd_hooks=[("blocks.0.hook_out", lambda t, hook: (t.retain_grad(), found.append(t))[0])]
        ):
            forward(model, batch)[0, -1, 0].backward()
    assert found[0].grad.abs().sum() > 0
    model.zero_grad()


def test_an_intervention_that_chose_no_position_is_refused(tiny):
    model = tiny("gpt2")
    batch = encode(model, ["the cat"])
    with (
        pytest.raises(HookNeverFired, match="no forward pass ran inside the block"),
        intervene(model, zero("L0H0")),
    ):
        pass
    for nowhere in (zero("L0H0", positions=99), zero("L0H0", positions=0, phase="decode")):
        with (
            pytest.raises(HookNeverFired, match="did not act on L0H0 in 1 forward passes"),
            intervene(model, nowhere),
        ):
            forward(model, batch)
    with pytest.raises(HookNeverFired, match="did not act on L2H1"), intervene(model, zero("L0H0,L2H1")):
        model(batch.tokens, stop_at_layer=1)
    with pytest.raises(HookNeverFired), intervene(model, zero("L0H0")):
        model.reset_hooks()
        forward(model, batch)


def test_an_intervention_that_changed_nothing_is_refused(tiny):
    model = tiny("llama")
    same = encode(model, [Prompt("the red fox", corrupted="the red fox"), Prompt("a cat", corrupted="a cat")])
    with (
        pytest.raises(NoEffect, match="is the corrupted text the same"),
        intervene(model, resample("L0H0,L1H1")),
    ):
        forward(model, same)
    with (
        pytest.raises(NoEffect, match="replaced head outputs 1 times"),
        intervene(model, [zero("L0H0"), zero("L0H0")]),
    ):
        forward(model, same)
    with pytest.raises(NoEffect), intervene(model, uniform("L0H0", positions=0)):  # BOS sees itself alone
        forward(model, same)
    with intervene(model, [scale("L0H0", 1.0), zero("L1H0")]) as run:
        forward(model, same)
        forward(model, same)
    assert run.fired == {scale("L0H0", 1.0): 2, zero("L1H0"): 2} and run.passes == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("where", ["before", "inside"])
def test_whatever_happens_the_model_is_as_before(tiny, error, where):
    """Also where nothing had fired yet: the error that comes out is the one that was raised."""
    model = tiny("llama")
    batch = encode(model, TEXTS)
    clean = logits_of(model, batch)

    def interrupt(tensor, hook):
        raise error("stop here")

    with pytest.raises(error, match="stop here"), intervene(model, [uniform("L0H0"), zero("L0H1,L2H0")]):
        if where == "before":
            raise error("stop here")
        with model.hooks(fwd_hooks=[("blocks.1.hook_in", interrupt)]), intervene(model, zero("L0H0")):
            model(batch.tokens)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not model.original_model._forward_pre_hooks and not model.original_model._forward_hooks
    assert torch.equal(logits_of(model, batch), clean)
    with intervene(model, zero("L0H0")):
        forward(model, batch)


def test_a_wrong_call_is_refused_before_anything_runs(tiny):
    model = tiny("gpt2")
    with pytest.raises(UnknownHead, match="L9H9"), intervene(model, zero("L9H9")):
        pass
    with pytest.raises(BadOption, match="is no intervention"), intervene(model, [lambda z: z]):
        pass
    with intervene(model, ()) as run:
        pass
    assert run.fired == {} and not any(point.fwd_hooks for point in model.hook_dict.values())


def test_another_thread_is_refused(tiny):
    model = tiny("gpt2")
    batch = encode(model, ["the cat"])
    messages = []

    def work(call):
        try:
            call()
        except BadOption as error:
            messages.append(str(error))

    def enter():
        with intervene(model, zero("L0H0")):
            pass

    with intervene(model, zero("L0H0")):
        for call in (enter, lambda: forward(model, batch)):
            thread = threading.Thread(target=work, args=(call,))
            thread.start()
            thread.join()
        forward(model, batch)
    assert len(messages) == 2 and all("of another thread" in message for message in messages)
    work(enter_and_run := lambda: logits_of(model, batch, zero("L0H0")))
    thread = threading.Thread(target=work, args=(enter_and_run,))
    thread.start()
    thread.join()
    assert len(messages) == 2


def test_a_cache_that_began_outside_is_refused(tiny):
    model = tiny("llama")
    batch, cache = encode(model, [TEXTS[0]]), DynamicCache()
    with torch.no_grad():
        model(batch.tokens[:, :-1], past_key_values=cache)
        with pytest.raises(BadOption, match="were not all fed inside"), intervene(model, uniform("L0H0")):
            model(batch.tokens[:, -1:], past_key_values=cache)


@pytest.mark.parametrize("chunks", [(1,) * 13, (5, 8), (12, 1)])
def test_cached_passes_equal_one_whole_pass_however_they_are_cut(any_model, chunks):
    """The caller's own loop over a cache: two caches taking turns, values kept for each."""
    ids = [encode(any_model, [sentence(13, seed=seed)]).tokens[:, :13] for seed in (1, 2)]
    intervention = [uniform("L0H0,L2H3"), scale("L1H1", 2.0, positions=[3, 9])]
    caches = [DynamicCache(config=any_model.original_model.config) for _ in ids]
    parts = [[], []]
    with torch.no_grad():
        with intervene(any_model, intervention):
            whole = [any_model(row) for row in ids]
        with intervene(any_model, intervention):
            start = 0
            for size in chunks:
                for row, cache, part in zip(ids, caches, parts, strict=True):
                    part.append(any_model(row[:, start : start + size], past_key_values=cache))
                start += size
    for part, want in zip(parts, whole, strict=True):
        torch.testing.assert_close(torch.cat(part, dim=1), want, atol=1e-5, rtol=1e-5)


def test_every_kind_acts_on_the_stories_model(stories):
    batch = encode(stories, [Prompt("Once upon a time", corrupted="Once upon a day")])
    assert batch.corrupted().lengths.tolist() == batch.lengths.tolist()
    for kind in (zero, uniform, resample, lambda heads: mean(heads, TEXTS), lambda heads: scale(heads, 2.0)):
        with intervene(stories, kind("L2H3")) as run:
            forward(stories, batch)
        assert list(run.fired.values()) == [1]


def test_single_head_effects_agree_with_a_plain_loop_over_hugging_face_modules(stories):
    oracle = SHARED / "oracles" / "stories260k.json"
    if not oracle.exists():
        pytest.skip("../shared/oracles is not here: it is an outside check, not part of the project")
    kinds = {"zero": zero, "uniform": uniform, "2.0": lambda heads: scale(heads, 2.0)}
    for known in json.loads(oracle.read_text())["prompts"]:
        batch = encode(stories, [known["text"]])
        assert batch.tokens[0].tolist() == known["ids"]
        clean = logits_of(stories, batch)[-1].double().log_softmax(-1)
        for name, kind in kinds.items():
            for head in all_heads(stories):
                changed = logits_of(stories, batch, kind(head))[-1].double().log_softmax(-1)
                divergence = float((clean.exp() * (clean - changed)).sum())
                delta = float((changed - clean)[clean.argmax()])
                assert divergence == pytest.approx(_at(known[f"kl_{name}"], head), abs=2e-6)
                assert delta == pytest.approx(_at(known[f"delta_logprob_top_{name}"], head), abs=1e-5)


def _at(table: list[list[float]], head: Head) -> float:
    return table[head.layer][head.index]
