"""A NaN or an infinity is caught where a number would be made of it, and named: prompt, layer, head, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from models import N_LAYERS, sentence

from headscope.analysis.score import score, score_patterns
from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption, NonFinite
from headscope.hooks.attention import make_editable, undo_editable
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.directions import Directions
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.gradients import edge_effects
from headscope.hooks.graph import Graph
from headscope.hooks.hidden import final_hidden
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import Intervention, scale, uniform, zero
from headscope.hooks.load import load
from headscope.hooks.metrics import get_metric, logit_difference
from headscope.hooks.reweight import reweight
from headscope.hooks.rows import read_rows
from headscope.hooks.steering import add, replay
from headscope.hooks.sweep import sweep

PROMPTS = [
    Prompt(sentence(n, n), corrupted=" ".join(reversed(sentence(n, n).split())), answer=" cat", foil=" dog")
    for n in (6, 9, 4)
]


@contextmanager
def spoiled(weight: torch.Tensor, where: Any, value: float) -> Iterator[None]:
    """Put a value into a weight inside the block."""
    kept = weight.detach().clone()
    try:
        weight.detach()[where] = value
        yield
    finally:
        weight.detach().copy_(kept)


def value_weight(model: Any, layer: int, kv_head: int) -> tuple[torch.Tensor, Any]:
    """The part of W_V that belongs to one key-value head."""
    own = model.blocks[layer].attn.original_component
    d_head = int(model.cfg.d_head)
    if hasattr(own, "c_attn"):  # input × (queries, keys, values)
        start = 2 * int(model.cfg.d_model) + kv_head * d_head
        return own.c_attn.weight, (3, slice(start, start + d_head))
    return own.v_proj.weight, (slice(kv_head * d_head, (kv_head + 1) * d_head), 3)


CALLS: dict[str, Callable[[Any], Any]] = {
    "forward": lambda m: forward(m, encode(m, PROMPTS)),
    "last logits": lambda m: forward(m, encode(m, PROMPTS), logits_at="last"),
    "patterns": lambda m: each_pattern(m, encode(m, PROMPTS), lambda layer, pattern: None),
    "outputs": lambda m: capture_z(m, encode(m, PROMPTS)),
    "hidden": lambda m: final_hidden(m, encode(m, PROMPTS)),
    "scores": lambda m: score_patterns(m, PROMPTS, ["first-token"]),
    "sweep": lambda m: sweep(m, encode(m, PROMPTS), "kl_to_clean", zero),
    "generate": lambda m: generate(m, PROMPTS, max_new_tokens=2),
    "rows": lambda m: read_rows(m, PROMPTS[0]),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("layer", [0, N_LAYERS - 1])
def test_a_damaged_value_matrix_names_its_heads(any_model: Any, call: str, layer: int) -> None:
    """Layer and heads in every way through the model, with shared values and without."""
    weight, where = value_weight(any_model, layer, 1)
    heads = (
        f"L{layer}H1" if "c_attn" in dir(any_model.blocks[layer].attn.original_component) else f"L{layer}H2"
    )
    with spoiled(weight, where, float("nan")), torch.no_grad(), pytest.raises(NonFinite) as caught:
        CALLS[call](any_model)
    message = str(caught.value)
    assert re.search(rf"\b{heads}\b", message), message
    assert re.search(r"prompt \d", message) and any(repr(one.text) in message for one in PROMPTS), message
    assert "at token 0" in message and len(message) < 450, message
    assert "float32 the weights or a hook are at fault" in message


def test_a_fault_in_the_last_layer_that_the_last_logits_do_not_feel_is_caught(
    tiny: Callable[[str], Any],
) -> None:
    """Scores read there would be no numbers, though the logits that are asked for are fine."""
    model = tiny("llama")
    batch = encode(model, PROMPTS)

    def spoil(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        pattern[1, 2, 3] = float("nan")
        return pattern

    last = N_LAYERS - 1
    with (
        model.hooks(fwd_hooks=[(f"blocks.{last}.attn.hook_pattern", spoil)]),
        pytest.raises(NonFinite, match=rf"prompt 1 .* the attention of L{last}H2, at token 3"),
    ):
        forward(model, batch, logits_at="last")


@dataclass(frozen=True)
class ToNaN(Intervention):
    """z := NaN on one prompt only, where its first token is that of the prompt."""

    row: int = 0
    kind: ClassVar[str] = "to_nan"

    def new_z(self, site: Any) -> torch.Tensor:
        z = site.z[:, :, self.in_layer(site.layer)].clone()
        z[self.row :] = float("nan")
        return z


@pytest.mark.parametrize(
    ("change", "heads"),
    [
        (scale("L1H2", 1e300), "L1H2"),
        (scale("L1H0,L1H3", -1e38), "L1H0 and L1H3|L1H[03]|attention writes in layer 1"),
        (replay("L1H1", 1e38), "L1H1|attention writes in layer 1|layer 1"),
        (add(Directions("resid", {1: torch.full((32,), 3e38)}), 2.0), "layer 1 leaves"),
        (add(Directions("q", {"L1H3": torch.full((8,), 3e38)}), 2.0), "the query of L1H3"),
        (ToNaN("L2H3"), "L2H3"),
    ],
)
def test_an_intervention_that_gives_no_numbers_is_named_with_its_head(
    tiny: Callable[[str], Any], change: Intervention, heads: str
) -> None:
    model = tiny("gpt2")
    calls = {name: CALLS[name] for name in ("forward", "last logits", "patterns", "generate", "outputs")}
    for name, call in calls.items():
        with torch.no_grad(), intervene(model, change), pytest.raises(NonFinite) as caught:
            call(model)
        message = str(caught.value)
        assert re.search(heads, message) and "It ran inside" in message, (name, message)
        assert change.kind in message.split("It ran inside")[1] and "smaller gain or strength" in message


def test_one_prompt_of_many_is_named(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    with torch.no_grad():
        for side in ("left", "right"):
            batch = encode(model, PROMPTS, padding_side=side)
            with (
                intervene(model, ToNaN("L1H1", row=2)),
                pytest.raises(NonFinite, match=rf"prompt 2 .*{PROMPTS[2].text}.* of L1H1, at token 0"),
            ):
                forward(model, batch)
        with (
            intervene(model, ToNaN("L1H1", row=1, phase="decode")),
            pytest.raises(NonFinite, match=r"prompt 1 .* at new token 0, first in .* of L1H1, at token 9"),
        ):
            generate(model, PROMPTS, max_new_tokens=3)


def test_a_fault_that_comes_late_in_a_text_names_the_new_token(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    length = int(encode(model, PROMPTS[:1]).lengths[0])
    with pytest.raises(NonFinite, match=rf"at new token 2, .* of L0H2, at token {length + 1}"):
        generate(model, PROMPTS[0].text, interventions=ToNaN("L0H2", positions=length + 1), max_new_tokens=4)


def test_a_sweep_names_the_head_that_was_changed(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    for kind in (partial(scale, gain=1e300), ToNaN):
        with pytest.raises(NonFinite, match=r"the output \(z\) of L1H2.* inside \w+\(L1H2\)"):
            sweep(model, encode(model, PROMPTS), "kl_to_clean", kind, heads="L1H2,L2H0")


def test_a_key_that_overflows_is_told_from_attention_of_an_unknown_kind(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    own = model.blocks[1].attn.original_component.k_proj.weight
    with spoiled(own, slice(8, 16), float("inf")), pytest.raises(NonFinite, match=r"the \w+ of L1H2 are NaN"):
        read_rows(model, PROMPTS[0])


def test_edges_and_their_gradients_are_checked_too(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    batch = encode(model, PROMPTS)
    graph = Graph(model, batch, batch.corrupted())
    with pytest.raises(NonFinite, match="of its edges replaced.* of prompt 1 "):
        graph.run(graph.rows()[1:2], source=graph.inputs[1:2] * float("inf"))

    def steep(logits: torch.Tensor, batch: Any, clean: Any = None) -> torch.Tensor:
        return (logits[:, 0] - logits[:, 0].detach()).sqrt()  # 0, with an infinite slope

    with pytest.raises(NonFinite, match="the gradient at .* on prompt 0 "):
        edge_effects(graph, steep, [1.0])
    assert torch.isfinite(edge_effects(graph, get_metric("logit_difference"), [1.0])).all()


@pytest.mark.parametrize("call", ["forward", "sweep", "generate", "scores"])
def test_overflow_of_an_mlp_in_float16_says_so_and_bfloat16_does_not_overflow(
    model_folder: Callable[[str], Any], call: str
) -> None:
    folder = model_folder("llama")
    half, wide = load(folder, dtype="float16"), load(folder, dtype="bfloat16")
    for model in (half, wide):
        up, gate = (
            getattr(model.blocks[1].mlp.original_component, name).weight for name in ("up_proj", "gate_proj")
        )
        with torch.no_grad(), spoiled(up, slice(None), 900.0), spoiled(gate, slice(None), 900.0):
            if model is wide:
                CALLS[call](model)
                continue
            with pytest.raises(
                NonFinite, match=r"the MLP of layer 1, at token \d+\. float16 ends at 65504.*bfloat16"
            ):
                CALLS[call](model)


def test_what_is_masked_or_ruled_out_is_no_fault(any_model: Any) -> None:
    """Padding in front, rows of padding that see nothing, scores of -inf, and rows of attention that hold zeros."""
    for side in ("left", "right"):
        batch = encode(
            any_model, [PROMPTS[0], Prompt(sentence(9, 1), answer=" cat"), PROMPTS[2]], padding_side=side
        )
        with torch.no_grad():
            clean = forward(any_model, batch, logits_at="last")

            def rule_out(scores: torch.Tensor, hook: Any) -> torch.Tensor:
                scores = scores.masked_fill(scores < -1e30, -torch.inf)
                scores[..., 1] = -torch.inf
                return scores

            name = "blocks.0.attn.hook_attn_scores"
            with any_model.hooks(fwd_hooks=[(name, rule_out)]):
                if side == "right":
                    changed = forward(any_model, batch, logits_at="last")
                    assert torch.isfinite(changed).all() and not torch.equal(changed, clean)

            def nothing_real(value: torch.Tensor, hook: Any, batch: Any = batch) -> torch.Tensor:
                return value.masked_fill((batch.attention_mask == 0)[:, :, None], float("nan"))

            with any_model.hooks(fwd_hooks=[(f"blocks.{N_LAYERS - 1}.hook_out", nothing_real)]):
                assert torch.equal(forward(any_model, batch, logits_at="last"), clean)


def test_scores_that_do_not_count_stay_nan_and_are_no_fault(tiny: Callable[[str], Any]) -> None:
    found = score(tiny("llama"), "duplicate-token", ["the cat saw a dog", "the cat saw the cat"])
    assert (
        torch.isnan(torch.tensor(found.samples[0])).all()
        and torch.isfinite(torch.tensor(found.samples[1])).all()
    )


def test_a_pass_that_ends_well_is_run_once(tiny: Callable[[str], Any]) -> None:
    """The check costs one look at the end; nothing is watched and nothing runs twice."""
    model, calls, watched = tiny("gpt2"), [], []
    handle = model.original_model.register_forward_pre_hook(lambda *_: calls.append(1))
    module = model.blocks[1].attn.hook_z
    try:
        seen = model.original_model.register_forward_pre_hook(
            lambda *_: watched.append(len(module._forward_hooks))
        )
        forward(model, encode(model, PROMPTS))
        assert len(calls) == 1 and watched == [0]
        with intervene(model, ToNaN("L0H0")), pytest.raises(NonFinite):
            forward(model, encode(model, PROMPTS))
        assert len(calls) == 3, "the pass, and the one that looks"
        seen.remove()
    finally:
        handle.remove()


def test_half_precision_metrics_subtract_in_float32() -> None:
    from types import SimpleNamespace

    batch: Any = SimpleNamespace(
        answer_ids=torch.tensor([[0]]), foil_ids=torch.tensor([[1]]), prompts=[Prompt("a")]
    )
    logits = torch.tensor([[60000.0, -60000.0]], dtype=torch.float16)
    assert float(logit_difference(logits, batch)) == float(logits[0, 0].double() - logits[0, 1].double())
    close = torch.tensor([[256.0, 1.0078125]], dtype=torch.bfloat16)
    assert float(logit_difference(close, batch)) == 256.0 - 1.0078125


def test_attention_moved_to_a_faint_key_stays_finite_in_float16(
    model_folder: Callable[[str], Any],
) -> None:
    """Such a key's factor is above what float16 holds; its product with the attention is not."""
    model = load(model_folder("gpt2"), dtype="float16")
    batch = encode(model, PROMPTS)
    seen = []

    def faint(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        pattern = pattern.clone()
        pattern[:, :, 3, :4] = torch.tensor([0.5, 0.5, 0.0, 6e-8], dtype=torch.float16)
        return pattern

    name = "blocks.1.attn.hook_pattern"
    with (
        torch.no_grad(),
        model.hooks(fwd_hooks=[(name, faint)]),
        intervene(model, reweight("L1H1", source=(0, 1), fraction=1.0, target=(2, 3), positions=3)),
        model.hooks(fwd_hooks=[(name, lambda pattern, hook: seen.append(pattern.clone()))]),
    ):
        forward(model, batch)
    row = seen[0][0, 1, 3, :4].float()
    assert torch.isfinite(row).all() and abs(float(row.sum()) - 1) < 2e-3 and float(row[3]) > 0.99


@pytest.mark.parametrize("heads", [1, 3])
def test_many_heads_are_counted_and_few_are_named(tiny: Callable[[str], Any], heads: int) -> None:
    model = tiny("gpt2")
    with intervene(model, ToNaN([(0, h) for h in range(heads)])), pytest.raises(NonFinite) as caught:
        forward(model, encode(model, PROMPTS))
    named = {1: "of L0H0, at", 3: "of L0H0, L0H1 and L0H2, at"}[heads]
    assert named in str(caught.value)


def test_faults_are_found_in_attention_that_was_made_editable(tiny: Callable[[str], Any]) -> None:
    model = tiny("qwen3")
    assert make_editable(model)
    try:
        with intervene(model, ToNaN("L1H1")), pytest.raises(NonFinite, match="of L1H1, at token 0"):
            forward(model, encode(model, PROMPTS))
    finally:
        undo_editable(model)


def test_a_second_pass_that_is_refused_says_so(tiny: Callable[[str], Any]) -> None:
    """A pass of the caller's own over a cache: its text cannot be read again under the same block."""
    model = tiny("llama")

    def once(z: torch.Tensor, hook: Any, calls: list[int] = []) -> torch.Tensor:  # noqa: B006 (it remembers)
        calls.append(1)
        if len(calls) > 1:
            raise BadOption("only once")
        return z * float("nan")

    with (
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", once)]),
        intervene(model, uniform("L0H0")),
        pytest.raises(NonFinite, match="a second pass could not be run for"),
    ):
        forward(model, encode(model, PROMPTS))
