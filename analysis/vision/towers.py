"""The part of a model that sees, layer by layer: a ViT, or the CLIP tower of a model that also reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...datasets.images import open_image
from ...errors import MissingData
from ...hooks.check import reads_only_images
from ...hooks.turn import watching


@dataclass(frozen=True)
class Tower:
    """Image layers that can be run one by one.

    Attributes:
        model: The bridge.
        n_layers: Of the tower.
        n_heads: Of each layer.
        d_model: Width of the stream; token 0 is CLS, then come the pieces.
        prefix: What stands before a layer's number in the names of hook points.
        embed: From pixels to the stream that enters layer 0.
        layers: The layers.
        norm: What stands behind the last layer.
    """

    model: Any
    n_layers: int
    n_heads: int
    d_model: int
    prefix: str
    embed: Any
    layers: Any
    norm: Any

    @classmethod
    def of(cls, model: Any) -> Tower:
        """Find a model's tower.

        Raises:
            MissingData: The model has none that is known here: a ViT, or CLIP's in LLaVA.
        """
        hf = model.original_model
        if reads_only_images(model) and hasattr(hf, "vit"):
            config, vit = hf.config, hf.vit
            return cls(
                model, int(config.num_hidden_layers), int(config.num_attention_heads), int(config.hidden_size),
                "blocks", vit.embeddings, vit.layers, vit.layernorm,
            )  # fmt: skip
        tower = getattr(getattr(hf, "model", None), "vision_tower", None)
        if tower is None or not hasattr(tower, "pre_layrnorm"):
            raise MissingData(
                f"{model.cfg.model_name} has no tower that is known here: a ViT, or CLIP's in LLaVA."
            )
        config = hf.config.vision_config

        def embed(pixels: Tensor) -> Tensor:
            return tower.pre_layrnorm(tower.embeddings(pixels))

        return cls(
            model, int(config.num_hidden_layers), int(config.num_attention_heads), int(config.hidden_size),
            "vision_encoder.encoder_layers", embed, tower.encoder.layers, tower.post_layernorm,
        )  # fmt: skip

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    def point(self, layer: int, name: str) -> str:
        """Return the name of a hook point of a layer's attention."""
        return f"{self.prefix}.{layer}.attn.{name}"

    def pixels(self, images: Sequence[str]) -> Float[Tensor, "image channel row column"]:
        """Return what the model's processor makes of pictures, named as in a prompt's `image`."""
        processor = getattr(self.model.processor, "image_processor", self.model.processor)
        pictures = [open_image(image, f"image {index}") for index, image in enumerate(images)]
        return processor(images=pictures, return_tensors="pt")["pixel_values"].to(self._like)

    def run(
        self, x: Float[Tensor, "image token d_model"], layer: int
    ) -> Float[Tensor, "image token d_model"]:
        """Run one layer on the stream that enters it."""
        out = self.layers[layer](x, attention_mask=None)
        return out[0] if isinstance(out, tuple) else out

    @property
    def _like(self) -> Tensor:
        return next(self.model.original_model.parameters())


@torch.no_grad()
def head_outputs(
    model: Any, images: Sequence[str], *, rows: int = 64
) -> Float[Tensor, "image layer head piece d_head"]:
    """Return every tower head's output at every piece of pictures, CLS left out; float32."""
    tower = Tower.of(model)
    parts = []
    for start in range(0, len(images), rows):
        found: dict[int, Tensor] = {}

        def keep(layer: int, found: dict[int, Tensor] = found) -> Any:
            return lambda z, hook: found.__setitem__(layer, z[:, 1:].float().transpose(1, 2).clone())

        hooks = [(tower.point(layer, "hook_z"), keep(layer)) for layer in range(tower.n_layers)]
        with watching(model, hooks):
            x = tower.embed(tower.pixels(images[start : start + rows]))
            for layer in range(tower.n_layers):
                x = tower.run(x, layer)
        assert len(found) == tower.n_layers, "a layer of the tower showed no head outputs"
        parts.append(torch.stack([found[layer] for layer in range(tower.n_layers)], 1))
    return torch.cat(parts)
