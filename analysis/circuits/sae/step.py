"""One step of an SAE's training: the loss and its gradient, Adam, and dead features begun anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ....errors import NonFinite
from .autoencoder import SaeConfig
from .options import SaeOptions
from .state import State

_SHOWN = 50  # steps between rows of the history


def take_step(state: State, config: SaeConfig, options: SaeOptions, rows: Float[Tensor, "row d_in"]) -> None:
    """Take one step of Adam, and begin dead features anew where it is time.

    Raises:
        NonFinite: The loss is not finite.
    """
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
        features, active = Jump.apply(before, leaves["threshold"], options.bandwidth)
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


def _adam(state: State, gradients: Mapping[str, Tensor], options: SaeOptions) -> None:
    done = state.step / options.steps
    rate = options.lr * min(1.0, done / 0.05, max(0.0, (1 - done) / 0.2) + 1e-3)
    for name, gradient in gradients.items():
        state.first[name].lerp_(gradient, 0.1)
        state.second[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (state.second[name] / (1 - 0.999**state.step)).sqrt_().add_(1e-8)
        state.weights[name].addcdiv_(state.first[name], root, value=-rate / (1 - 0.9**state.step))


def _resample(state: State, options: SaeOptions, x: Tensor, error: Tensor) -> int:
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


class Jump(torch.autograd.Function):
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
