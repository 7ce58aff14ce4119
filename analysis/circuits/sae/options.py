"""The settings of an SAE's training, refused where they are out of range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ....errors import BadOption
from .autoencoder import Architecture


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
