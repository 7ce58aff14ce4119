"""A sparse autoencoder on head outputs: what it computes, whoever trained it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ....errors import BadOption, NonFinite, nearest
from ....hooks.heads import Head

Architecture = Literal["standard", "topk", "jumprelu"]
Normalise = Literal["none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"]
_EPS = 1e-5  # of the layer_norm form


@dataclass(frozen=True)
class SaeConfig:
    """What an SAE is, apart from its numbers; field names where SAELens has the same are SAELens'.

    Attributes:
        architecture: `standard` (ReLU), `topk` or `jumprelu`.
        d_in: Width of its input: heads × d_head for a whole layer, d_head for one head.
        d_sae: Number of features.
        layer: Whose z it reads.
        head: Index of the one head it reads; None for all heads of the layer, one after the other.
        k: Features that may be active at once, of `topk`.
        apply_b_dec_to_input: Whether b_dec is taken off before encoding.
        normalize_activations: What is done to an input before encoding and undone after decoding;
            `expected_average_only_in` is a constant that is folded into the weights, and does nothing here.
        rescale_acts_by_decoder_norm: Of `topk`: features compete, and are counted, in units of their decoder row.
        model_name: The model it was trained on; empty where nobody said.
        metadata: Further entries of SAELens' `metadata`, kept as they are.
    """

    architecture: Architecture
    d_in: int
    d_sae: int
    layer: int
    head: int | None = None
    k: int | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: Normalise = "none"
    rescale_acts_by_decoder_norm: bool = False
    model_name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kinds in (("architecture", Architecture), ("normalize_activations", Normalise)):
            if getattr(self, name) not in get_args(kinds):
                value = str(getattr(self, name))
                raise BadOption(
                    f"{name}={value!r}: no SAE of this kind is known here.{nearest(value, get_args(kinds))}"
                )
        if min(self.d_in, self.d_sae) < 1 or min(self.layer, self.head or 0) < 0:
            raise BadOption(
                f"d_in={self.d_in}, d_sae={self.d_sae}, layer={self.layer}, head={self.head}: widths of an SAE are 1 "
                "or more, and layers and heads count from 0."
            )
        if self.architecture == "topk" and not (self.k and 0 < self.k <= self.d_sae):
            raise BadOption(f"k={self.k}: a topk SAE of {self.d_sae} features needs 1 to {self.d_sae}.")

    @property
    def hook_name(self) -> str:
        """TransformerLens' name of the point it reads."""
        return f"blocks.{self.layer}.attn.hook_z"

    def __str__(self) -> str:
        where = f"layer {self.layer}" if self.head is None else str(Head(self.layer, self.head))
        kind = f"topk {self.k}" if self.architecture == "topk" else self.architecture
        return f"{kind} SAE of {self.d_sae} features on z of {where}"


@dataclass(frozen=True, eq=False)
class Sae:
    """A sparse autoencoder: f = σ((n(x) − b_dec) W_enc + b_enc), x̂ = n⁻¹(f W_dec + b_dec).

    σ is ReLU; ReLU of the k largest (`topk`); or the value itself where it exceeds a threshold of its own (`jumprelu`).

    Attributes:
        config: What it is.
        W_enc, b_enc, W_dec, b_dec: Its weights.
        threshold: Of `jumprelu`, one per feature, in the unit of the values before σ.
    """

    config: SaeConfig
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"] | None = None

    def __post_init__(self) -> None:
        config = self.config
        wanted = {
            "W_enc": (config.d_in, config.d_sae), "b_enc": (config.d_sae,), "W_dec": (config.d_sae, config.d_in),
            "b_dec": (config.d_in,),
        }  # fmt: skip
        if config.architecture == "jumprelu":
            wanted["threshold"] = (config.d_sae,)
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is None or tuple(value.shape) != shape:
                seen = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise BadOption(f"{name} of the {config} is {seen}, expected {shape}.")
            if not bool(torch.isfinite(value).all()):
                raise NonFinite(f"{name} of the {config} holds NaN or infinite values.")

    def to(self, device: Any = None, dtype: Any = None) -> Sae:
        """Return the SAE with its weights on a device, in a dtype; itself if they are there already."""
        if dtype is None and (device is None or self.W_enc.device == torch.device(device)):
            return self
        threshold = None if self.threshold is None else self.threshold.to(device, dtype)
        W_enc, b_enc, W_dec, b_dec = (
            w.to(device, dtype) for w in (self.W_enc, self.b_enc, self.W_dec, self.b_dec)
        )
        return Sae(self.config, W_enc, b_enc, W_dec, b_dec, threshold)

    def before(self, x: Float[Tensor, "*any d_in"]) -> Float[Tensor, "*any d_sae"]:
        """Return what σ is applied to."""
        inside = self._normalised(x.to(self.W_enc))[0]
        if self.config.apply_b_dec_to_input:
            inside = inside - self.b_dec
        before = inside @ self.W_enc + self.b_enc
        return before * self.W_dec.norm(dim=-1) if self.config.rescale_acts_by_decoder_norm else before

    def encode(self, x: Float[Tensor, "*any d_in"]) -> Float[Tensor, "*any d_sae"]:
        """Return the features of inputs."""
        return self.activate(self.before(x))

    def activate(self, before: Float[Tensor, "*any d_sae"]) -> Float[Tensor, "*any d_sae"]:
        """Apply σ."""
        if self.config.architecture == "topk":
            assert self.config.k is not None
            values, places = before.topk(self.config.k, dim=-1)
            return torch.zeros_like(before).scatter_(-1, places, values.relu())
        if self.threshold is not None:
            return before.relu() * (before > self.threshold.relu())
        return before.relu()

    def decode(
        self, features: Float[Tensor, "*any d_sae"], x: Float[Tensor, "*any d_in"] | None = None
    ) -> Float[Tensor, "*any d_in"]:
        """Return the input that features stand for.

        Args:
            features: What `encode` gives, changed or not.
            x: The input they came from; needed where each input is normalised by itself.

        Raises:
            BadOption: It is needed and was not given.
        """
        made = self.weighted(features) @ self.W_dec + self.b_dec
        if self.config.normalize_activations in ("none", "expected_average_only_in"):
            return made
        if x is None:
            raise BadOption(
                f"the {self.config} normalises every input by itself: give decode the input as well."
            )
        _, scale, shift = self._normalised(x.to(self.W_enc))
        return made * scale + shift

    def change(
        self, delta: Float[Tensor, "*any d_sae"], x: Float[Tensor, "*any d_in"]
    ) -> Float[Tensor, "*any d_in"]:
        """Return by how much the output changes when the features change; exactly 0 where they do not."""
        return (self.weighted(delta) @ self.W_dec) * self._normalised(x.to(self.W_enc))[1]

    def __call__(self, x: Float[Tensor, "*any d_in"]) -> Float[Tensor, "*any d_in"]:
        """Encode and decode."""
        return self.decode(self.encode(x), x)

    def weighted(self, features: Float[Tensor, "*any d_sae"]) -> Float[Tensor, "*any d_sae"]:
        """Bring features from the unit in which they compete to that of W_dec."""
        return features / self.W_dec.norm(dim=-1) if self.config.rescale_acts_by_decoder_norm else features

    def rows(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_in"]:
        """Lay a layer's z out as the input.

        Raises:
            BadOption: The SAE is of another width, or its head does not exist.
        """
        n_heads, d_head = z.shape[2:]
        self._fits(n_heads, d_head, "this model")
        return z.flatten(2) if self.config.head is None else z[:, :, self.config.head]

    def fits(self, model: Any) -> Sae:
        """Return the SAE on the model's device, or refuse a model that it cannot belong to.

        Raises:
            BadOption: The SAE is of another width, or reads a layer or head that the model lacks.
        """
        cfg = model.cfg
        name, n_layers = str(cfg.model_name), int(cfg.n_layers)
        if not 0 <= self.config.layer < n_layers:
            raise BadOption(
                f"the {self.config} reads layer {self.config.layer}; {name} has layers 0-{n_layers - 1}."
            )
        self._fits(int(cfg.n_heads), int(cfg.d_head), name)
        return self.to(cfg.device)

    def _fits(self, n_heads: int, d_head: int, name: str) -> None:
        head = self.config.head
        width = n_heads * d_head if head is None else d_head
        if width != self.config.d_in:
            made_for = f", made for {self.config.model_name}" if self.config.model_name else ""
            raise BadOption(
                f"the {self.config}{made_for} is {self.config.d_in} wide; z of {name} is {width} wide there "
                f"({f'{n_heads} heads of {d_head}' if head is None else f'a head of {d_head}'})."
            )
        known = self.config.metadata.get("n_heads")
        if head is None and known not in (None, n_heads):
            raise BadOption(
                f"the {self.config} is of {known} heads; {name} has {n_heads} of the same width in all."
            )
        if head is not None and not 0 <= head < n_heads:
            raise BadOption(f"the {self.config} reads head {head}; {name} has heads 0-{n_heads - 1}.")

    def heads(self, n_heads: int) -> tuple[Head, ...]:
        """Return the heads whose z it reads."""
        indices = range(n_heads) if self.config.head is None else [self.config.head]
        return tuple(Head(self.config.layer, index) for index in indices)

    def by_head(
        self, weight: Float[Tensor, "feature d_in"], d_head: int
    ) -> Float[Tensor, "feature head d_head"]:
        """Cut rows of the input's width into the parts of the heads it reads."""
        return weight.unflatten(-1, (-1, d_head))

    def save(self, folder: str | Path) -> Path:
        """Write the folder form of SAELens; see `files.save_sae`."""
        from .files import save_sae

        return save_sae(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Sae:
        """Read the folder form of SAELens; see `files.load_sae`."""
        from .files import load_sae

        return load_sae(folder)

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised input, and the factor and shift that bring an output back."""
        kind = self.config.normalize_activations
        if kind == "constant_norm_rescale":
            factor = self.config.d_in**0.5 / x.norm(dim=-1, keepdim=True)
            return x * factor, 1 / factor, x.new_zeros(())
        if kind == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            spread = (x - mean).std(-1, keepdim=True)
            return (x - mean) / (spread + _EPS), spread, mean
        return x, x.new_ones(()), x.new_zeros(())
