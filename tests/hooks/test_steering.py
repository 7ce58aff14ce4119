"""Steering interventions: exact no-ops, explicit recomputation, the same with a cache, alone and in company."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from models import N_HEADS, N_LAYERS, sentence

from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption, HookNeverFired, NoEffect, UnknownHead
from headscope.hooks import points
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.directions import Directions
from headscope.hooks.encode import encode
from headscope.hooks.forward import Pass, announce, forward
from headscope.hooks.generate import generate
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import resample, scale
from headscope.hooks.reweight import act, moving, reweight, split_softmax
from headscope.hooks.rows import read_rows
from headscope.hooks.steering import add, replay

TEXTS = [sentence(n, seed=n) for n in (11, 4, 8)]
HEADS = ((0, 1), (1, 2), (1, 3), (2, 0))
WHOLE_GROUPS = ((0, 0), (0, 1), (1, 2), (1, 3))


def directions(model, at, seed=0, size=1.0):
    """Random vectors at a point; the same for heads that share keys."""
    generator = torch.Generator().manual_seed(seed)
    if at == "resid":
        return Directions(
            at, {layer: size * torch.randn(int(model.cfg.d_model), generator=generator) for layer in (0, 2)}
        )
    group = {
        head // 2: size * torch.randn(int(model.cfg.d_head), generator=generator) for head in range(N_HEADS)
    }
    heads = WHOLE_GROUPS if at == "k" else HEADS
    drawn = {
        head: group[head[1] // 2]
        if at == "k"
        else size * torch.randn(int(model.cfg.d_head), generator=generator)
        for head in heads
    }
    return Directions(at, drawn)


KINDS = {
    "replay": lambda model, s, **at: replay(HEADS, s, **at),
    "june": lambda model, s, **at: replay(HEADS, s, dual=False, **at),
    **{
        f"add {place}": lambda model, s, place=place, **at: add(directions(model, place), s, **at)
        for place in ("resid", "q", "k", "rot_q", "z")
    },
    "reweight": lambda model, s, **at: reweight(HEADS, (0, 1), 0.5 * s, **at),
    "reweight to": lambda model, s, **at: reweight(HEADS, (0, 2), 0.5 * s, target=(1, -1), **at),
    "split": lambda model, s, **at: split_softmax(HEADS, (1, 2), 1 - 0.7 * s, **at),
    "act": lambda model, s, **at: act(HEADS, beta=1 - 0.8 * s, threshold=0.15, **at),
}


def logits_of(model, batch, interventions=()):
    with torch.no_grad(), intervene(model, interventions):
        return forward(model, batch)[batch.attention_mask.bool()]


@pytest.mark.parametrize("name", KINDS)
def test_strength_0_leaves_every_bit_and_strength_1_does_not(any_model, name):
    batch = encode(any_model, TEXTS, padding_side="left")
    clean, nothing = logits_of(any_model, batch), KINDS[name](any_model, 0.0)
    assert nothing.is_identity and not KINDS[name](any_model, 1.0).is_identity
    assert torch.equal(logits_of(any_model, batch, nothing), clean)
    if (
        name != "add k" or "blocks.0.attn.hook_rot_k" in any_model.hook_dict
    ):  # see the test of constants on keys
        assert (logits_of(any_model, batch, KINDS[name](any_model, 1.0)) - clean).abs().max() > 1e-4
    made, same = (generate(any_model, TEXTS, max_new_tokens=5, interventions=some) for some in ((), nothing))
    assert [(one.tokens, one.logprobs) for one in made] == [(one.tokens, one.logprobs) for one in same]


def whole_passes(model, text, tokens, intervention):
    """Logits of each new token by whole forward passes over the prompt and what follows it."""
    prompt = encode(model, [text])
    ids, found = prompt.tokens, []
    # As in generation the prompt keeps its length, and its last token is where decoding begins.
    known = SimpleNamespace(lengths=prompt.lengths, spans={})
    with torch.no_grad():
        for token in tokens:
            positions = torch.arange(ids.shape[1])[None]
            with intervene(model, intervention), announce(model, Pass(positions, known)):
                found.append(model(ids, use_cache=False)[0, -1])
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return torch.stack(found)


@pytest.mark.parametrize("phase", ["all", "prefill", "decode"])
@pytest.mark.parametrize("name", KINDS)
def test_with_a_cache_it_is_as_in_whole_passes(any_model, name, phase):
    intervention, steps = KINDS[name](any_model, 1.0, phase=phase), []
    made = generate(any_model, TEXTS[0], max_new_tokens=5, interventions=intervention, on_step=steps.append)[
        0
    ]
    want = whole_passes(any_model, TEXTS[0], made.tokens, intervention)
    torch.testing.assert_close(torch.cat([step.logits for step in steps]), want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_padding_and_company_change_nothing(any_model, name):
    intervention = KINDS[name](any_model, 1.0)
    alone = torch.cat([logits_of(any_model, encode(any_model, [text]), intervention) for text in TEXTS])
    for side in ("left", "right"):
        together = logits_of(any_model, encode(any_model, TEXTS, padding_side=side), intervention)
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_each_prompt_may_have_a_strength_of_its_own(tiny, name):
    model, values = tiny("llama"), (0.0, 0.5, 1.0)
    if name.startswith("reweight"):
        each = replace(KINDS[name](model, 1.0), fraction=tuple(0.5 * s for s in values))
    elif name == "split":
        each = replace(KINDS[name](model, 1.0), tau=tuple(1 - 0.7 * s for s in values))
    elif name == "act":
        each = replace(KINDS[name](model, 1.0), beta=tuple(1 - 0.8 * s for s in values))
    else:
        each = KINDS[name](model, values)
    batch = encode(model, TEXTS, padding_side="left")
    with torch.no_grad(), intervene(model, each):
        together = forward(model, batch)
    for row, value in enumerate(values):
        with torch.no_grad(), intervene(model, KINDS[name](model, value)):
            alone = forward(model, batch)
        assert torch.equal(together[row], alone[row])
    options = {"max_new_tokens": 4, "batch_size": 2}
    made = generate(model, TEXTS, interventions=each, **options)  # the third prompt is in the second batch
    for row, value in enumerate(values):
        want = generate(model, TEXTS, interventions=KINDS[name](model, value), **options)[row]
        assert made[row].tokens == want.tokens and made[row].logprobs == want.logprobs
    with pytest.raises(BadOption, match="strength has 3 values and prompt 3 is run"):
        generate(model, [*TEXTS, "the cat"], interventions=each)


@pytest.mark.parametrize("name", KINDS)
def test_one_that_never_acts_is_refused(tiny, name):
    model = tiny("llama")
    nowhere = KINDS[name](model, 1.0, positions=99)
    with pytest.raises(HookNeverFired, match="did not act on"), intervene(model, nowhere):
        forward(model, encode(model, TEXTS))


def test_one_that_changes_nothing_is_refused(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS)
    for nothing in (
        reweight("L0H0", 0, 0.5, positions=0),  # BOS sees itself alone: nowhere for its attention to go
        split_softmax("L0H0", -1, 0.5, positions=2),
        act("L0H0", threshold=1.5),
    ):
        with pytest.raises(NoEffect, match="replaced pattern"), intervene(model, nothing):
            forward(model, batch)
    short = replace(directions(model, "resid"), vectors={1: torch.zeros(32)})
    with pytest.raises(NoEffect, match="replaced resid"), intervene(model, add(short)):
        forward(model, batch)


# Explicit recomputation


def patterns_and_z(model, batch, interventions=()):
    found = {}
    with torch.no_grad(), intervene(model, interventions):
        each_pattern(model, batch, lambda layer, pattern: found.__setitem__(layer, pattern))
    with torch.no_grad(), intervene(model, interventions):
        return found, capture_z(model, batch)


def edited_row(name, row, query, sinks):
    """One attention row as the formulas say, in plain numbers."""
    n = len(row)
    if name == "reweight":
        source, target, fraction = {0, 1}, set(range(2, n)), 0.5
    elif name == "reweight to":
        source, target, fraction = {0, 2}, {1, n - 1}, 0.5
    elif name == "act":
        source, target, fraction = sinks, set(range(n)) - sinks, 0.0 if query == 0 else 0.8
    else:
        mass = sum(row[j] for j in (1, 2))
        if mass in (0, sum(row)):
            return list(row)
        share = mass**0.3
        return [x * share / mass if j in (1, 2) else x * (1 - share) / (1 - mass) for j, x in enumerate(row)]
    moved, room = sum(row[j] for j in source), sum(row[j] for j in target)
    if not room:
        return list(row)
    out = list(row)
    for j in source:
        out[j] *= 1 - fraction
    for j in target:
        out[j] *= 1 + fraction * moved / room
    return out


@pytest.mark.parametrize("name", ["reweight", "reweight to", "split", "act"])
def test_pattern_edits_equal_a_loop_over_rows(any_model, name):
    """The first layer's z is recomputed as the edited pattern times values; heads that are not named keep theirs."""
    text = TEXTS[0]
    batch, rows = encode(any_model, [text]), read_rows(any_model, text)
    before, clean = patterns_and_z(any_model, batch)
    _, after = patterns_and_z(any_model, batch, KINDS[name](any_model, 1.0))
    pattern = before[0][0, 1].double()
    n = len(pattern)
    means = [sum(float(pattern[i, j]) for i in range(j, n - 1)) / max(1, n - 1 - j) for j in range(n)]
    sinks = set([j for j in range(n - 1) if means[j] > 0.15][1:])
    want = torch.tensor([edited_row(name, pattern[i].tolist(), i, sinks) for i in range(n)])
    torch.testing.assert_close(want.sum(-1), torch.ones(n), atol=1e-5, rtol=0)
    z = want @ rows.values[0][rows.group(0, 1)].float()
    torch.testing.assert_close(after[0, 0, :, 1], z, atol=2e-5, rtol=1e-4)
    assert torch.equal(after[0, 0, :, [0, 2, 3]], clean[0, 0, :, [0, 2, 3]])
    assert name != "act" or sinks


def test_adding_to_rotated_queries_equals_softmax_of_biased_scores(any_model):
    """score' = score + d·k: recomputed with the model's scale, cap and window, and the values of its own pass."""
    text, added = TEXTS[0], directions(any_model, "rot_q")
    rows = read_rows(any_model, text)
    vector = added.vectors[(0, 1)]
    queries = rows.queries[0].clone()
    queries[1] += vector
    want = replace(rows, queries=(queries, *rows.queries[1:])).attention(0, 1)
    with torch.no_grad(), intervene(any_model, add(added)):
        z = capture_z(any_model, encode(any_model, [text]))
    torch.testing.assert_close(
        z[0, 0, :, 1], want @ rows.values[0][rows.group(0, 1)].float(), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("at", "hook"),
    [("q", "attn.hook_q"), ("k", "attn.hook_k"), ("z", "attn.hook_z"), ("resid", "hook_resid_post")],
)
def test_adding_equals_a_plain_hook_there(any_model, at, hook):
    batch, added = encode(any_model, TEXTS[:1]), directions(any_model, at)
    n_kv = int(getattr(any_model.cfg, "n_key_value_heads", None) or N_HEADS)

    def plain(layer):
        def edit(value, hook):
            value = value.clone()
            for place, vector in added.vectors.items():
                if place == layer:
                    value += 2 * vector
                elif isinstance(place, tuple) and place[0] == layer:
                    if at == "k" and n_kv < N_HEADS and place[1] % 2:
                        continue  # heads share keys by twos
                    value[:, :, place[1] * n_kv // N_HEADS if at == "k" else place[1]] += 2 * vector
            return value

        return edit

    hooks = [(f"blocks.{layer}.{hook}", plain(layer)) for layer in range(N_LAYERS)]
    with torch.no_grad(), any_model.hooks(fwd_hooks=hooks):
        want = forward(any_model, batch)[0]
    torch.testing.assert_close(logits_of(any_model, batch, add(added, 2.0)), want, atol=1e-5, rtol=1e-5)


def test_a_constant_on_keys_is_inert_after_rotation_and_not_before(any_model):
    """Without rotation the two are the same, so GPT-2 does not mind either; caps make scores less than linear."""
    batch = encode(any_model, TEXTS[:1])
    clean, rotary = logits_of(any_model, batch), "blocks.0.attn.hook_rot_k" in any_model.hook_dict
    moved = logits_of(any_model, batch, add(directions(any_model, "k", size=0.3)))
    capped = getattr(any_model.original_model.config, "attn_logit_softcapping", None)
    if rotary:
        assert (moved - clean).abs().max() > 1e-3
    else:
        torch.testing.assert_close(moved, clean, atol=1e-5, rtol=1e-5)
    if rotary and not capped:
        constant = torch.randn(int(any_model.cfg.d_head), generator=torch.Generator().manual_seed(0)) * 0.3
        hooks = [
            (f"blocks.{layer}.attn.hook_rot_k", lambda k, hook: k + constant) for layer in range(N_LAYERS)
        ]
        with torch.no_grad(), any_model.hooks(fwd_hooks=hooks):
            torch.testing.assert_close(forward(any_model, batch)[0], clean, atol=1e-4, rtol=1e-4)


# Replay


def test_replay_equals_two_runs_by_hand(any_model):
    """Run 1 keeps z; run 2 adds it, layer by layer, through plain hooks."""
    batch = encode(any_model, TEXTS, padding_side="left")
    clean = capture_z(any_model, batch)

    def again(layer):
        def edit(z, hook):
            z = z.clone()
            for head in (head for at, head in HEADS if at == layer):
                z[:, :, head] += 1.5 * clean[layer][:, :, head]
            return z

        return edit

    with (
        torch.no_grad(),
        any_model.hooks(fwd_hooks=[(f"blocks.{i}.attn.hook_z", again(i)) for i in range(N_LAYERS)]),
    ):
        want = forward(any_model, batch)[batch.attention_mask.bool()]
    torch.testing.assert_close(logits_of(any_model, batch, replay(HEADS, 1.5)), want, atol=1e-5, rtol=1e-5)


def test_both_replays_are_one_where_all_heads_sit_in_one_layer(any_model):
    batch = encode(any_model, TEXTS)
    for heads, same in (("L1H0,L1H2", True), ("L0H0,L1H2,L2H1", False)):
        one, two = (logits_of(any_model, batch, replay(heads, 2.0, dual=dual)) for dual in (True, False))
        assert torch.equal(one, two) == same
        assert same or (one - two).abs().max() > 1e-3
        one, two = (
            generate(any_model, TEXTS, max_new_tokens=4, interventions=replay(heads, 2.0, dual=dual))
            for dual in (True, False)
        )
        assert ([made.logprobs for made in one] == [made.logprobs for made in two]) == same
    torch.testing.assert_close(
        logits_of(any_model, batch, replay(HEADS, 1.5, dual=False)),
        logits_of(any_model, batch, scale(HEADS, 2.5)),
    )


def test_replay_boosts_and_suppresses_in_one_list_from_one_clean_run(tiny):
    model = tiny("llama")
    batch, seen = encode(model, TEXTS), []
    both = [replay("L0H0,L1H1", 2.0), replay("L2H3,L1H0", -1.0)]
    with model.hooks(fwd_hooks=[("blocks.0.hook_in", lambda t, hook: seen.append(1))]):
        logits_of(model, batch, both)
    assert len(seen) == 1, "hooks of others see the changed run only"
    with intervene(model, both):
        z = capture_z(model, batch)
    clean = capture_z(model, batch)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(z[0, :, :, 0][real], 3 * clean[0, :, :, 0][real])
    with intervene(model, [replay("L0H0", -1.0)]):
        assert capture_z(model, batch)[0, :, :, 0][real].abs().max() < 1e-6


def test_reference_runs_are_not_shown_to_hooks_of_others(tiny):
    model, seen = tiny("llama"), []
    batch = encode(model, [Prompt("the red fox saw", corrupted="a blue cat took")])
    with intervene(model, resample("L1H0")):
        each_pattern(model, batch, lambda layer, pattern: seen.append(layer))
    assert seen == list(range(N_LAYERS))


# Where it may act


def test_keys_that_are_shared_must_be_named_together(tiny):
    model = tiny("llama")
    vectors = {head: torch.ones(8) for head in ((0, 0), (0, 1))}
    with (
        pytest.raises(BadOption, match="L0H1 shares its keys with L0H0.*name the whole group"),
        intervene(model, add(Directions("k", {(0, 1): torch.ones(8)}))),
    ):
        pass
    with (
        pytest.raises(BadOption, match="both need the same direction"),
        intervene(model, add(Directions("k", vectors | {(0, 1): torch.zeros(8)}))),
    ):
        pass
    with intervene(model, add(Directions("k", vectors))):
        forward(model, encode(model, TEXTS))


@pytest.mark.parametrize("name", ["reweight", "split", "act", "add rot_q"])
def test_models_that_only_show_a_copy_of_attention_are_refused(tiny, monkeypatch, name):
    monkeypatch.setattr(points, "describe", lambda model: SimpleNamespace(pattern_edits=False))
    model = tiny("llama")
    with pytest.raises(BadOption, match="only shows a copy"), intervene(model, KINDS[name](model, 1.0)):
        pass


def test_directions_of_another_model_are_refused(tiny):
    model = tiny("llama")
    for wrong, error, words in (
        (Directions("resid", {1: torch.ones(7)}), BadOption, "has 7 numbers"),
        (Directions("resid", {9: torch.ones(32)}), UnknownHead, "has layers 0-2"),
        (Directions("z", {"L9H9": torch.ones(8)}), UnknownHead, "L9H9"),
    ):
        with pytest.raises(error, match=words), intervene(model, add(wrong)):
            pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replay("L0H0", float("nan")), "gain is nan"),
        (lambda: replay("L0H0", "much"), "gain is 'much'"),
        (lambda: replay("L0H0", []), "gain is"),
        (lambda: reweight("L0H0", None, 0.5), "give the keys to take attention from"),
        (lambda: reweight("L0H0", 0, 1.5), "from 0 to 1"),
        (lambda: split_softmax("L0H0", 0, -1), "of at least 0"),
        (lambda: act("L0H0", beta=-0.1), "beta is -0.1"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_written(make, words):
    with pytest.raises(BadOption) as caught:
        make()
    assert words in str(caught.value)


def test_moving_guards_empty_targets_and_takes_a_fraction_for_each_row():
    pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]]])
    source, target = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    new = pattern * moving(pattern, source, target, 1.0)
    assert new[0, 0].tolist() == [
        [1.0, 0.0, 0.0],
        [0.5, 0.5, 0.0],
        [0.0, pytest.approx(0.3), pytest.approx(0.7)],
    ]
    some = moving(pattern, source, ~source, torch.tensor([[[0.0, 0.0, 0.5]]]))
    assert torch.equal(some[0, 0, :2], torch.ones(2, 3)) and float(some[0, 0, 2, 0]) == 0.5


def test_positions_and_spans_choose_keys(tiny):
    model = tiny("llama")
    prompts = [Prompt("the red fox saw a cat", spans={"gold": ((4, 7), (12, 15))}), Prompt("a cat saw")]
    batch = encode(model, prompts, padding_side="left")
    clean, _ = patterns_and_z(model, batch)
    found = []
    hooks = [("blocks.0.attn.hook_pattern", lambda p, hook: found.append(p.clone()))]
    with (
        torch.no_grad(),
        intervene(model, split_softmax("L0H2", "gold", 0.0, positions=-1)),
        model.hooks(fwd_hooks=hooks),
    ):
        forward(model, batch)
    gold = batch.spans["gold"][0]
    assert float(found[0][0, 2, -1, gold].sum()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(found[0][1], clean[0][1]), "a prompt without the span keeps its attention"
