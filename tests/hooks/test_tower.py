"""Heads of image towers by name: what a change does is what the same change does by hand in transformers' own model."""

from __future__ import annotations

import pytest
import torch
import transformers
from PIL import Image

import headscope
from headscope.analysis.score import score
from headscope.analysis.verify import verify
from headscope.datasets.prompts import Prompt
from headscope.errors import (
    BadOption,
    BadPrompts,
    BadSpan,
    HookNeverFired,
    MissingData,
    NoEffect,
    UnknownHead,
)
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward
from headscope.hooks.generate import generate
from headscope.hooks.info import describe
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import mean, resample, scale, uniform, zero
from headscope.hooks.load import load
from headscope.hooks.reweight import reweight
from headscope.hooks.sweep import sweep
from headscope.hooks.tower import tower
from headscope.hooks.vision import vhr

SCENES = ("scene:1:red-circle@0,blue-star@4", "scene:2:green-ring@8")
CLASSES = {
    "llava": transformers.LlavaForConditionalGeneration,
    "idefics3": transformers.Idefics3ForConditionalGeneration,
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
    "vit": transformers.ViTForImageClassification,
}
HEAD, WIDTH = 1, 8


@pytest.fixture(params=list(CLASSES))
def name(request):
    return request.param


@pytest.fixture
def eyes(name, tiny):
    """A model of which the heads that read images are scored and changed: a tower, or a ViT."""
    return tiny(name) if name == "vit" else tower(tiny(name))


@pytest.fixture
def prompts(name):
    answers = ("circle", "square") if name == "vit" else (" red", " box")
    return [
        Prompt("the cat", image=image, answer=answer) for image, answer in zip(SCENES, answers, strict=True)
    ]


@pytest.fixture(scope="module")
def plain(model_folder):
    made = {}

    def load(name):
        if name not in made:
            folder = model_folder(name)
            made[name] = CLASSES[name].from_pretrained(folder, attn_implementation="eager").eval()
        return made[name]

    return load


class ByHand:
    """transformers' own model with one head of its first image layer changed by plain hooks of torch."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        if not hasattr(model, "vit"):
            inner = model.model
            found = (getattr(inner, one, None) for one in ("vision_tower", "vision_model", "visual"))
            part = next(one for one in found if one is not None)
        else:
            part = model.vit
        names = ("CLIPAttention", "Idefics3VisionAttention", "ViTAttention")
        names += ("Qwen2_5_VLVisionAttention", "Qwen3VLVisionAttention")
        self.attention = next(one for one in part.modules() if type(one).__name__ in names)
        self.z, self.v, self.edges = None, None, None

    def logits(self, change=None):
        """Run with `change(z, v)` in place of the head's output; both [image, piece, width] or [piece, width]."""
        part, here = self.attention, slice(HEAD * WIDTH, (HEAD + 1) * WIDTH)
        output = next(getattr(part, one) for one in ("out_proj", "o_proj", "proj") if hasattr(part, one))

        def values(module, args, out):
            self.v = (out.chunk(3, -1)[2] if hasattr(part, "qkv") else out)[..., here]

        def edges(module, args, kwargs):
            self.edges = kwargs.get("cu_seqlens")

        def put(module, args):
            self.z = args[0][..., here].clone()
            if change is None:
                return None
            new = args[0].clone()
            new[..., here] = change(self.z, self.v)
            return (new,)

        handles = [
            part.register_forward_pre_hook(edges, with_kwargs=True),
            (part.qkv if hasattr(part, "qkv") else part.v_proj).register_forward_hook(values),
            output.register_forward_pre_hook(put),
        ]
        try:
            with torch.no_grad():
                return self._run()
        finally:
            for handle in handles:
                handle.remove()

    def _run(self):
        inputs = self.batch.image_inputs
        if hasattr(self.model, "vit"):
            return self.model(**inputs).logits
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = self.batch.spans["image"].int()
            self.model.model.rope_deltas = None
        found = self.model(self.batch.tokens, attention_mask=self.batch.attention_mask, **inputs).logits
        return found[torch.arange(len(self.batch)), self.batch.last]

    def evenly(self, z, v):
        """Average values over the pieces that a piece sees: those of its image, or of its window."""
        if self.edges is None:
            return v.mean(-2, keepdim=True).expand_as(z)
        new = torch.empty_like(z)
        for start, stop in zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True):
            new[start:stop] = v[start:stop].mean(0)
        return new


@torch.no_grad()
def last(model, batch):
    return forward(model, batch, logits_at="last")[:, 0]


def test_every_kind_of_change_does_what_it_does_by_hand(name, eyes, prompts, plain):
    batch = encode(eyes, prompts)
    hand = ByHand(plain(name), batch)
    clean = hand.logits()
    assert torch.allclose(last(eyes, batch), clean, atol=1e-5)
    average = hand.z.flatten(0, -2).mean(0)
    changes = [
        (zero("L0H1"), lambda z, v: torch.zeros_like(z)),
        (scale("L0H1", 2.5), lambda z, v: 2.5 * z),
        (mean("L0H1", prompts), lambda z, v: average.expand_as(z)),
        (uniform("L0H1"), hand.evenly),
    ]
    for kind, change in changes:
        with intervene(eyes, kind) as run:
            found = last(eyes, batch)
        assert run.fired[kind] == 1
        assert torch.allclose(found, hand.logits(change), atol=2e-5), kind
        assert (found - clean).abs().max() > 1e-3, kind
    assert torch.equal(last(eyes, batch), last(eyes, batch)) and torch.allclose(
        last(eyes, batch), clean, atol=1e-5
    )


def test_pattern_edits_act(name, eyes, prompts, plain):
    """A head that is made to look at its own place only writes its own value."""
    assert describe(eyes).pattern_edits
    batch = encode(eyes, prompts)
    hand, sums = ByHand(plain(name), batch), []

    def look_at_yourself(pattern, hook):
        sums.append((pattern.sum(-1) - 1).abs().max())
        pattern[:, HEAD] = torch.eye(pattern.shape[-1])
        return pattern

    with eyes.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", look_at_yourself)]):
        found = last(eyes, batch)
    assert torch.allclose(found, hand.logits(lambda z, v: v), atol=2e-5)
    assert (found - hand.logits()).abs().max() > 1e-3 and max(sums) < 1e-5
    assert torch.allclose(last(eyes, batch), hand.logits(), atol=1e-5)


def test_moving_attention_between_pieces_is_a_pattern_edit_of_its_own(name, eyes, prompts):
    batch = encode(eyes, prompts)
    if getattr(eyes, "in_one_row", False):
        with (
            pytest.raises(BadOption, match="positions in it are not known"),
            intervene(eyes, reweight("L0H1", (0,), 1.0)),
        ):
            last(eyes, batch)
        return
    seen = []
    with intervene(eyes, reweight("L0H1", (0,), 1.0)) as run:
        look = ("blocks.0.attn.hook_pattern", lambda pattern, hook: seen.append(pattern.clone()))
        with eyes.hooks(fwd_hooks=[look]):
            last(eyes, batch)
    assert sum(run.fired.values()) == 1
    assert not seen[0][:, HEAD, :, 0].any() and torch.allclose(seen[0].sum(-1), torch.tensor(1.0), atol=1e-5)
    assert seen[0][:, 0, :, 0].min() > 0  # the other heads still look there


def test_guards_tell_what_did_not_happen(name, eyes, prompts):
    batch = encode(eyes, prompts)
    clean = last(eyes, batch)
    with intervene(eyes, scale("L0H1", 1.0)):
        assert torch.equal(last(eyes, batch), clean)
    with pytest.raises(NoEffect), intervene(eyes, [zero("L0H1"), zero("L0H1")]):
        last(eyes, batch)
    with pytest.raises(HookNeverFired, match="phase"), intervene(eyes, zero("L0H1", phase="decode")):
        last(eyes, batch)
    with pytest.raises(UnknownHead, match="has layers 0-"):
        zero("L7H0").check(eyes)
    with pytest.raises(BadPrompts, match="corrupted"), intervene(eyes, resample("L0H1"), batch):
        pass
    if name != "vit":
        with pytest.raises(HookNeverFired), intervene(eyes, zero("L0H1")):
            last(eyes, encode(eyes, [Prompt("a dog")]))
        texts = [*prompts, Prompt("a dog")]
        with intervene(eyes, zero("L0H1")):
            mixed = last(eyes, encode(eyes, texts))
        assert torch.allclose(mixed[2], last(eyes, encode(eyes, texts))[2], atol=1e-6)


def test_positions_are_pieces(name, eyes, prompts):
    batch = encode(eyes, prompts)
    if getattr(eyes, "in_one_row", False):
        with pytest.raises(BadOption, match="not known"), intervene(eyes, zero("L0H1", positions=(3,))):
            last(eyes, batch)
        with pytest.raises(BadOption, match="by_position=False"):
            mean("L0H1", prompts, by_position=True).prepare(headscope.hooks.references.References(eyes), None)
        return
    kept = []
    with (
        intervene(eyes, zero("L0H1", positions=(3, -1))),
        eyes.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: kept.append(z.clone()))]),
    ):
        last(eyes, batch)
    z = kept[0][:, :, HEAD].abs().sum(-1)
    n = z.shape[1]
    assert [i for i in range(n) if not z[:, i].any()] == [
        3
    ]  # -1 is where the next token is predicted: not a piece
    with intervene(eyes, mean("L0H1", prompts, by_position=True)):
        last(eyes, batch)


def test_the_sweep_is_the_loop(eyes, prompts):
    batch = encode(eyes, prompts)
    with pytest.warns(RuntimeWarning, match="once per head"):
        found = sweep(eyes, batch, "answer_logprob", zero, heads="L0H1,L0H2")
    clean = last(eyes, batch).log_softmax(-1)
    with intervene(eyes, zero("L0H2")):
        changed = last(eyes, batch).log_softmax(-1)
    wanted = (changed - clean).gather(1, batch.answer_ids[:, :1])[:, 0]
    assert torch.allclose(found[:, 0, 2], wanted, atol=1e-5)
    assert found.shape[1:] == (eyes.cfg.n_layers, eyes.cfg.n_heads) and torch.isnan(found[:, 0, 0]).all()


@pytest.mark.parametrize("seeing", ["llava", "idefics3", "qwen2_5_vl", "qwen3_vl"])
def test_generation_feels_the_change_and_both_sides_can_be_changed_at_once(tiny, seeing):
    whole = tiny(seeing)
    part = tower(whole)
    prompts = [Prompt("the cat saw", image=SCENES[0]), Prompt("a dog")]
    clean = generate(whole, prompts, max_new_tokens=4)
    changed = generate(part, prompts, interventions=[zero("L0H1")], max_new_tokens=4)
    assert changed[0].logprobs != clean[0].logprobs and changed[1].tokens == clean[1].tokens
    with intervene(part, zero("L0H1")):
        same = generate(whole, prompts, max_new_tokens=4)
        both = generate(whole, prompts, interventions=[mean("L1H0", prompts)], max_new_tokens=4)
    assert same == changed and both[0].logprobs != changed[0].logprobs
    # The reference of the text side's mean is of the clean model, whatever is open around it.
    with intervene(whole, mean("L1H0", prompts)), intervene(part, zero("L0H1")):
        other_way_round = generate(whole, prompts, max_new_tokens=4)
    assert [one.logprobs for one in other_way_round] == [one.logprobs for one in both]


def test_spans_of_an_image_are_pieces_of_a_clip_tower(tiny):
    part = tower(tiny("llava"))
    prompts = [Prompt("a dog"), Prompt("the cat", image=SCENES[0], boxes={"first": ((0, 0, 10, 10),)})]
    batch, kept = encode(part, prompts), []
    look = ("blocks.0.attn.hook_z", lambda z, hook: kept.append(z[0, :, HEAD].abs().sum(-1)))
    for span, gone in (("image", list(range(1, 17))), ("first", [1])):
        with intervene(part, zero("L0H1", positions=span)), part.hooks(fwd_hooks=[look]):
            last(part, batch)
        assert kept.pop().eq(0).nonzero().flatten().tolist() == gone
    idefics = tower(tiny("idefics3"))
    gone = zero("L0H1", positions="image")
    with pytest.raises(BadSpan, match="4 pieces, where this tower has 16"), intervene(idefics, gone):
        last(idefics, encode(idefics, [Prompt("the cat", image=SCENES[0])]))


def test_padding_of_an_image_is_not_looked_at(tiny, tmp_path):
    """Idefics3 pads images to a square and hides the padding: evenly spread attention leaves it out as well."""
    path = tmp_path / "wide.png"
    Image.linear_gradient("L").resize((32, 16)).save(path)
    part = tower(tiny("idefics3"))
    batch, seen = encode(part, [Prompt("the cat", image=str(path))]), {}
    hooks = [
        (f"blocks.0.attn.hook_{what}", lambda value, hook, what=what: seen.__setitem__(what, value.clone()))
        for what in ("pattern", "v", "z")
    ]
    with intervene(part, uniform("L0H1")), part.hooks(fwd_hooks=hooks):
        last(part, batch)
    visible = seen["pattern"][0, HEAD] > 0
    assert torch.allclose(seen["z"][0, 0, HEAD], seen["v"][0][visible[0]][:, HEAD].mean(0), atol=1e-6)


def test_only_layers_that_the_text_side_reads_are_heads(tiny):
    """LLaVA reads the last layer but one; a head of the last could be changed without anyone noticing."""
    whole = tiny("llava")
    assert whole.original_model.config.vision_config.num_hidden_layers == 2
    assert describe(tower(whole)).n_layers == 1


def test_a_tower_is_loaded_by_name_and_filed_under_its_own(model_folder, tiny):
    folder = model_folder("llava")
    part = load(f"{folder}#tower")
    info, whole = describe(part), describe(tiny("llava"))
    assert (info.name, info.n_heads, info.d_head, info.folder) == ("tiny-llava#tower", 4, 8, folder.resolve())
    assert info.digest == describe(tower(tiny("llava"))).digest != whole.digest
    with pytest.raises(MissingData, match="no image tower"):
        tower(tiny("llama"))


def test_what_is_about_tokens_is_refused(tiny):
    part = tower(tiny("llava"))
    batch = encode(part, [Prompt("the cat", image=SCENES[0])])
    for method in ("induction", "vhd"):
        with pytest.raises(MissingData, match="read pieces of images"):
            score(part, method)
    with pytest.raises(MissingData, match="vhr: the heads of"):
        vhr(part)
    with pytest.raises(MissingData, match="attention between tokens"):
        each_pattern(part, batch, lambda layer, pattern: None)
    with pytest.raises(BadOption, match="asks for the text side"):
        _ = part.blocks
    with pytest.raises(BadOption, match="writes no text"):
        generate(tiny("vit"), [Prompt("p", image=SCENES[0])])
    with pytest.raises(BadPrompts, match="'blob' is no label"):
        encode(tiny("vit"), [Prompt("p", image=SCENES[0], answer="blob")])
    with pytest.raises(BadPrompts, match="has 0 images"):
        encode(tiny("vit"), [Prompt("p")])
    assert capture_z(part, batch).shape == (1, 1, 17, 4, 8)


def test_leave_one_out_of_a_tower_is_the_divergence_that_the_loop_finds(eyes, prompts):
    found = score(eyes, "leave-one-out", prompts)
    batch = encode(eyes, prompts)
    whole = last(eyes, batch).double().softmax(-1)
    with intervene(eyes, zero("L0H2")):
        without = last(eyes, batch).double().softmax(-1)
    middle = (whole + without) / 2
    by_hand = sum((p * (p / middle).log()).sum(-1) for p in (whole, without)) / 2
    assert torch.allclose(torch.tensor(found.samples[:, 0, 2]), by_hand, atol=1e-6)
    checked = verify(eyes, found, prompts, how=zero, k=1, draws=1)
    assert {len(arm.heads) for arm in checked.arms} == {1}


def test_attention_distance_of_towers_with_and_without_a_class_token(tiny):
    prompts = [Prompt("the cat", image=SCENES[0])]
    for seeing in ("llava", "idefics3"):
        found = score(tower(tiny(seeing)), "attention-distance", prompts)
        assert found.values.min() > 0 and found.values.max() < 3
    with pytest.raises(MissingData, match="as one row"):
        score(tower(tiny("qwen3_vl")), "attention-distance", prompts)
