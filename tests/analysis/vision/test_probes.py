"""Probes of image towers: planted labels are read, shuffled ones are not, and the tower is the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headscope.analysis.defaults import pictures
from headscope.analysis.vision.probes import EfficientProbe, efficient_probe, linear_probe
from headscope.analysis.vision.prompt_cam import _scores, train_prompts
from headscope.analysis.vision.towers import Tower, head_outputs
from headscope.errors import BadOption, MissingData


@pytest.fixture(scope="module")
def images():
    return [prompt.image for prompt in pictures(24)]


@pytest.fixture(params=["llava", "vit"])
def seeing(request, tiny):
    return tiny(request.param)


@torch.no_grad()
def test_the_tower_run_layer_by_layer_is_the_models_own(seeing, images):
    tower = Tower.of(seeing)
    pixels = tower.pixels(images[:3])
    x = tower.embed(pixels)
    for layer in range(tower.n_layers):
        x = tower.run(x, layer)
    hf = seeing.original_model
    own = hf.vit if hasattr(hf, "vit") else hf.model.vision_tower
    out = own(pixel_values=pixels, output_hidden_states=True)
    # The last hidden state of CLIP comes before its last norm, that of a ViT after it.
    wanted = out.last_hidden_state
    found = tower.norm(x) if hasattr(hf, "vit") else x
    assert torch.allclose(found, wanted, atol=1e-5)
    z = head_outputs(seeing, images[:3], rows=2)
    assert z.shape == (3, tower.n_layers, tower.n_heads, 16, tower.d_head)
    assert torch.allclose(z[1:2], head_outputs(seeing, images[1:2]), atol=1e-5)


def planted(n=120, seed=0):
    """Features of two layers and heads; one head holds the label, at one of its pieces."""
    generator = torch.Generator().manual_seed(seed)
    labels = [("a", "b", "c")[i % 3] for i in range(n)]
    features = torch.randn(n, 2, 2, 9, 8, generator=generator)
    for i, label in enumerate(labels):
        features[i, 1, 0, i % 9, "abc".index(label)] += 12
    return features, labels


def test_the_head_that_holds_the_label_is_read_and_no_other():
    features, labels = planted()
    table = linear_probe(features, labels)
    best = table.loc[table.accuracy.idxmax()]
    assert (best.layer, best["head"]) == (1, 0) and best.accuracy > 0.9 and best.low > 1 / 3
    others = table[(table.layer != 1) | (table["head"] != 0)]
    assert (others.low < 1 / 3).all() and (table.shuffled < 0.6).all()


def test_learned_queries_find_the_piece_that_holds_the_label():
    features, labels = planted()
    found = efficient_probe(features[:, 1, 0], labels, n_queries=2)
    assert found.accuracy > 0.85 and found.low <= found.accuracy <= found.high
    assert np.allclose(found.attention.sum(-1), 1, atol=1e-5)
    holds = np.array([i % 9 for i in found.held_out])
    looked = found.attention.max(1)[np.arange(len(holds)), holds]
    assert looked.mean() > 2 / 9
    assert found.parameters == 2 * 8 + 8 * 8 + 8 * 3 + 3
    noise = efficient_probe(features[:, 0, 0], labels, n_queries=2)
    assert noise.low < 1 / 3


def test_a_probes_output_is_the_formula():
    torch.manual_seed(0)
    probe, x = EfficientProbe(6, 2, 3, 6).eval(), torch.randn(4, 5, 6)
    logits, attention = probe(x)
    values = x @ probe.value.weight.T
    for image in range(4):
        parts = []
        for query in range(2):
            weights = torch.softmax(
                torch.tensor([probe.queries[query] @ x[image, p] / 6**0.5 for p in range(5)]), 0
            )
            assert torch.allclose(weights, attention[image, query], atol=1e-6)
            parts.append(weights @ values[image, :, 3 * query : 3 * query + 3])
        assert torch.allclose(probe.classify(probe.norm(torch.cat(parts)[None]))[0], logits[image], atol=1e-5)


def test_class_prompts_learn_and_leave_the_tower_as_it_is(seeing):
    shown = pictures(24)
    images, labels = (
        [one.image for one in shown],
        ["round" if one.label in ("circle", "ring", "moon") else "edged" for one in shown],
    )
    before = [p.detach().clone() for p in seeing.original_model.parameters()]
    found = train_prompts(seeing, images, labels, epochs=6)
    again = train_prompts(seeing, images, labels, epochs=6)
    assert found.losses[-1] < found.losses[0] and torch.equal(found.prompts, again.prompts)
    assert all(torch.equal(p, q) for p, q in zip(before, seeing.original_model.parameters(), strict=True))
    assert all(p.grad is None for p in seeing.original_model.parameters())
    traits = found.traits(images[:2], "round")
    assert (
        traits.shape == (2, found.tower.n_heads, 16) and (traits >= 0).all() and (traits.sum(-1) <= 1).all()
    )
    ranked = found.rank_heads(images[0], "round")
    assert sorted(ranked) == list(range(found.tower.n_heads))


@torch.no_grad()
def test_blurring_is_attending_evenly(seeing):
    shown = pictures(24)
    found = train_prompts(
        seeing, [one.image for one in shown], ["x" if one.label > "m" else "y" for one in shown], epochs=1
    )
    pixels = found.tower.pixels([shown[0].image])
    layer = found.tower.n_layers - 1
    kept = {}
    hooks = [(found.tower.point(layer, "v.hook_out"), lambda v, hook: kept.__setitem__("v", v.clone()))]
    with seeing.hooks(fwd_hooks=hooks):
        _scores(found.tower, pixels, found.prompts, found.classify)
    v = kept["v"].reshape(1, -1, found.tower.n_heads, found.tower.d_head)
    pattern = torch.full((v.shape[1],), 1 / v.shape[1])
    wanted = torch.einsum("k,khd->hd", pattern, v[0])

    def by_hand(z, hook):
        z[0, 1, [0, 2]] = wanted[[0, 2]]
        return z

    with seeing.hooks(fwd_hooks=[(found.tower.point(layer, "hook_z"), by_hand)]):
        scores = _scores(found.tower, pixels, found.prompts, found.classify)
    blurred = found._blurred(pixels, 1, [0, 2])
    assert torch.allclose(blurred, scores, atol=1e-6)
    clean = _scores(found.tower, pixels, found.prompts, found.classify)
    assert torch.equal(blurred[0, 0], clean[0, 0]) and not torch.equal(blurred[0, 1], clean[0, 1])


def test_what_cannot_be_probed_is_refused(tiny):
    features, labels = planted(12)
    with pytest.raises(MissingData, match="at least two labels"):
        linear_probe(features, ["a"] * 12)
    with pytest.raises(BadOption, match="n_queries is 3"):
        efficient_probe(features[:, 0, 0], labels, n_queries=3)
    with pytest.raises(BadOption, match="take one head's"):
        efficient_probe(features, labels)
    with pytest.raises(MissingData, match="has no tower"):
        Tower.of(tiny("llama"))
