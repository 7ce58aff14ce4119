"""Images in prompts: where their pieces stand, that they act, and what is said of those that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_vision import N_PIECES
from PIL import Image

from headscope.analysis.attention import token_texts
from headscope.datasets.prompts import Prompt
from headscope.errors import BadImage, BadPrompts, BadSpan
from headscope.hooks.capture import each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import zero
from headscope.hooks.rows import read_rows

SCENES = ("scene:1:red-circle@0,blue-star@4", "scene:2:green-ring@8")


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


@pytest.fixture(params=["llava", "idefics3"])
def seeing(request, tiny):
    return tiny(request.param)


@pytest.fixture
def mixed():
    return [
        Prompt("the cat saw", image=SCENES[0]),
        Prompt("a dog"),
        Prompt("one two three four", image=SCENES[1]),
        Prompt("the red box <image> near the fox", image=SCENES[1]),
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_pieces_stand_after_bos_or_where_the_text_names_them(llava, mixed, side):
    batch = encode(llava, mixed, padding_side=side)
    assert batch.spans["image"].sum(1).tolist() == [N_PIECES, 0, N_PIECES, N_PIECES]
    for row, first in ((0, 1), (2, 1), (3, 4)):
        real = batch.attention_mask[row].bool()
        columns = batch.spans["image"][row][real].nonzero()[:, 0].tolist()
        assert columns == list(range(first, first + N_PIECES))
        assert int(batch.tokens[row][real][0]) == llava.tokenizer.bos_token_id


def test_the_tensors_are_those_of_the_models_own_processor(llava, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    batch = encode(llava, [Prompt("the cat", image=str(path))])
    own = llava.processor(text="<image>the cat", images=Image.open(path), return_tensors="pt")
    assert batch.tokens[0].tolist() == own["input_ids"][0].tolist()
    assert torch.equal(batch.image_inputs["pixel_values"], own["pixel_values"])


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_mixed_batch_gives_what_prompts_give_alone(seeing, mixed, side):
    batch = encode(seeing, mixed, padding_side=side)
    together = forward(seeing, batch, logits_at="last")
    for row, prompt in enumerate(mixed):
        alone = forward(seeing, encode(seeing, [prompt]), logits_at="last")
        assert (together[row] - alone[0]).abs().max() < 1e-5
    some = forward(seeing, batch.rows([3, 1]), logits_at="last")
    assert (some - together[[3, 1]]).abs().max() < 1e-5


@torch.no_grad()
def test_another_image_gives_other_logits_and_no_image_others_again(seeing):
    prompts = [Prompt("the cat", image=SCENES[0]), Prompt("the cat", image=SCENES[1]), Prompt("the cat")]
    one, other, none = forward(seeing, encode(seeing, prompts), logits_at="last")[:, 0]
    assert (one - other).abs().max() > 1e-3 and (one - none).abs().max() > 1e-3


@torch.no_grad()
def test_generation_keeps_seeing_the_image_while_tokens_are_cached(seeing, mixed):
    written = generate(seeing, mixed, max_new_tokens=5)
    for prompt, found in zip(mixed, written, strict=True):
        batch = encode(seeing, [prompt])
        ids = batch.tokens
        for token in found.tokens:
            logits = seeing(ids, output_attentions=False, use_cache=False, **batch.image_inputs)
            assert int(logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


@torch.no_grad()
def test_an_intervention_acts_at_the_pieces_of_an_image(llava):
    batch = encode(llava, [Prompt("the cat saw", image=SCENES[0])])
    clean = forward(llava, batch)
    with intervene(llava, [zero("L1H2", positions="image")]):
        changed = forward(llava, batch)
    moved = (changed - clean)[0].abs().amax(-1) > 1e-6
    assert not bool(moved[0]) and bool(moved[1 + N_PIECES :].all())


def test_boxes_follow_the_processors_resizing_and_cropping(llava, tmp_path):
    """A picture twice as wide as high loses a quarter on either side."""
    path = tmp_path / "wide.png"
    Image.new("RGB", (160, 80), "gray").save(path)
    boxes = {"right": ((80, 0, 160, 80),), "corner": ((40, 0, 60, 20), (100, 60, 120, 80))}
    batch = encode(llava, [Prompt("the cat", image=str(path), boxes=boxes)])
    pieces = batch.spans["image"][0]
    right = batch.spans["right"][0][pieces].view(4, 4).int().tolist()
    assert right == [[0, 0, 1, 1]] * 4
    corner = batch.spans["corner"][0][pieces].view(4, 4).int().tolist()
    assert corner == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]
    assert not batch.spans["right"][0][~pieces].any()
    with pytest.raises(BadSpan, match=r"boxes 'cut': the box \(0, 0, 10, 10\) holds the middle of no piece"):
        encode(llava, [Prompt("the cat", image=str(path), boxes={"cut": ((0, 0, 10, 10),)})])


def test_marks_around_an_image_are_no_pieces_of_it(tiny):
    model = tiny("idefics3")
    batch = encode(model, [Prompt("the cat", image=SCENES[0], boxes={"first": ((0, 0, 16, 16),)})])
    texts = token_texts(model, batch.prompts[0])
    assert texts[1:8] == (
        "<fake_token_around_image>",
        "<global-img>",
        *["<image>"] * 4,
        "<fake_token_around_image>",
    )
    assert batch.spans["image"][0].tolist() == [False] * 3 + [True] * 4 + [False] * 3
    assert batch.spans["first"][0].nonzero().flatten().tolist() == [3]


def test_an_image_that_changed_on_disk_is_read_again(llava, tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "red").save(path)
    first = encode(llava, [Prompt("a", image=str(path))]).image_inputs["pixel_values"]
    Image.new("RGB", (32, 32), "blue").save(path)
    assert not torch.equal(first, encode(llava, [Prompt("a", image=str(path))]).image_inputs["pixel_values"])


def test_images_and_texts_that_do_not_go_together_are_refused(llava, tiny):
    with pytest.raises(BadPrompts, match="says <image>, but the prompt has no image"):
        encode(llava, [Prompt("<image> the cat")])
    with pytest.raises(BadPrompts, match="2 times, and the prompt has 1 image"):
        encode(llava, [Prompt("<image> <image> the cat", image=SCENES[0])])
    with pytest.raises(BadPrompts, match="takes text only"):
        encode(tiny("llama"), [Prompt("the cat", image=SCENES[0])])
    with pytest.raises(BadPrompts, match="has boxes and no image"):
        encode(llava, [Prompt("the cat", boxes={"a": ((0, 0, 1, 1),)}), Prompt("a", image=SCENES[0])])
    with pytest.raises(BadImage, match="no image file 'nowhere.png'"):
        encode(llava, [Prompt("the cat", image="nowhere.png")])


def test_attention_rows_on_demand_are_those_of_the_pattern_however_the_prompt_is_cut(llava):
    prompt = Prompt("the cat saw a dog", image=SCENES[0])
    patterns = {}
    each_pattern(
        llava, encode(llava, [prompt]), lambda layer, pattern: patterns.__setitem__(layer, pattern[0])
    )
    for chunk in (2, 64):  # an image is fed whole, however small the pieces
        rows = read_rows(llava, prompt, chunk=chunk)
        assert torch.allclose(rows.attention(1, 2, [20, 21]), patterns[1][2, [20, 21]], atol=1e-5)


def test_pieces_of_an_image_are_shown_by_their_name(llava):
    texts = token_texts(llava, Prompt("the cat", image=SCENES[0]))
    assert texts == ("<s>", *["<image>"] * N_PIECES, "the", " cat")
