"""Train an SAE on head outputs, from a model and prompts; stopped, it goes on where it was, to the same bits."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ....errors import BadOption, BadRun, NonFinite
from ....hooks.info import describe
from ....hooks.sweep import Progress
from ...defaults import as_prompt_set
from ...files import jsonable, read_json, write_atomically
from .autoencoder import Architecture, Sae, SaeConfig
from .files import CONFIG, load_sae, save_sae
from .stream import Place, Stream

CHECKPOINT, RECORD = "training.safetensors", "training.json"
_SHOWN = 50  # steps between rows of the history


@dataclass(frozen=True)
class SaeOptions:
    """How an SAE is trained. Inputs are scaled to a variance of 1 per dimension, so that sparsity weights carry over.

    Attributes:
        architecture: `standard` (ReLU, pressed by `l1`), `topk` (held at `k`) or `jumprelu` (pressed by `l0`).
        d_sae: Features; 0 for four times the input's width.
        k: Of topk.
        l1: Weight of Σ |f| / √d_in beside the share of unexplained variance.
        l0: Weight of the number of active features / d_in, through the jump's smoothed gradient (kernel of width
            `bandwidth`).
        bandwidth: Of that kernel.
        lr: Step size of Adam; it warms up over 5 % of the steps and falls to 0 over the last 20 %.
        steps: Steps.
        batch_tokens: Rows a step.
        shard_prompts: Prompts whose tokens are mixed at a time.
        dead_after: Steps without a single activation after which a feature counts as dead.
        resample_every: Steps between chances of dead features to begin anew, on inputs that the SAE explains badly;
            none in the last 40 % of the steps. 0: never.
        bos: Whether first tokens count.
        seed: Of weights and orders.
    """

    architecture: Architecture = "topk"
    d_sae: int = 0
    k: int = 16
    l1: float = 0.05
    l0: float = 0.1
    bandwidth: float = 0.05
    lr: float = 2e-3
    steps: int = 1000
    batch_tokens: int = 1024
    shard_prompts: int = 512
    dead_after: int = 200
    resample_every: int = 250
    bos: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise BadOption(
                f"architecture={self.architecture!r}: choose from {', '.join(get_args(Architecture))}."
            )
        for name in ("k", "steps", "batch_tokens", "shard_prompts", "dead_after"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name}={getattr(self, name)}: expected 1 or more.")
        for name in ("l1", "l0", "d_sae", "resample_every"):
            if getattr(self, name) < 0:
                raise BadOption(f"{name}={getattr(self, name)}: expected 0 or more.")
        if self.lr <= 0 or self.bandwidth <= 0:
            raise BadOption(f"lr={self.lr}, bandwidth={self.bandwidth}: expected more than 0.")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained SAE and how it went.

    Attributes:
        sae: The SAE; rows of its decoder have length 1.
        options: As given.
        history: Every 50 steps: `step`, `unexplained` (share of the variance), `l0`, `dead`, `resampled`.
        seconds: Of this call.
        resumed: The step it went on from; 0 for a new one.
        folder: Where it stands, if it was written.
    """

    sae: Sae
    options: SaeOptions
    history: pd.DataFrame
    seconds: float
    resumed: int = 0
    folder: Path | None = None


@dataclass
class _State:
    """All that changes during training."""

    weights: dict[str, Tensor]
    first: dict[str, Tensor]  # Adam's moments
    second: dict[str, Tensor]
    silent: Tensor  # steps since each feature was last active
    scale: float
    step: int
    place: Place
    history: list[dict[str, float]]


def train_sae(
    model: Any,
    prompts: Any,
    *,
    layer: int,
    head: int | None = None,
    options: SaeOptions | None = None,
    out: str | Path | None = None,
    checkpoint_seconds: float = 20.0,
    progress: Progress | None = None,
) -> Trained:
    """Train a sparse autoencoder on z of a layer's heads.

    Formula: share of variance unexplained + the architecture's penalty; Adam; decoder rows held at length 1.
    Reference: Kissane et al. 2024, arXiv:2406.17759 (SAEs on attention outputs); Gao et al. 2024, arXiv:2406.04093
        (topk); Rajamanoharan et al. 2024, arXiv:2407.14435 (jumprelu); Bricken et al. 2023, "Towards Monosemanticity"
        (dead features begun anew). Defaults are ours.

    Args:
        model: The bridge.
        prompts: A `PromptSet` or prompts; all tokens of their texts are read.
        layer: Whose heads.
        head: One head, or None for all of them together.
        options: Settings.
        out: Folder for the SAE. A checkpoint stands there meanwhile; the same call takes it up, and returns at once
            what is finished.
        checkpoint_seconds: Seconds between checkpoints.
        progress: Called with steps done and all of them.

    Raises:
        EmptyPromptSet: There is nothing to train on.
        BadOption: A setting is out of range, the model lacks the layer or head, or the folder holds another SAE.
        NonFinite: An activation or a weight is NaN.
    """
    begun, chosen = time.monotonic(), options or SaeOptions()
    data = as_prompt_set(prompts)
    stream = Stream(
        model, tuple(data), layer, head, chosen.batch_tokens, chosen.shard_prompts, chosen.bos, chosen.seed
    )
    d_in = stream.width
    d_sae = chosen.d_sae or 4 * d_in
    info = describe(model)
    config = SaeConfig(
        chosen.architecture, d_in, d_sae, layer, head, chosen.k if chosen.architecture == "topk" else None,
        model_name=info.name,
        metadata={"n_heads": info.n_heads, "model_digest": info.digest, "data": data.name, "data_digest": data.digest,
                  "trained_by": "headscope"},
    )  # fmt: skip
    identity = _identity(config, chosen)
    folder = None if out is None else Path(out).expanduser()
    state = None
    if folder is not None:
        if (done := _finished(folder, identity, chosen)) is not None:
            return done
        state = _restore(folder / CHECKPOINT, identity)
    resumed = state.step if state else 0
    if state is None:
        state = _begin(stream, config, chosen)
    saved = time.monotonic()
    batches = stream.batches(state.place)
    while state.step < chosen.steps:
        place, rows = next(batches)
        _step(state, config, chosen, rows)
        state.place = place
        if progress:
            progress(state.step, chosen.steps)
        if (
            folder is not None
            and state.step < chosen.steps
            and time.monotonic() - saved >= checkpoint_seconds
        ):
            _keep(folder / CHECKPOINT, state, identity)
            saved = time.monotonic()
    sae = _finish(state, config)
    seconds, history = time.monotonic() - begun, pd.DataFrame(state.history)
    if folder is not None:
        record = {
            "identity": identity,
            "options": asdict(chosen),
            "history": state.history,
            "seconds": seconds,
        }
        save_sae(sae, folder, others={RECORD: (json.dumps(jsonable(record), indent=2) + "\n").encode()})
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return Trained(sae, chosen, history, seconds, resumed, folder)


def _begin(stream: Stream, config: SaeConfig, options: SaeOptions) -> _State:
    rows = stream.shard(0, 0)
    mean = rows.mean(0)
    spread = float((rows - mean).pow(2).mean())
    if spread == 0:
        raise BadOption(
            f"z of layer {config.layer} is the same at every token of these prompts; give more of them."
        )
    scale = spread**-0.5
    generator = torch.Generator().manual_seed(options.seed)
    decoder = torch.nn.functional.normalize(
        torch.randn(config.d_sae, config.d_in, generator=generator), dim=1
    ).to(rows)
    weights = {
        "W_dec": decoder, "W_enc": decoder.T.clone(), "b_enc": rows.new_zeros(config.d_sae), "b_dec": mean * scale,
    }  # fmt: skip
    if config.architecture == "jumprelu":
        weights["threshold"] = rows.new_full((config.d_sae,), 0.1)
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    silent = torch.zeros(config.d_sae, dtype=torch.long, device=rows.device)
    return _State(weights, zeros, {n: z.clone() for n, z in zeros.items()}, silent, scale, 0, Place(), [])


def _step(state: _State, config: SaeConfig, options: SaeOptions, rows: Float[Tensor, "row d_in"]) -> None:
    """Take one step of Adam, and begin dead features anew where it is time."""
    state.step += 1
    x = rows * state.scale
    leaves = {name: weight.detach().requires_grad_() for name, weight in state.weights.items()}
    before = (x - leaves["b_dec"]) @ leaves["W_enc"] + leaves["b_enc"]
    if config.architecture == "topk":
        assert config.k is not None
        values, places = before.topk(config.k, dim=1)
        features = torch.zeros_like(before).scatter(1, places, values.relu())
        penalty = before.new_zeros(())
    elif config.architecture == "jumprelu":
        features, active = _Jump.apply(before, leaves["threshold"], options.bandwidth)
        penalty = (
            options.l0 * active.sum(1).mean() / config.d_in * min(1.0, state.step / (0.2 * options.steps))
        )
    else:
        features = before.relu()
        penalty = (
            options.l1
            * features.sum(1).mean()
            / config.d_in**0.5
            * min(1.0, state.step / (0.1 * options.steps))
        )
    error = features @ leaves["W_dec"] + leaves["b_dec"] - x
    unexplained = error.pow(2).sum(1).mean() / config.d_in
    (unexplained + penalty).backward()
    with torch.no_grad():
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        decoder = state.weights["W_dec"]
        gradients["W_dec"] -= (gradients["W_dec"] * decoder).sum(1, keepdim=True) * decoder
        _adam(state, gradients, options)
        decoder.div_(decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))
        if "threshold" in state.weights:
            state.weights["threshold"].clamp_min_(0)
        if not bool(torch.isfinite(unexplained)):
            raise NonFinite(
                f"step {state.step}: the loss is not finite; choose a smaller lr than {options.lr:g}."
            )
        fired = (features > 0).any(0)
        state.silent = torch.where(fired, 0, state.silent + 1)
        n_new = _resample(state, options, x, error)
        if state.step % _SHOWN == 0 or state.step == options.steps:
            variance = float((x - x.mean(0)).pow(2).sum(1).mean() / config.d_in)
            state.history.append({
                "step": state.step, "unexplained": float(unexplained) / variance,
                "l0": float((features > 0).sum(1).float().mean()),
                "dead": int((state.silent >= options.dead_after).sum()), "resampled": n_new,
            })  # fmt: skip


def _adam(state: _State, gradients: Mapping[str, Tensor], options: SaeOptions) -> None:
    done = state.step / options.steps
    rate = options.lr * min(1.0, done / 0.05, max(0.0, (1 - done) / 0.2) + 1e-3)
    for name, gradient in gradients.items():
        state.first[name].lerp_(gradient, 0.1)
        state.second[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (state.second[name] / (1 - 0.999**state.step)).sqrt_().add_(1e-8)
        state.weights[name].addcdiv_(state.first[name], root, value=-rate / (1 - 0.9**state.step))


def _resample(state: _State, options: SaeOptions, x: Tensor, error: Tensor) -> int:
    """Point dead features at inputs that are explained badly, chosen in proportion to their squared error."""
    if not options.resample_every or state.step % options.resample_every or state.step > 0.6 * options.steps:
        return 0
    dead = (state.silent >= options.dead_after).nonzero().flatten()
    if not len(dead):
        return 0
    weights, lost = state.weights, error.pow(2).sum(1)
    if float(lost.sum()) == 0:
        return 0
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + state.step)
    dead = dead[: len(x)]
    drawn = torch.multinomial(lost.cpu(), len(dead), generator=generator).to(x.device)
    direction = torch.nn.functional.normalize(-error[drawn], dim=1)
    alive = state.silent < options.dead_after
    size = float(weights["W_enc"][:, alive].norm(dim=0).mean()) if bool(alive.any()) else 1.0
    # A feature that must win a place among the k largest begins at full size; others begin small, to disturb little.
    share = 1.0 if options.architecture == "topk" else 0.2
    weights["W_dec"][dead] = direction
    weights["W_enc"][:, dead] = direction.T * size * share
    weights["b_enc"][dead] = 0.0
    if "threshold" in weights:
        weights["threshold"][dead] = 0.1 * share
    for moments in (state.first, state.second):
        moments["W_dec"][dead] = 0.0
        moments["W_enc"][:, dead] = 0.0
        for name in ("b_enc", "threshold"):
            if name in moments:
                moments[name][dead] = 0.0
    state.silent[dead] = 0
    return len(dead)


class _Jump(torch.autograd.Function):
    """JumpReLU and its count, with the gradient by the threshold smoothed by a kernel of a rectangle's form."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        active = before > threshold
        near = ((before - threshold).abs() < bandwidth / 2).to(before) / bandwidth
        ctx.save_for_backward(active, near, threshold)
        return before * active, active.to(before)

    @staticmethod
    def backward(ctx: Any, by_features: Tensor, by_active: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        active, near, threshold = ctx.saved_tensors
        by_threshold = -(near * (threshold * by_features + by_active)).sum(0)
        return by_features * active, by_threshold, None


def _finish(state: _State, config: SaeConfig) -> Sae:
    """Undo the scaling of inputs: activations of the model go in as they are."""
    weights = {name: weight.detach().cpu() for name, weight in state.weights.items()}
    return Sae(
        config, weights["W_enc"], weights["b_enc"] / state.scale, weights["W_dec"], weights["b_dec"] / state.scale,
        weights["threshold"] / state.scale if "threshold" in weights else None,
    )  # fmt: skip


def _identity(config: SaeConfig, options: SaeOptions) -> str:
    """Digest of everything that decides the result."""
    record = jsonable({"config": asdict(config), "options": asdict(options)})
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _keep(path: Path, state: _State, identity: str) -> None:
    tensors = {"silent": state.silent}
    for part in ("weights", "first", "second"):
        tensors |= {f"{part}/{name}": tensor.contiguous() for name, tensor in getattr(state, part).items()}
    metadata = {"identity": identity, "step": state.step, "place": list(state.place), "scale": state.scale.hex(),
                "history": state.history}  # fmt: skip
    write_atomically(
        path, save(tensors, metadata={name: json.dumps(value) for name, value in metadata.items()})
    )


def _restore(path: Path, identity: str) -> _State | None:
    if not path.is_file():
        return None
    try:
        return _restored(path, identity)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadRun(
            f"{path}: not a training that was stopped here ({type(error).__name__}: {str(error)[:200]}). Remove it, "
            "and train from the beginning."
        ) from error


def _restored(path: Path, identity: str) -> _State:
    with safe_open(path, "pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        if metadata["identity"] != identity:
            raise BadOption(
                f"{path.parent}: a training of another SAE was stopped here (other prompts, model or settings); choose "
                "another folder, or remove this one."
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "first": {}, "second": {}}
    for name, tensor in tensors.items():
        if "/" in name:
            part, own = name.split("/")
            parts[part][own] = tensor
    return _State(
        **parts, silent=tensors["silent"], scale=float.fromhex(metadata["scale"]), step=metadata["step"],
        place=Place(*metadata["place"]), history=metadata["history"],
    )  # fmt: skip


def _finished(folder: Path, identity: str, options: SaeOptions) -> Trained | None:
    if not (folder / CONFIG).is_file():
        return None
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    if record.get("identity") != identity:
        raise BadOption(f"{folder}: another SAE stands here; choose another folder, or remove this one.")
    known = {field.name for field in fields(SaeOptions)}
    assert set(record["options"]) == known, "an identity can only match the same options"
    return Trained(load_sae(folder), options, pd.DataFrame(record["history"]), 0.0, options.steps, folder)
