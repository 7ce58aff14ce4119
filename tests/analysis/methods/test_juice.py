"""Gains of single heads over the forms of a conflict, the lists made of them, and the importance by direct paths."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import graph_of, pairs
from transformer_lens.patching import get_act_patch_direct_path

from headscope.analysis.context.juice import (
    AMOUNTS,
    answer_probability,
    asking,
    consistent,
    gains,
    juice_gains,
    sides,
)
from headscope.analysis.direct import direct
from headscope.analysis.methods import juice
from headscope.analysis.methods.juice import juice_context, juice_memory, ph3
from headscope.analysis.registry import get
from headscope.analysis.score import score
from headscope.datasets.conflict import FORMS, as_form, conflict
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, MissingData
from headscope.hooks.capture import capture_z
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.heads import Head, all_heads
from headscope.hooks.interventions import resample
from headscope.hooks.load import load
from headscope.hooks.metrics import first_tokens
from headscope.hooks.wiring import Edge


@pytest.fixture(scope="module")
def text():
    return load("organism/text")


@pytest.fixture(scope="module")
def items():
    return conflict(2, words="organism", split="train", wording="is")


def test_a_heads_gain_is_the_change_of_probability_when_its_write_is_added_to_attention(text, items):
    """The definition, by adding a · z·W_O to what attention hands on, not by scaling z."""
    layer, head, amount = 2, 3, 3.0
    found = gains(text, items, "context", [amount], forms=("substitution",))[0, :, layer, head]
    batch = encode(text, as_form(asking(items, "context"), "substitution"))
    z = capture_z(text, batch)[layer][:, :, head]
    write = z @ text.blocks[layer].attn.W_O[head]

    def add(out, hook):
        return out + amount * write

    with torch.no_grad():
        clean = answer_probability(forward(text, batch, logits_at="last")[:, 0], batch)
        with text.hooks(fwd_hooks=[(f"blocks.{layer}.hook_attn_out", add)]):
            changed = answer_probability(forward(text, batch, logits_at="last")[:, 0], batch)
    assert abs(changed - clean).max() > 1e-4
    np.testing.assert_allclose(found, (changed - clean).numpy(), atol=1e-5)


def test_a_consistent_head_scores_its_sum_and_another_its_worst_form():
    measured = np.zeros((3, 2, 1, 3))
    measured[:, :, 0, 0] = [[0.2, 0.0], [0.1, 0.1], [0.3, 0.1]]  # helps everywhere
    measured[:, :, 0, 1] = [[0.9, 0.9], [0.9, 0.9], [-0.02, 0.0]]  # but not in the last form
    found = consistent(measured)
    np.testing.assert_allclose(found[:, 0, 0], [0.6, 0.2])
    np.testing.assert_allclose(found[:, 0, 1], [-0.02, 0.0])
    assert found.mean(axis=0)[0, 2] == 0, "a head without any effect is not consistent"
    np.testing.assert_allclose(consistent(measured, 0.05)[:, 0, 1], [1.78, 1.8])
    with pytest.raises(BadOption, match="tolerance=-1"):
        consistent(measured, -1)


def test_lists_rank_consistent_heads_only(text):
    made = conflict(2, words="organism", split="train")
    lists = juice_gains(text, made, "memory").lists(k=3, tolerance=0.01)
    assert lists.negative and str(lists.negative[0]) == "L1H6"
    table = lists.table.set_index(["layer", "head"])
    ranked = [table.loc[tuple(head), "negative_score"] for head in lists.negative]
    assert ranked == sorted(ranked, reverse=True) and min(ranked) > 0
    for head in lists.negative:
        assert all(table.loc[tuple(head), f"negative_{form}"] > -0.01 for form in FORMS)
    assert set(table["negative_rank"]) == {0, *range(1, len(lists.negative) + 1)}


def test_methods_give_the_lists_scores_and_say_how_many_are_consistent(text, items):
    done = []
    measured = juice_memory(
        text, items, sign="negative", tolerance=0.01, progress=lambda i, n: done.append((i, n))
    )
    wanted = consistent(gains(text, items, "memory", AMOUNTS["negative"]), 0.01)
    np.testing.assert_allclose(measured.samples, wanted, atol=1e-12)
    n_steps = len(FORMS) * len(AMOUNTS["negative"])
    assert done == [(i, n_steps) for i in range(1, n_steps + 1)]
    count = int(re.match(r"(\d+) of 32 heads help in every form", measured.notes[1]).group(1))  # pyright: ignore
    assert 32 > count >= int((wanted.mean(axis=0) > 0).sum()) > 0
    assert get("juice-memory").intervenes and not get("juice-memory").per_prompt


def test_items_do_not_depend_on_each_other_nor_on_which_answer_is_called_right(text):
    made = conflict(3, words="organism", wording="is")
    whole = gains(text, made, "memory", [1.0], forms=("coherent",))
    alone = [gains(text, made[i : i + 1], "memory", [1.0], forms=("coherent",)) for i in range(3)]
    np.testing.assert_allclose(whole, np.concatenate(alone, axis=1), atol=1e-5)
    other = gains(
        text,
        conflict(3, words="organism", wording="is", target="memory"),
        "memory",
        [1.0],
        forms=("coherent",),
    )
    np.testing.assert_allclose(whole, other, atol=1e-7)


def test_sides_are_told_apart_by_what_is_stated():
    clean, false = "q : the language of Germany", "the language of Germany Thai . q : the language of Germany"
    forms = {"clean": clean, "substitution": false, "coherent": false}
    for answer, foil in ((" Thai", " German"), (" German", " Thai")):
        assert sides(Prompt(false, answer, foil, variants=forms)) == (" Thai", " German")
    for broken in (
        Prompt(false, " Thai", " German"),
        Prompt(false, " Greek", " German", variants=forms),
        Prompt(false, " Thai", variants=forms),
    ):
        with pytest.raises(MissingData):
            sides(broken)
    with pytest.raises(BadOption, match="side='truth'"):
        asking(PromptSet("none", ()), "truth")


def test_the_direct_path_of_a_head_is_what_its_write_does_to_the_last_norm(text):
    made = conflict(2, words="organism", forms=("substitution",), wording="is")
    found = ph3(text, made, side="context").samples
    layer, head = 2, 2
    batch = encode(text, asking(made, "context"))
    other = encode(text, asking(made, "memory"))
    difference = (capture_z(text, batch.corrupted()) - capture_z(text, batch))[layer][:, :, head]
    write = difference @ text.blocks[layer].attn.W_O[head]
    with torch.no_grad():
        logits = forward(text, batch)
        with text.hooks(fwd_hooks=[("ln_final.hook_in", lambda resid, hook: resid + write)]):
            changed = forward(text, batch)
    rows = torch.arange(2)
    p = [[answer_probability(x[rows, b.last], b) for x in (logits, changed)] for b in (batch, other)]
    (own, own_new), (foil, foil_new) = p
    wanted = ((foil_new - foil) - (own_new - own)) / (own + foil)
    np.testing.assert_allclose(found[:, layer, head], wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(ph3(text, made, side="memory").samples, -found, atol=1e-9)


@pytest.mark.parametrize("slot", ["q", "k", "v"])
def test_paths_between_heads_are_those_of_transformer_lens_and_the_path_to_the_logits_is_ours(tiny, slot):
    """The graph of a model shows both: it has edges from a head to heads, and from a head to the logits."""
    model = tiny("gpt2")
    graph = graph_of(model, pairs(1))
    wiring, batch = graph.wiring, graph.clean
    token = int(first_tokens(batch, "answer")[0])
    _, ours = model.run_with_cache(batch.tokens)
    _, given = model.run_with_cache(graph.corrupt.tokens)

    def without(*edges: Edge) -> torch.Tensor:
        keep = torch.ones(1, *wiring.possible.shape)
        for edge in edges:
            keep[(0, *wiring.index(edge))] = 0
        return graph.run(graph.rows(), keep=keep).logits[0]

    with torch.no_grad():
        clean = forward(model, batch, logits_at="last")[0, 0]
        for source in (Head(0, 1), Head(1, 2)):
            theirs = get_act_patch_direct_path(
                model,
                batch.tokens,
                given,
                ours,
                lambda logits: logits[0, -1, token],
                source.layer,
                source.index,
                component=slot,  # type: ignore[arg-type]
                verbose=False,
            )
            moved = 0.0
            for later in (head for head in all_heads(model) if head.layer > source.layer):
                found = float(without(Edge(str(source), str(later), slot))[token])
                assert found == pytest.approx(float(theirs[later.layer, later.index]), abs=2e-5)
                moved = max(moved, abs(found - float(clean[token])))
            assert moved > 1e-4, "the paths do something"
            with direct(model, resample((source,)), batch):
                straight = forward(model, batch, logits_at="last")[0, 0]
            torch.testing.assert_close(without(Edge(str(source), "logits")), straight, atol=2e-5, rtol=1e-5)
            assert (straight - clean).abs().max() > 1e-4


@torch.no_grad()
def test_with_mlps_run_every_later_mlp_sees_the_head_and_no_other_head_does(tiny):
    model = tiny("gpt2")
    graph = graph_of(model, pairs(2))
    wiring, batch, source = graph.wiring, graph.clean, Head(0, 1)
    clean = graph.clean_written
    stream = clean[:, 0].clone()
    for layer in range(wiring.n_layers):
        first = wiring.first_writer(layer)
        heads = clean[:, first : first + wiring.n_heads].clone()
        if layer == source.layer:
            at = first + source.index
            heads[:, source.index] = graph.corrupt_written[:, at]
        stream = stream + heads.sum(1) + graph._layers[layer].bias
        stream = stream + graph.mlp(layer, stream)
    expected = graph.unembed(stream, graph.rows())
    with juice._Held(model, batch).but(source):
        found = forward(model, batch, logits_at="last")[:, 0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    with direct(model, resample((source,)), batch):
        straight = forward(model, batch, logits_at="last")[:, 0]
    assert (found - straight).abs().max() > 1e-4


def test_mlps_are_kept_or_run_and_that_matters(text):
    made = conflict(2, words="organism", forms=("substitution",))
    kept, run = (ph3(text, made, side="context", mlps=mlps).samples for mlps in ("kept", "run"))
    assert abs(kept - run).max() > 1e-3
    with pytest.raises(BadOption, match="mlps='none'"):
        ph3(text, made, mlps="none")  # type: ignore[arg-type]


def test_prompts_without_a_corrupted_text_of_their_length_do_not_count(text):
    made = conflict(3, words="organism", forms=("substitution",))
    broken = PromptSet(
        "broken",
        (made[0], replace(made[1], corrupted=""), replace(made[2], corrupted=made[2].corrupted + " again")),
    )
    found = ph3(text, broken)
    np.testing.assert_allclose(found.samples[:1], ph3(text, made[:1]).samples, atol=1e-6)
    assert np.isnan(found.samples[1:]).all() and np.isnan(found.chance[1:]).all()
    assert found.notes[1] == "2 of 3 prompts have no corrupted text of as many tokens and do not count."
    with pytest.raises(MissingData, match="no prompt has a corrupted text"):
        ph3(text, PromptSet("none", broken.prompts[1:]))


def test_context_heads_are_those_that_copy(text):
    made = conflict(8, words="organism", forms=("substitution",))
    assert {str(head) for head in score(text, "ph3", made, side="context").top(2)} == {"L2H2", "L2H3"}


def test_random_weights_have_no_head_that_speaks_for_a_side(tiny):
    model = tiny("llama")
    word = ["red", "blue", "green", "gold"]
    made = []
    for i in range(4):
        answer, foil = word[i], word[(i + 1) % 4]
        texts = {
            "clean": "the dog saw the box",
            "substitution": f"the box {answer} . the dog saw the box",
            "coherent": f"the box {answer} so {answer} . the dog saw the box",
        }
        corrupted = f"the key {word[(i + 2) % 4]} . the dog saw the key"
        made.append(Prompt(texts["substitution"], f" {answer}", f" {foil}", corrupted, variants=texts))
    null = PromptSet("null", tuple(made))
    assert juice_context(model, null).samples.mean(axis=0).max() < 0.02
    direct = abs(ph3(model, null).samples.mean(axis=0))
    assert direct.mean() < 0.15 and direct.max() < 0.5
