"""Qwen2.5-VL and Qwen3-VL: what transformers computes, edits that act, and images with or without torchvision."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers
from PIL import Image

from headscope.datasets.prompts import Prompt
from headscope.errors import BadPrompts, NoEffect
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.eyes import Eyes
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.info import describe
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import mean, scale, uniform, zero
from headscope.hooks.rebalance import Rebalance
from headscope.hooks.reinject import iri
from headscope.hooks.reweight import reweight
from headscope.hooks.rows import read_rows
from headscope.hooks.sinks import var
from headscope.hooks.sweep import sweep, sweep_one_by_one
from headscope.hooks.vision import vhr, without_image
from headscope.hooks.vision_processor import ImageProcessor

SCENES = ("scene:1:red-circle@0,blue-star@4", "scene:2:green-ring@8")
CLASSES = {
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
}
PROMPTS = [
    Prompt("the cat saw", image=SCENES[0], answer=" red"),
    Prompt("a dog", answer=" blue"),
    Prompt("one <|vision_start|><|image_pad|><|vision_end|> two", image=SCENES[1], answer=" box"),
    Prompt("red <|image_pad|> and <|image_pad|> the", image="\n".join(SCENES), answer=" fish"),
]


@pytest.fixture(params=list(CLASSES))
def name(request):
    return request.param


@pytest.fixture
def qwen(name, tiny):
    return tiny(name)


@pytest.fixture(scope="module")
def plain(model_folder):
    """transformers' own model, without hooks and with its own attention."""
    made = {}

    def load(name):
        if name not in made:
            folder = model_folder(name)
            made[name] = CLASSES[name].from_pretrained(folder, attn_implementation="eager").eval()
        made[name].model.rope_deltas = None  # what a call leaves behind is for the next call of the same text
        return made[name]

    return load


def own_inputs(batch):
    kinds = {"mm_token_type_ids": batch.spans["image"].int()} if batch.images else {}
    return {"attention_mask": batch.attention_mask, **batch.image_inputs, **kinds}


@torch.no_grad()
def test_logits_are_those_of_transformers_alone_and_in_a_padded_batch(name, qwen, plain):
    batch = encode(qwen, PROMPTS)
    assert batch.padding_side == "right" and batch.attention_mask.min() == 0
    left = encode(qwen, PROMPTS, padding_side="left")
    together, from_left = forward(qwen, batch), forward(qwen, left, logits_at="last")
    for row, prompt in enumerate(PROMPTS):
        alone = encode(qwen, [prompt])
        theirs = plain(name)(alone.tokens, **own_inputs(alone)).logits[0]
        own = batch.attention_mask[row].bool()
        assert torch.allclose(forward(qwen, alone)[0], theirs, atol=1e-5)
        assert torch.allclose(together[row][own], theirs, atol=2e-5)
        assert torch.allclose(from_left[row, 0], theirs[-1], atol=2e-5)


@torch.no_grad()
def test_generation_with_images_is_that_of_transformers(name, qwen, plain):
    """Prompts of a batch and of an earlier call do not shift each other's positions."""
    written = generate(qwen, PROMPTS, max_new_tokens=5)
    for prompt, found in zip(PROMPTS, written, strict=True):
        alone = encode(qwen, [prompt])
        made = plain(name).generate(
            alone.tokens, max_new_tokens=5, do_sample=False, use_cache=True, **own_inputs(alone)
        )
        assert made[0, alone.tokens.shape[1] :].tolist() == list(found.tokens)


def test_rows_sum_to_one_and_look_back_only(qwen):
    batch = encode(qwen, PROMPTS)
    seen = []

    def look(layer, pattern):
        seen.append(layer)
        real = batch.attention_mask.bool()
        assert torch.allclose(pattern.sum(-1).movedim(1, 2)[real], torch.tensor(1.0), atol=1e-5)
        assert not pattern.triu(1).any()

    each_pattern(qwen, batch, look)
    assert seen == [0, 1, 2]


@torch.no_grad()
def test_pattern_edits_act_as_the_same_edit_made_by_hand_in_transformers(name, qwen, plain):
    """Uniform attention of one head, once through the pattern and once through the mean of its values."""
    assert describe(qwen).pattern_edits
    batch = encode(qwen, PROMPTS[:1])
    clean = forward(qwen, batch, logits_at="last")

    def flatten(pattern, hook):
        count = torch.arange(1, pattern.shape[-1] + 1, dtype=pattern.dtype)
        pattern[:, 2] = torch.ones_like(pattern[:, 2]).tril() / count[:, None]
        return pattern

    with qwen.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", flatten)]):
        edited = forward(qwen, batch, logits_at="last")
    with intervene(qwen, uniform("L1H2")):
        averaged = forward(qwen, batch, logits_at="last")
    attention = plain(name).model.language_model.layers[1].self_attn
    values = []
    handles = [
        attention.v_proj.register_forward_hook(lambda m, i, out: values.append(out.unflatten(-1, (2, 8)))),
        attention.o_proj.register_forward_pre_hook(lambda m, args: by_hand(args[0], values[-1])),
    ]

    def by_hand(z, v):
        heads = z.unflatten(-1, (4, 8)).clone()
        for query in range(z.shape[1]):
            heads[:, query, 2] = v[:, : query + 1, 1].mean(1)  # head 2 reads the second of two value heads
        return (heads.flatten(2),)

    theirs = plain(name)(batch.tokens, **own_inputs(batch)).logits[:, -1:]
    for handle in handles:
        handle.remove()
    assert (edited - clean).abs().max() > 1e-3
    assert torch.allclose(edited, averaged, atol=1e-5) and torch.allclose(edited, theirs, atol=1e-5)
    assert torch.equal(forward(qwen, batch, logits_at="last"), clean)


@torch.no_grad()
def test_edits_of_scores_and_rotated_queries_act_too(qwen):
    batch = encode(qwen, PROMPTS[:1])
    clean = forward(qwen, batch, logits_at="last")
    patterns = []

    def prefer_first(scores, hook):
        scores[:, 1, :, 0] = 100.0
        return scores

    def still(q, hook):
        q[:, :, 1] = 0
        return q

    look = ("blocks.0.attn.hook_pattern", lambda pattern, hook: patterns.append(pattern[0, 1].clone()))
    with qwen.hooks(fwd_hooks=[("blocks.0.attn.hook_attn_scores", prefer_first), look]):
        scored = forward(qwen, batch, logits_at="last")
    with qwen.hooks(fwd_hooks=[("blocks.0.attn.hook_rot_q", still), look]):
        stilled = forward(qwen, batch, logits_at="last")
    n = patterns[0].shape[-1]
    assert torch.allclose(patterns[0][:, 0], torch.ones(n))  # all rows attend to the first token
    even = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    assert torch.allclose(patterns[1], even, atol=1e-6)  # a query of zeros sees all keys alike
    assert (scored - clean).abs().max() > 1e-3 and (stilled - clean).abs().max() > 1e-3


def test_interventions_act_in_generation_and_nothing_is_a_no_op(qwen):
    clean = generate(qwen, PROMPTS, max_new_tokens=4)
    same = generate(qwen, PROMPTS, interventions=[scale("L1H0,L2H3", 1.0)], max_new_tokens=4)
    assert [one.logprobs for one in same] == [one.logprobs for one in clean]
    kinds = [
        zero("L0H1"),
        scale("L0H1", 3.0),
        mean("L0H1", PROMPTS),
        uniform("L0H1"),
        reweight("L0H1", "image", 1.0),
    ]
    for kind in kinds:
        asked = PROMPTS[:1] if kind.kind == "reweight" else PROMPTS
        changed = generate(qwen, asked, interventions=[kind], max_new_tokens=4)
        assert [one.logprobs for one in changed] != [one.logprobs for one in clean[: len(asked)]]
    batch = encode(qwen, PROMPTS[:1])
    with pytest.raises(NoEffect), intervene(qwen, [zero("L1H0"), zero("L1H0")]):
        forward(qwen, batch)


def test_steering_by_what_is_seen_acts_and_at_strength_nothing_does_not(qwen):
    batch = encode(qwen, PROMPTS[:1])
    clean = generate(qwen, PROMPTS[:1], max_new_tokens=4)[0].logprobs

    def changed(strength):
        sinks = {"dimensions": range(8), "tau": 1.8, "min_mass": 0.0, "min_nonsink_ratio": 0.0}
        found = {
            "vhr": [vhr(qwen, 1 + strength, layers=(0, 1, 2))],
            "iri": [iri("attention", {0: 0.8, 1: 0.4}, (1, 2), strength)],
            "var": [var(qwen, batch, strength, layers=(1,), **sinks)],
        }
        runs = {
            name: generate(qwen, PROMPTS[:1], interventions=given, max_new_tokens=4)[0].logprobs
            for name, given in found.items()
        }
        against = Rebalance(away_from_text=strength, towards_image=strength, plausible=0.0)
        return runs | {
            "rebalance": generate(qwen, PROMPTS[:1], decoding=against, max_new_tokens=4)[0].logprobs
        }

    assert all(found == clean for found in changed(0.0).values())
    assert [name for name, found in changed(0.5).items() if found == clean] == []


def test_noise_on_an_image_does_not_depend_on_its_company(qwen, tmp_path):
    path = tmp_path / "wide.png"
    Image.linear_gradient("L").resize((64, 16)).save(path)
    prompts = [Prompt("the cat", image=str(path)), Prompt("the cat", image=SCENES[0])]
    against = Rebalance(away_from_text=0.5, towards_image=0.5)
    together = against.images(encode(qwen, prompts), 2)["pixel_values"]
    alone = [against.images(encode(qwen, [one]), 2)["pixel_values"] for one in prompts]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.filterwarnings("ignore:sweep runs .* once per head")
@pytest.mark.parametrize("kind", [zero, uniform, partial(scale, gain=2.0)])
def test_the_sweep_is_the_loop(qwen, kind):
    """Qwen3-VL adds features of the image between layers, where a run that starts in the middle would miss them."""
    batch = encode(qwen, PROMPTS)
    quick = sweep(qwen, batch, "answer_logprob", kind)
    slow = sweep_one_by_one(qwen, batch, "answer_logprob", kind)
    assert torch.allclose(quick, slow, atol=2e-5) and quick.abs().max() > 1e-3


def test_rows_on_demand_are_those_of_the_pattern(qwen):
    prompt, found = PROMPTS[0], {}
    each_pattern(qwen, encode(qwen, [prompt]), lambda layer, pattern: found.__setitem__(layer, pattern[0]))
    for chunk in (3, 64):
        rows = read_rows(qwen, prompt, chunk=chunk)
        last = len(rows.tokens) - 1
        for layer, pattern in found.items():
            assert torch.allclose(rows.attention(layer, 3, [5, last]), pattern[3, [5, last]], atol=1e-5)


def test_marks_stand_around_an_image_once(qwen):
    texts = [qwen.tokenizer.convert_ids_to_tokens(row) for row in encode(qwen, PROMPTS).tokens]
    for row, n_images in ((0, 1), (2, 1), (3, 2)):
        assert texts[row].count("<|vision_start|>") == texts[row].count("<|vision_end|>") == n_images
        assert texts[row].count("<|image_pad|>") == 16 * n_images
    assert texts[2][:3] == ["one", "<|vision_start|>", "<|image_pad|>"]
    assert without_image(qwen, PROMPTS[2]).text == "one  two"
    with pytest.raises(BadPrompts, match="2 times, and the prompt has 1 image;"):
        encode(qwen, [Prompt("<|image_pad|> <|image_pad|>", image=SCENES[0])])


def test_pieces_are_as_many_as_the_picture_is_large_and_boxes_find_them(qwen, tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (64, 16), "gray").save(path)
    boxes = {"left": ((0, 0, 32, 16),), "corner": ((56, 8, 64, 16),)}
    batch = encode(qwen, [Prompt("the cat", image=str(path), boxes=boxes)])
    pieces = batch.spans["image"][0]
    assert batch.image_inputs["image_grid_thw"].tolist() == [[1, 4, 16]]  # 2 rows of 8 pieces
    left = batch.spans["left"][0][pieces].view(2, 8).int().tolist()
    assert left == [[1, 1, 1, 1, 0, 0, 0, 0]] * 2
    assert batch.spans["corner"][0][pieces].nonzero().flatten().tolist() == [15]


@torch.no_grad()
def test_images_of_different_sizes_run_in_one_batch(qwen, tmp_path):
    path = tmp_path / "wide.png"
    Image.linear_gradient("L").resize((64, 16)).save(path)
    prompts = [Prompt("the cat", image=str(path)), Prompt("the cat", image=SCENES[0])]
    together = forward(qwen, encode(qwen, prompts), logits_at="last")
    for row, prompt in enumerate(prompts):
        assert torch.allclose(
            together[row], forward(qwen, encode(qwen, [prompt]), logits_at="last")[0], atol=2e-5
        )
    assert capture_z(qwen, encode(qwen, prompts)).shape[:2] == (3, 2)


def test_without_torchvision_images_are_read_on_pillow(qwen):
    eyes = Eyes.of(qwen)
    assert eyes is not None and eyes.marks == ("<|vision_start|>", "<|vision_end|>")
    try:
        import torchvision  # noqa: F401
    except (
        ImportError,
        RuntimeError,
    ):  # a torchvision that does not fit torch fails on import in its own way
        assert isinstance(qwen.processor, ImageProcessor)
        return
    assert type(qwen.processor).__name__ in ("Qwen2_5_VLProcessor", "Qwen3VLProcessor")


def test_tokens_are_those_of_the_models_own_processor(name, qwen, tmp_path):
    try:
        import torchvision  # noqa: F401
        from transformers import AutoVideoProcessor  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}'s own processor reads videos too, and for that wants torchvision: {error}")
    from transformers import AutoImageProcessor, AutoProcessor

    folder = describe(qwen).folder
    own = AutoProcessor.from_pretrained(folder)
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    ours = ImageProcessor(images, own.tokenizer, "<|image_pad|>")
    picture = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
    text = "the <|image_pad|> cat"
    theirs = own(text=text, images=picture, return_tensors="pt")
    found = ours(text=text, images=picture)
    assert found["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert found["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    assert torch.allclose(found["pixel_values"], theirs["pixel_values"], atol=1e-2)
