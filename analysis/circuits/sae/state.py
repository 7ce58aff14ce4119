"""All that changes while an SAE is trained: where it begins, and the SAE that comes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import BadOption
from .autoencoder import Sae, SaeConfig
from .options import SaeOptions
from .stream import Place, Stream


@dataclass
class State:
    """All that changes during training."""

    weights: dict[str, Tensor]
    first: dict[str, Tensor]  # Adam's moments
    second: dict[str, Tensor]
    silent: Tensor  # steps since each feature was last active
    scale: float
    step: int
    place: Place
    history: list[dict[str, float]]


def begin(stream: Stream, config: SaeConfig, options: SaeOptions) -> State:
    """Draw the first weights, and scale inputs by the first shard of the stream.

    Raises:
        BadOption: All rows are the same.
    """
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
    return State(weights, zeros, {n: z.clone() for n, z in zeros.items()}, silent, scale, 0, Place(), [])


def finish(state: State, config: SaeConfig) -> Sae:
    """Undo the scaling of inputs: activations of the model go in as they are."""
    weights = {name: weight.detach().cpu() for name, weight in state.weights.items()}
    return Sae(
        config, weights["W_enc"], weights["b_enc"] / state.scale, weights["W_dec"], weights["b_dec"] / state.scale,
        weights["threshold"] / state.scale if "threshold" in weights else None,
    )  # fmt: skip
