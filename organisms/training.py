"""What the training scripts share: a fast form of the Llama layers, the learning rate, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

TIED = "lm_head.weight"  # the embedding again


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def beyond_first(pattern: torch.Tensor) -> torch.Tensor:
    """Return how much a query looks at anything but the first token, from attention [..., query, key]."""
    return 1 - pattern[..., 0]


def fast_stream(
    config: Any,
    decoder: Any,
    x: torch.Tensor,
    dtype: torch.dtype = torch.bfloat16,
    *,
    measure: Callable[[torch.Tensor], torch.Tensor] = beyond_first,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the layers of a Llama over embedded, right-padded tokens [batch, pos, d_model], computing in `dtype`.

    Returns the normed last hidden state [batch, pos, d_model], and [layer, batch, pos, head] what `measure` makes of
    the attention of each query. `kept` [batch, head] scales what each head writes, in every layer.

    The same function as `decoder(inputs_embeds=x)`, written out: on CPUs the fused attention's backward pass takes half
    of the training time, and plain products of all query heads of a key-value head at once take a tenth of it.
    """
    width = x.shape[1]
    n_query, n_kv, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    share = n_query // n_kv
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    angle = torch.outer(torch.arange(width), frequency).repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    future = torch.full((width, width), -1e9).triu(1)
    measured = []
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        h = _rms_norm(x, layer.input_layernorm.weight, config.rms_norm_eps).to(dtype)
        weight = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight))
        heads = (h @ weight.to(dtype).T).unflatten(-1, (n_query + 2 * n_kv, size)).transpose(1, 2)
        q, k, v = heads.split((n_query, n_kv, n_kv), 1)
        q = _rotate(q, cos, sin).reshape(-1, share * width, size)
        k, v = _rotate(k, cos, sin).reshape(-1, width, size), v.reshape(-1, width, size)
        scores = torch.bmm(q, k.transpose(1, 2)).view(-1, share, width, width).float() * size**-0.5 + future
        pattern = scores.softmax(-1)
        measured.append(measure(pattern).flatten(-3, -2).unflatten(-2, (-1, n_query)).transpose(-1, -2))
        pattern = pattern.to(dtype).view(-1, share * width, width)
        z = torch.bmm(pattern, v).view(-1, n_query, width, size).transpose(1, 2)
        if kept is not None:
            z = z * kept[:, None, :, None].to(dtype)
        x = x + z.flatten(2) @ attention.o_proj.weight.to(dtype).T
        h = _rms_norm(x, layer.post_attention_layernorm.weight, config.rms_norm_eps).to(dtype)
        gate, up = (h @ torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).to(dtype).T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ mlp.down_proj.weight.to(dtype).T
    return _rms_norm(x, decoder.norm.weight, config.rms_norm_eps).to(dtype), torch.stack(measured)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 150) -> float:
    """Warm up linearly, hold, then fall to zero over the last 30 %."""
    if step < warmup:
        return peak * (step + 1) / warmup
    tail = 0.3 * steps
    return peak * min(1.0, (steps - step) / tail)


def save(path: Path, parts: Mapping[str, Any], step: int) -> None:
    """Write model, optimizers and step to one safetensors file, whole or not at all."""
    tensors = {}
    for part, owner in parts.items():
        state = owner.state_dict()
        # An optimizer keeps its tensors per parameter number, under "state".
        flat = (
            {f"{n}.{k}": t for n, held in state["state"].items() for k, t in held.items()}
            if part != "model"
            else state
        )
        tensors |= {f"{part}/{name}": tensor.contiguous() for name, tensor in flat.items() if name != TIED}
    unfinished = path.with_suffix(".tmp")
    save_file(tensors, unfinished, metadata={"step": str(step)})
    unfinished.replace(path)


def restore(path: Path, parts: Mapping[str, Any]) -> int:
    """Read what `save` wrote into the same parts, and return the step to go on with."""
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    for part, owner in parts.items():
        own = {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}
        if part == "model":
            owner.load_state_dict(own, strict=False)
            owner.tie_weights()
            continue
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in own.items():
            number, key = name.split(".", 1)
            state.setdefault(int(number), {})[key] = tensor
        owner.load_state_dict({"state": state, "param_groups": owner.state_dict()["param_groups"]})
    return step
