"""Heads of a ViT: what is lost without each, how far each looks, and which kinds of attention there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from headscope.analysis.score import score
from headscope.analysis.vision.image_heads import image_heads
from headscope.analysis.vision.pattern_kinds import pattern_kinds
from headscope.analysis.vision.rings import distances, mean_distance, ring_profile
from headscope.analysis.vision.vit import each_attention, pixels
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, BadPrompts, EmptyPromptSet, MissingData
from headscope.hooks.encode import encode
from headscope.hooks.load import load


@pytest.fixture(scope="module")
def vit(tiny):
    return tiny("vit")


@pytest.fixture
def pictures():
    scenes = ("scene:1:red-circle@4", "scene:2:blue-star@0", "scene:3:green-moon@8")
    labels = ("circle", "star", "moon")
    return PromptSet(
        "mine", tuple(Prompt("p", image=one, label=label) for one, label in zip(scenes, labels, strict=True))
    )


@torch.no_grad()
def test_a_loop_in_plain_transformers_agrees(vit, pictures, model_folder):
    plain = ViTForImageClassification.from_pretrained(model_folder("vit")).eval()
    taken = pixels(vit, [prompt.image for prompt in pictures])

    def run():
        out = plain(taken, output_hidden_states=True)
        cls = plain.vit.layernorm(out.hidden_states[-1])[:, 0]
        return out.logits.softmax(-1).double().numpy(), cls.double().numpy()

    p, cls = run()
    chosen = [0, 3, int(p[2].argmax())]  # this model has no label "moon"
    found = {m: score(vit, "leave-one-out", pictures, measure=m) for m in ("probability", "jsd", "cls")}
    for layer in range(3):
        for head in range(4):
            weight = plain.vit.layers[layer].attention.o_proj.weight
            kept = weight.clone()
            weight[:, head * 8 : (head + 1) * 8] = 0
            q, other = run()
            weight.copy_(kept)
            for i in range(3):
                m = (p[i] + q[i]) / 2
                jsd = 0.5 * (p[i] * np.log(p[i] / m)).sum() + 0.5 * (q[i] * np.log(q[i] / m)).sum()
                cosine = cls[i] @ other[i] / np.linalg.norm(cls[i]) / np.linalg.norm(other[i])
                wanted = {"probability": p[i, chosen[i]] - q[i, chosen[i]], "jsd": jsd, "cls": 1 - cosine}
                for name, value in wanted.items():
                    assert found[name].samples[i, layer, head] == pytest.approx(value, abs=1e-6), name
    assert found["jsd"].causal and "2 of 3 images" in found["probability"].notes[0]


def test_known_patterns_have_known_profiles():
    side = 4
    n = side * side
    shift = torch.zeros(n, n)
    for i in range(n):
        shift[i, i - 1 if i % side else i + 1] = 1  # the left neighbour, at the left border the right one
    assert ring_profile(torch.eye(n)).tolist() == [1, 0, 0, 0]
    assert ring_profile(shift).tolist() == [0, 1, 0, 0]
    even = torch.full((n, n), 1 / n)
    sizes = torch.stack([(distances(side) == k).sum(-1).float() for k in range(side)], -1)
    assert torch.allclose(ring_profile(even), sizes.mean(0) / n)
    assert torch.allclose(ring_profile(even, per_piece=True), torch.full((side,), 1 / n))
    assert mean_distance(ring_profile(shift).numpy()) == pytest.approx(1)


def test_rings_are_cut_at_the_border():
    apart = distances(3)
    assert apart[0].tolist() == [0, 1, 2, 1, 1, 2, 2, 2, 2]
    assert apart[4].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    corner = torch.zeros(9, 9)
    corner[:, 0] = 1  # everybody looks at the first corner
    assert ring_profile(corner, per_piece=True)[2].item() == pytest.approx((3 / 5 + 2 / 3) / 8)
    assert ring_profile(corner)[2].item() == pytest.approx(5 / 9)


def test_distances_of_the_model_are_those_of_its_attention_whatever_the_batch(vit, pictures):
    found = score(vit, "attention-distance", pictures)
    patterns = {}
    each_attention(vit, [p.image for p in pictures], lambda layer, rows, p: patterns.__setitem__(layer, p))
    place = [(i // 4, i % 4) for i in range(16)]
    for layer, head in ((0, 1), (2, 3)):
        own = patterns[layer][1, head, 1:, 1:].numpy()
        far = sum(
            own[i, j] * max(abs(place[i][0] - place[j][0]), abs(place[i][1] - place[j][1]))
            for i in range(16)
            for j in range(16)
        )
        assert found.samples[1, layer, head] == pytest.approx(far / own.sum(), rel=1e-5)
    alone = score(vit, "attention-distance", pictures[1:2])
    assert np.allclose(alone.samples[0], found.samples[1], atol=1e-6)
    assert found.chance[0] == pytest.approx(mean_distance(ring_profile(torch.full((16, 16), 1 / 16)).numpy()))


def test_kinds_of_attention_are_found_and_shown_by_a_typical_map():
    rng = np.random.default_rng(0)
    kinds = [np.eye(9), np.full((9, 9), 1 / 9), np.roll(np.eye(9), 1, 1)]
    maps = np.stack(
        [[kinds[head][None] + 0.01 * rng.normal(size=(5, 9, 9)) for head in range(3)] for _ in range(2)]
    )
    found = pattern_kinds(maps, 3)
    assert all(len(set(found.cluster[:, head].ravel())) == 1 for head in range(3))
    assert len(set(found.cluster[0, :, 0])) == 3
    for cluster, (layer, head, image) in enumerate(found.typical):
        assert found.cluster[layer, head, image] == cluster
    assert (found.table().share == 1).all() and found.explained > 0.9
    again = pattern_kinds(maps, 3)
    assert np.array_equal(found.cluster, again.cluster) and np.allclose(found.place, again.place)
    with pytest.raises(BadOption, match="from 2 to 30"):
        pattern_kinds(maps, 31)


def test_models_of_images_alone_and_methods_of_text_are_told_apart(vit, tiny, pictures):
    with pytest.raises(MissingData, match="read pieces of images, not tokens"):
        score(vit, "induction")
    with pytest.raises(BadPrompts, match="prompt 0 has 0 images"):
        encode(vit, ["a cat"])
    with pytest.raises(MissingData, match="no model of images alone"):
        score(tiny("llama"), "leave-one-out", pictures)
    with pytest.raises(MissingData, match=r"mine\[0\] .* has no image"):
        score(vit, "leave-one-out", PromptSet("mine", (Prompt("p"),)))


def test_image_heads_puts_together_rings_cls_and_kinds(vit, pictures, tmp_path):
    images = [prompt.image for prompt in pictures]
    found = image_heads(vit, images, n_clusters=3)
    patterns = {}
    each_attention(vit, images, lambda layer, rows, p: patterns.__setitem__(layer, p))
    own = patterns[1][:, 2]  # image query key
    assert found.to_cls[1, 2] == pytest.approx(own[:, 1:, 0].mean().item(), abs=1e-6)
    assert np.allclose(found.rings[1, 2], ring_profile(own[:, 1:, 1:]).mean(0), atol=1e-6)
    assert np.allclose(found.rings.sum(-1) + found.to_cls, 1, atol=1e-5), "rings and CLS share all attention"
    layer, head, image = found.kinds.typical[0]
    assert np.allclose(found.typical[0], patterns[layer][image, head, 1:, 1:], atol=1e-6)
    table = found.table()
    assert len(table) == 12 and table.distance[6] == pytest.approx(mean_distance(found.rings)[1, 2])
    score_of = score(vit, "attention-distance", pictures).values
    assert np.allclose(score_of.ravel(), table.distance, rtol=0.02), "mean of ratios beside ratio of means"
    folder = found.save(tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == {"image_heads.parquet", "image_heads.html"}
    with pytest.raises(EmptyPromptSet, match="at least one"):
        image_heads(vit, [])
    with pytest.raises(BadOption, match="from 2 to 36"):
        image_heads(vit, images, n_clusters=40)


def test_a_tower_without_a_class_token_gives_it_nothing(model_folder, pictures):
    tower = load(f"{model_folder('idefics3')}#tower")
    found = image_heads(tower, [prompt.image for prompt in pictures], n_clusters=2)
    assert (found.to_cls == 0).all() and found.typical.shape[1:] == (16, 16)
    assert np.allclose(found.rings.sum(-1), 1, atol=1e-5)
