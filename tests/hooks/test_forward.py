import gc
import weakref

import pytest
import torch
from models import sentence

from headscope.errors import NonFinite
from headscope.hooks.encode import encode
from headscope.hooks.forward import Pass, announce, forward, running_pass
from headscope.hooks.load import load

TEXTS = [sentence(n, seed=n) for n in (1, 20, 9, 14)]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_batch_equals_the_prompts_one_by_one(any_model, side):
    batch = encode(any_model, TEXTS, padding_side=side)
    padded, last = forward(any_model, batch), forward(any_model, batch, logits_at="last")
    assert last.shape == (len(TEXTS), 1, padded.shape[-1])
    for row, text in enumerate(TEXTS):
        alone = forward(any_model, encode(any_model, text))[0]
        real = batch.attention_mask[row].bool()
        torch.testing.assert_close(padded[row][real], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(last[row, 0], alone[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_the_outside_model_holds_under_padding(stories, stories_oracle, side):
    known = stories_oracle["prompts"]
    batch = encode(stories, [prompt["text"] for prompt in known] + ["Once"], padding_side=side)
    logprobs = forward(stories, batch, logits_at="last")[:, 0].log_softmax(-1)
    for row, prompt in enumerate(known):
        for token, logprob in prompt["top5"]:
            assert float(logprobs[row, token]) == pytest.approx(logprob, abs=1e-5)


@torch.no_grad()
def test_the_logits_are_those_of_plain_transformers(any_model, model_folder):
    import transformers

    folder = model_folder(any_model.cfg.model_name.removeprefix("tiny-"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    batch = encode(any_model, TEXTS[1])
    torch.testing.assert_close(
        forward(any_model, batch), plain(input_ids=batch.tokens).logits, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_sliding_windows_really_slide(tiny):
    """The padded comparison says something about windows only if texts are longer than the window of 6."""
    model = tiny("gemma2")
    batch = encode(model, TEXTS[1])
    seen = {}

    def look(pattern, hook):
        seen[hook.name] = pattern[0, :, -1, 0].abs().max().item()

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", look) for layer in (0, 1)]):
        forward(model, batch)
    assert seen["blocks.0.attn.hook_pattern"] == 0.0
    assert seen["blocks.1.attn.hook_pattern"] > 0.0


def test_hooks_learn_the_absolute_positions(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS, padding_side="left")
    seen = []
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: seen.append(running_pass(model)))]):
        forward(model, batch)
    assert torch.equal(seen[0].positions, batch.positions)
    assert seen[0].batch is batch
    assert running_pass(model) is None


def test_announcements_nest_and_end_with_an_exception(tiny):
    model = tiny("llama")
    outer, inner = (Pass(torch.zeros(1, n, dtype=torch.long)) for n in (1, 2))
    with pytest.raises(KeyboardInterrupt), announce(model, outer):
        with announce(model, inner):
            assert running_pass(model) is inner
        assert running_pass(model) is outer
        raise KeyboardInterrupt
    assert running_pass(model) is None


def test_announcing_keeps_no_model_alive(model_folder):
    model = load(model_folder("gpt2"))
    with torch.no_grad():
        forward(model, encode(model, "the cat"))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_gradients_flow_when_the_caller_wants_them(tiny):
    model = tiny("gpt2")
    batch = encode(model, TEXTS[0])
    assert forward(model, batch).requires_grad
    with torch.no_grad():
        assert not forward(model, batch).requires_grad


def test_logits_that_are_not_finite_name_prompt_and_layer(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS)

    def spoil(z, hook):
        z[2, 0] = float("inf")
        return z

    with (
        torch.no_grad(),
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", spoil)]),
        pytest.raises(
            NonFinite, match=r"tiny-llama: prompt 2 .* first in the output \(z\) of L1H0, L1H1.* at token 0"
        ),
    ):
        forward(model, batch)


@torch.no_grad()
def test_nonsense_on_padding_is_no_error(tiny):
    model = tiny("llama")
    batch = encode(model, TEXTS, padding_side="right")
    clean = forward(model, batch)

    def spoil(value, hook):
        value[0, -1] = float("nan")
        return value

    with model.hooks(fwd_hooks=[("blocks.2.hook_out", spoil)]):
        changed = forward(model, batch)
    torch.testing.assert_close(changed[1:], clean[1:])


@torch.no_grad()
def test_the_outside_model_tells_its_known_story(stories):
    text = ""
    story = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she "
        "saw a big, red ball. She wanted to play with it, but it was too high."
    )
    batch = encode(stories, "Once")
    ids = batch.tokens[0].tolist()[:1]
    while len(text) < len(story):
        logits = stories(torch.tensor([ids]), use_cache=False)
        ids.append(int(logits[0, -1].argmax()))
        text = stories.tokenizer.decode(ids, skip_special_tokens=True)
    assert text.strip() == story
