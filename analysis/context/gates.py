"""Train one gate per key-value head between full attention and attention to the first and last keys only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...datasets.prompts import PromptSet
from ...errors import BadOption
from ...hooks.encode import Batch, encode
from ...hooks.forward import forward
from ...hooks.points import refuse_unsupported
from ...hooks.turn import turn, watching
from .masses import Progress, span, with_right_answers

SINK, RECENT = 128, 256
"""The authors' first and last keys, for contexts of 1,000 to 32,000 tokens."""


@dataclass(frozen=True, eq=False)
class Gates:
    """What training came to.

    Attributes:
        values: One gate per layer and key-value head: 1 needs its whole cache, 0 does with the first and last keys.
        losses: Distance of the hidden states and the gates' mean, at every step.
        sink: How many first keys a gated head kept.
        recent: How many last keys it kept, its own included.
    """

    values: Float[np.ndarray, "layer kv_head"]
    losses: Float[np.ndarray, "step 2"]
    sink: int
    recent: int


def train_gates(
    model: Any,
    prompts: PromptSet,
    *,
    steps: int = 120,
    rate: float = 0.02,
    penalty: float = 0.05,
    sink: int | None = None,
    recent: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gates:
    """Learn which key-value heads can do without most of their keys while the answer's hidden states stay the same.

    Formula: attention becomes a · full + (1 − a) · streaming, streaming the same softmax over the first `sink` and last
    `recent` keys only; gates a start at 1, stay in [0, 1], and minimise the mean square distance of the hidden states
    that predict the answer's tokens, plus penalty · mean(a). The model itself stays as it is.

    Args:
        model: The bridge; its attention must be computed through its hooks.
        prompts: Each with an answer to be found in it.
        steps: Updates; the authors take 2,000. A gate moves by about `rate` in each, so 1 / rate are the fewest.
        rate: Learning rate of AdamW, without weight decay.
        penalty: Weight of the gates' mean.
        sink: First keys kept; by default the authors' 128, in shorter prompts a sixteenth of the longest.
        recent: Last keys kept; by default the authors' 256, in shorter prompts a quarter of the longest.
        batch_size: Prompts per update.
        seed: Of the order of the prompts.
        progress: Called with (updates done, all of them).

    Raises:
        BadOption: An option is out of range, the kept keys are all there are, or patterns cannot be edited.
        MissingData: A prompt has no answer.
    """
    refuse_unsupported(model, "pattern", "duo")
    data = with_right_answers(prompts)
    longest = int(encode(model, data).lengths.max())
    first = min(SINK, max(1, longest // 16)) if sink is None else sink
    last = min(RECENT, max(1, longest // 4)) if recent is None else recent
    if steps < 1 or batch_size < 1 or first < 0 or last < 1 or not rate > 0 or penalty < 0:
        raise BadOption(
            f"steps={steps}, batch_size={batch_size}, sink={first}, recent={last}, rate={rate}, penalty={penalty}: "
            "expected whole numbers of 1 or more (sink: 0), a rate above 0 and a penalty of 0 or more"
        )
    if first + last >= longest:
        raise BadOption(
            f"sink={first} and recent={last} keep all {longest} tokens of the longest prompt, so no gate makes a "
            "difference; give smaller numbers or longer prompts"
        )
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    n_kv = int(getattr(model.cfg, "n_key_value_heads", None) or n_heads)
    device = torch.device(model.cfg.device)
    gates = torch.ones(n_layers, n_kv, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW([gates], lr=rate, weight_decay=0.0)
    rng = np.random.default_rng([seed, len(data)])
    order: list[int] = []
    losses = np.empty((steps, 2))
    with _frozen(model):
        full = [_targets(model, data, start, batch_size) for start in range(0, len(data), batch_size)]
        wanted = [one for part in full for one in part]
        for step in range(steps):
            if len(order) < batch_size:
                order += rng.permutation(len(data)).tolist()
            rows, order = order[:batch_size], order[batch_size:]
            batch = encode(model, [data[row] for row in rows])
            target = torch.cat([wanted[row] for row in rows])
            with torch.enable_grad(), gated(model, batch, gates, first, last):
                distance = (_hidden(model, batch)[_asked(batch)] - target).pow(2).mean()
                loss = distance + penalty * gates.mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            with torch.no_grad():
                gates.clamp_(0, 1)
            losses[step] = float(distance.detach()), float(gates.detach().mean())
            if progress:
                progress(step + 1, steps)
    return Gates(gates.detach().double().cpu().numpy(), losses, first, last)


@contextmanager
def gated(
    model: Any, batch: Batch, gates: Float[Tensor, "layer kv_head"], sink: int, recent: int
) -> Iterator[None]:
    """Run the model inside the block with every head's attention mixed by the gate of its key-value head."""
    kept = streamed(batch, sink, recent)[:, None]
    size = int(model.cfg.n_heads) // gates.shape[1]

    def mix(layer: int) -> Any:
        def hook_fn(pattern: Tensor, hook: Any) -> Tensor:
            # In float32, since float16 takes the smallest sum for 0 and rows of padding would become NaN.
            wide = pattern.float()
            near = wide * kept.to(wide.device)
            near = near / near.sum(-1, keepdim=True).clamp_min(1e-30)
            gate = gates[layer].to(wide).repeat_interleave(size)[None, :, None, None]
            return (gate * wide + (1 - gate) * near).to(pattern)

        return hook_fn

    hooks = [(f"blocks.{layer}.attn.hook_pattern", mix(layer)) for layer in range(int(model.cfg.n_layers))]
    with watching(model, hooks):
        yield


def streamed(batch: Batch, sink: int, recent: int) -> Bool[Tensor, "prompt query_pos key_pos"]:
    """Mark the keys that a streaming head keeps: the first real tokens, and the last ones before each query."""
    position = batch.positions
    real = batch.attention_mask.bool()
    distance = position[:, :, None] - position[:, None, :]
    near = (position[:, None, :] < sink) | (distance < recent)
    return near & (distance >= 0) & real[:, None, :] & real[:, :, None]


def _asked(batch: Batch) -> Bool[Tensor, "prompt pos"]:
    """Mark the tokens from which the answer's are predicted."""
    return torch.nn.functional.pad(span(batch, "answer")[:, 1:], (0, 1))


@torch.no_grad()
def _targets(model: Any, data: PromptSet, start: int, size: int) -> list[Float[Tensor, "answer_pos d_model"]]:
    """Return the full model's hidden states that are to be kept, prompt by prompt."""
    batch = encode(model, data[start : start + size])
    return [row[asked] for row, asked in zip(_hidden(model, batch), _asked(batch), strict=True)]


def _hidden(model: Any, batch: Batch) -> Float[Tensor, "prompt pos d_model"]:
    """Return what is unembedded, at every position, with its gradient where that is wanted."""
    seen: list[Tensor] = []

    def keep(_: Any, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    with turn(model):
        handle = model.unembed.register_forward_pre_hook(keep)
        try:
            forward(model, batch)
        finally:
            handle.remove()
    return seen[-1].float()


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Keep gradients away from the weights inside the block."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
