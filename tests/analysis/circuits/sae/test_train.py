"""Training: it finds planted directions, goes on to the same bits, begins dead features anew, and refuses bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headscope.analysis.circuits.sae import Sae, SaeOptions, measure, train_sae
from headscope.analysis.circuits.sae.autoencoder import SaeConfig
from headscope.analysis.circuits.sae.state import begin
from headscope.analysis.circuits.sae.step import Jump, take_step
from headscope.analysis.circuits.sae.stream import Place, Stream, layer_z
from headscope.analysis.circuits.sae.texts import held_out, training_texts
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, EmptyPromptSet, MissingData, NonFinite
from headscope.hooks.capture import capture_z
from headscope.hooks.encode import encode

QUICK = SaeOptions(
    d_sae=48, k=4, steps=60, batch_tokens=128, shard_prompts=8, resample_every=20, dead_after=10
)


@pytest.fixture(scope="module")
def texts(planted):
    return training_texts(planted, 24)[0]


class Known:
    """A stream of sums of few known directions."""

    def __init__(self, d: int = 16, n: int = 24, n_active: int = 2, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.directions = torch.nn.functional.normalize(torch.randn(n, d, generator=self.generator), dim=1)
        self.n_active = n_active

    def shard(self, epoch: int = 0, shard: int = 0, rows: int = 512) -> torch.Tensor:
        n = len(self.directions)
        active = torch.zeros(rows, n).scatter_(
            1, torch.rand(rows, n, generator=self.generator).topk(self.n_active).indices, 1.0
        )
        return (active * (0.5 + torch.rand(rows, n, generator=self.generator))) @ self.directions


@pytest.mark.parametrize(
    ("architecture", "settings"), [("topk", {"k": 2}), ("standard", {"l1": 0.3}), ("jumprelu", {"l0": 0.2})]
)
def test_planted_directions_are_found(architecture, settings):
    data = Known()
    options = SaeOptions(
        architecture=architecture, d_sae=32, steps=800, lr=5e-3, dead_after=30, resample_every=100, **settings
    )
    config = SaeConfig(architecture, 16, 32, 0, k=options.k if architecture == "topk" else None)
    state = begin(data, config, options)
    for _ in range(options.steps):
        take_step(state, config, options, data.shard(rows=256))
    likeness = (torch.nn.functional.normalize(state.weights["W_dec"], dim=1) @ data.directions.T).amax(0)
    assert float((likeness > 0.9).float().mean()) > 0.7, likeness
    assert state.history[-1]["l0"] < 6


def test_the_jump_has_the_gradient_of_a_kernel():
    before = torch.tensor([[0.5, 1.02, 2.0]], requires_grad=True)
    threshold = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    features, active = Jump.apply(before, threshold, 0.1)
    assert features.tolist() == [[0.0, pytest.approx(1.02), 2.0]] and active.tolist() == [[0.0, 1.0, 1.0]]
    (3 * features.sum() + 5 * active.sum()).backward()
    assert before.grad.tolist() == [[0.0, 3.0, 3.0]]
    # only the second value lies within 0.05 of its threshold: -(1 / 0.1) (1 * 3 + 5)
    assert threshold.grad.tolist() == [0.0, pytest.approx(-80.0), 0.0]


def test_dead_features_begin_anew():
    data = Known()
    options = SaeOptions(
        architecture="standard", d_sae=32, steps=200, dead_after=5, resample_every=20, l1=0.01
    )
    config = SaeConfig("standard", 16, 32, 0)
    state = begin(data, config, options)
    state.weights["b_enc"][:16] = -100.0
    for _ in range(100):
        take_step(state, config, options, data.shard(rows=128))
    assert bool((state.weights["b_enc"][:16] > -5).all())
    assert int((state.silent[:16] < 5).sum()) >= 8
    none = SaeOptions(architecture="standard", d_sae=32, steps=200, dead_after=5, resample_every=0)
    state = begin(data, config, none)
    state.weights["b_enc"][:16] = -100.0
    for _ in range(40):
        take_step(state, config, none, data.shard(rows=128))
    assert bool((state.silent[:16] == 40).all())


def test_a_stopped_training_goes_on_to_the_same_bits(planted, texts, tmp_path):
    whole = train_sae(planted, texts, layer=2, options=QUICK)
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 37:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sae(
            planted, texts, layer=2, options=QUICK, out=tmp_path / "sae", checkpoint_seconds=0, progress=stop
        )
    assert seen[-1] == (37, 60) and not (tmp_path / "sae" / "cfg.json").exists()
    again = train_sae(planted, texts, layer=2, options=QUICK, out=tmp_path / "sae", checkpoint_seconds=0)
    assert again.resumed == 36
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(again.sae, name), getattr(whole.sae, name)), name
    assert again.history.equals(whole.history)
    assert not (tmp_path / "sae" / "training.safetensors").exists()
    found = train_sae(planted, texts, layer=2, options=QUICK, out=tmp_path / "sae")
    assert found.resumed == 60 and torch.equal(found.sae.W_enc, whole.sae.W_enc)
    with pytest.raises(BadOption, match="another SAE stands here"):
        train_sae(planted, texts, layer=1, options=QUICK, out=tmp_path / "sae")
    with pytest.raises(KeyboardInterrupt):
        train_sae(
            planted, texts, layer=2, options=QUICK, out=tmp_path / "two", checkpoint_seconds=0, progress=stop
        )
    with pytest.raises(BadOption, match="a training of another SAE was stopped here"):
        train_sae(planted, texts, layer=0, options=QUICK, out=tmp_path / "two")


def test_the_stream_shows_every_token_once_an_epoch_and_can_be_taken_up(planted, texts, monkeypatch):
    stream = Stream(planted, tuple(texts), 2, None, batch_tokens=100, shard_prompts=10)
    batch = encode(planted, texts)
    z = capture_z(planted, batch)[2].flatten(2)[batch.attention_mask.bool()]
    rows = torch.cat([stream.shard(0, shard) for shard in range(stream.n_shards)])
    assert stream.n_shards == 3 and rows.shape == z.shape
    assert torch.allclose(rows.double().sum(0), z.double().sum(0), atol=1e-2)
    order = [torch.argsort(x.double() @ torch.linspace(0, 1, 256).double()) for x in (rows, z)]
    torch.testing.assert_close(rows[order[0]], z[order[1]], atol=1e-4, rtol=1e-4)
    assert not torch.equal(stream.shard(0, 0), stream.shard(1, 0))
    source = stream.batches()
    seen = [next(source) for _ in range(12)]
    assert seen[-1][0].epoch >= 0 and all(len(x) for _, x in seen)
    for start in (0, 3, 7):
        again = next(
            Stream(planted, tuple(texts), 2, None, batch_tokens=100, shard_prompts=10).batches(seen[start][0])
        )
        assert again[0] == seen[start + 1][0] and torch.equal(again[1], seen[start + 1][1])
    monkeypatch.setattr("headscope.analysis.circuits.sae.stream._KEPT", 10)
    streamed = Stream(planted, tuple(texts), 2, None, batch_tokens=100, shard_prompts=10)
    torch.testing.assert_close(streamed.shard(0, 1), stream.shard(0, 1), atol=1e-4, rtol=1e-4)
    one = Stream(planted, tuple(texts), 2, 1, bos=False)
    assert one.width == 64 and len(one.shard(0, 0)) == len(z) - len(texts)
    assert Place() == (0, 0, 0)


def test_one_layers_z_is_that_of_a_whole_pass(any_model):
    batch = encode(
        any_model, ["the cat saw a dog", "a big red fox took the small gold key"], padding_side="right"
    )
    for layer in range(int(any_model.cfg.n_layers)):
        mine, whole = layer_z(any_model, batch, layer), capture_z(any_model, batch)[layer]
        real = batch.attention_mask.bool()
        torch.testing.assert_close(mine[real], whole[real])


def test_an_sae_of_the_planted_model_keeps_what_it_does(planted, texts):
    settings = SaeOptions(d_sae=256, k=8, steps=150, batch_tokens=256)
    trained = train_sae(planted, texts, layer=2, head=1, options=settings)
    others = training_texts(planted, 24, seed=5)[0]
    found = measure(planted, trained.sae, others)
    assert found.explained_variance > 0.6 and found.l0 <= 8 and found.text.recovered > 0.9
    assert found.text.zero > found.text.clean + 0.5
    assert found.text.clean < found.text.spliced < found.text.zero
    assert found.text.recovered == pytest.approx(
        (found.text.zero - found.text.spliced) / (found.text.zero - found.text.clean)
    )
    generator = torch.Generator().manual_seed(0)
    like = trained.sae
    noise = Sae(
        like.config, torch.randn(like.W_enc.shape, generator=generator), like.b_enc, like.W_dec, like.b_dec
    )
    assert measure(planted, noise, others).explained_variance < 0.1
    assert any("recovered" in line for line in found.lines())


def test_explained_variance_and_loss_equal_plain_sums(planted, texts):
    trained = train_sae(planted, texts, layer=1, options=QUICK)
    few = PromptSet("few", texts[:3])
    found = measure(planted, trained.sae, few)
    batch = encode(planted, few, padding_side="right")
    x = capture_z(planted, batch)[1].flatten(2)[batch.attention_mask.bool()]
    left = (x - trained.sae(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert found.explained_variance == pytest.approx(1 - float(left), abs=1e-4)
    assert found.l0 == pytest.approx(float((trained.sae.encode(x) > 0).sum(1).float().mean()), abs=1e-3)
    losses = []
    for prompt in few:
        tokens = planted.to_tokens(prompt.text)
        logprobs = planted(tokens).detach().log_softmax(-1)[0]
        losses += [-float(logprobs[i, tokens[0, i + 1]]) for i in range(tokens.shape[1] - 1)]
    assert found.text.clean == pytest.approx(np.mean(losses), abs=1e-4) and found.text.n == len(losses)


def test_bad_input_is_one_clear_error(planted, texts):
    with pytest.raises(EmptyPromptSet, match="no activation to train on"):
        train_sae(planted, PromptSet("none", []), layer=0, options=QUICK)
    with pytest.raises(BadOption, match="layer 8: organism/planted has layers 0-2"):
        train_sae(planted, texts, layer=8, options=QUICK)
    with pytest.raises(BadOption, match="head 9"):
        train_sae(planted, texts, layer=0, head=9, options=QUICK)
    with pytest.raises(BadOption, match="is the same at every token"):
        train_sae(planted, [Prompt("apple")], layer=0, options=SaeOptions(d_sae=8, k=2, bos=False))
    with pytest.raises(BadOption, match="k=0"):
        SaeOptions(k=0)
    with pytest.raises(BadOption, match="architecture='relu'"):
        SaeOptions(architecture="relu")
    weight = planted.blocks[1].attn.W_V

    def broken(value, hook):
        return value * float("nan")

    with (
        planted.hooks(fwd_hooks=[("blocks.1.attn.hook_v", broken)]),
        pytest.raises(NonFinite, match=r"blocks\.1\.attn\.hook_z of organism/planted is NaN"),
    ):
        train_sae(planted, texts, layer=1, options=QUICK)
    assert bool(torch.isfinite(weight).all())


def test_texts_are_split_and_unknown_models_ask_for_some(planted, tiny):
    train, held = held_out(PromptSet("mine", [Prompt(f"apple {i}") for i in range(25)]))
    assert len(train) == 22 and len(held) == 3 and not {p.text for p in train} & {p.text for p in held}
    with pytest.raises(EmptyPromptSet, match="at least 2"):
        held_out(PromptSet("one", [Prompt("apple")]))
    with pytest.raises(MissingData, match="needs texts to read"):
        training_texts(tiny("llama"), 20)
    one, two = training_texts(planted, 30)
    assert len(one) == 30 and len(two) == 20 and one.digest != two.digest
