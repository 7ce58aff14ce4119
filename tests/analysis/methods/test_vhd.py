"""Vision-aware head divergence: planted heads, a loop of plain runs, and the outlier filter by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_vision import write_llava

from headscope.analysis.defaults import default_prompts
from headscope.analysis.methods.vhd import token_divergence
from headscope.analysis.score import score
from headscope.datasets.images import open_image
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import MissingData
from headscope.hooks.capture import capture_at
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.load import load


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


@pytest.fixture
def scenes(llava):
    return default_prompts(llava, "scenes", n=6)


@torch.no_grad()
def _z(model, ids, **inputs):
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    cache = {}
    hooks = [(name, lambda z, hook, name=name: cache.__setitem__(name, z[0].clone())) for name in names]
    with model.hooks(fwd_hooks=hooks):
        model(ids, output_attentions=False, use_cache=False, **inputs)
    return torch.stack([cache[name] for name in names], 1)  # pos layer head d_head


@pytest.mark.parametrize("tokens", ["first", "answer"])
def test_a_loop_of_plain_runs_agrees(llava, tokens):
    prompts = PromptSet(
        "mine",
        (
            Prompt("the cat saw", " a dog", image="scene:1:red-circle@0,blue-star@4"),
            Prompt("one two three", " four", image="scene:2:green-ring@8"),
        ),
    )
    found = score(llava, "vhd", prompts, tokens=tokens, outliers="keep").samples
    for row, prompt in enumerate(prompts):
        text = prompt.text + prompt.answer if tokens == "answer" else prompt.text
        own = llava.processor(text=f"<image>{text}", images=open_image(prompt.image), return_tensors="pt")
        seen = _z(llava, own["input_ids"], pixel_values=own["pixel_values"])
        blind = _z(llava, llava.to_tokens(text))
        size = len(prompt.answer.split())
        places = range(-1 - size, -1) if tokens == "answer" else [-1]
        wanted = np.mean([(seen[i] - blind[i]).norm(dim=-1).numpy() for i in places], axis=0)
        assert np.allclose(found[row], wanted, atol=1e-5)


def test_a_head_whose_values_ignore_the_image_scores_0_and_one_that_reads_the_image_alone_is_first(
    tmp_path, scenes
):
    model = load(str(write_llava(tmp_path / "planted", seed=1)))
    attention = model.original_model.model.language_model.layers[0].self_attn
    batch_inputs = {}

    def see(module, args, kwargs):
        batch_inputs["x"] = (args[0] if args else kwargs["hidden_states"])[0].detach()

    handle = attention.register_forward_pre_hook(see, with_kwargs=True)
    batch = encode(model, [scenes[0]])
    with torch.no_grad():
        forward(model, batch)
    handle.remove()
    x, pieces = batch_inputs["x"], batch.spans["image"][0]
    piece, last = x[pieces].mean(0), x[-1]
    # What pieces have and no token of the text has, so that values are nothing without the image.
    text = x[~pieces]
    own = piece - text.T @ torch.linalg.lstsq(text.T, piece[:, None]).solution[:, 0]
    with torch.no_grad():
        # Head 0 has queries from the last token and keys from pieces, along a direction that rotary positions hardly
        # turn; head 1 attends evenly. Their values are large where a piece stands. Heads 2 and 3 attend as they did,
        # and their values are the same at every token, image or not: they write much, and nothing of it is seen.
        size, slow = attention.head_dim, attention.head_dim // 2 - 1
        attention.q_proj.weight[: 2 * size] = 0
        attention.k_proj.weight[:size] = 0
        attention.v_proj.weight[:] = 0
        attention.q_proj.weight[slow] = 12 * last / last.pow(2).sum()
        attention.k_proj.weight[slow] = 12 * piece / piece.pow(2).sum()
        attention.v_proj.weight[0] = 100 * own / own.pow(2).sum()
        attention.v_proj.weight[size] = 5 * torch.linalg.lstsq(x, torch.ones(len(x), 1)).solution[:, 0]
    found = score(model, "vhd", scenes[:1], outliers="keep")
    written = torch.stack(list(capture_at(model, batch, "z", range(1), keep=lambda z: z[0, -1]).values()))[0]
    assert torch.allclose(written[2:, 0], torch.full((2,), 5.0), atol=1e-3), "they do write"
    assert found.values[0, 2:].max() < 1e-3 < 0.01 * found.values[0, 0]
    assert found.top(1) == ((0, 0),)
    assert score(model, "visual-mass", scenes[:1]).values[0, 0] > 0.9


def test_a_tokens_divergence_sums_the_largest_of_each_layer():
    scores = np.array([[[3.0, 1, 2], [0, 5, 4]], [[1, 1, 1], [2, 2, 2]]])
    assert token_divergence(scores, k=2).tolist() == [14, 6]


def test_padding_and_batches_change_nothing(llava, scenes):
    together = score(llava, "vhd", scenes).samples
    alone = np.concatenate([score(llava, "vhd", scenes[i : i + 1]).samples for i in range(len(scenes))])
    assert np.allclose(together, alone, atol=1e-5)


def test_progress_counts_prompts_and_missing_images_are_named(llava, scenes):
    calls = []
    score(llava, "vhd", scenes, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)
    with pytest.raises(MissingData, match=r"mine\[0\] \('the cat'\) has no image"):
        score(llava, "vhd", PromptSet("mine", (Prompt("the cat"),)))
    with pytest.raises(MissingData, match="has no answer"):
        score(llava, "vhd", PromptSet("mine", (Prompt("the cat", image=scenes[0].image),)), tokens="answer")
