"""The part of a model that sees, as a model of its own: its heads by their names, the whole model's logits as output.

Of a model that reads and sees, `tower` gives the image tower. Its heads are `L0H0` and so on, counted in the tower;
runs of it are runs of the whole model on prompts with images, so that what a change of a head does shows in the logits.
A ViT is its own tower.

Positions of a tower are the pieces that an image is cut into, the class token where there is one first. A piece sees
all pieces of its image: there is no order among them, and all belong to the `prefill` phase.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Module
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from ..errors import BadOption, MissingData
from .attention import NAME, route
from .find import PART

_KEPT = "_headscope_tower"  # among the attributes of a bridge, so that it goes when the bridge goes


class NotOfTowers(BadOption, AttributeError):
    """Something that belongs to the text side of a model was asked of its tower."""


class Tower:
    """The image tower of a bridge, to be used where a model is expected; made by `tower`.

    Attributes:
        bridge: The whole model.
        cfg: As the bridge's, with the tower's layers, heads and widths.
        hook_dict: The hook points of each layer: `attn.hook_v`, `attn.hook_pattern` and `attn.hook_z`. Where a call's
            images are cut into different numbers of pieces they are one row, image behind image, and the pattern comes
            piece by piece: once for every image or window.
        in_one_row: Whether that is so.
    """

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.original_model = bridge.original_model
        self.tokenizer, self.processor = bridge.tokenizer, getattr(bridge, "processor", None)
        parts = _parts(bridge)
        config: Any = parts[0].config
        heads = int(getattr(config, "num_attention_heads", None) or config.num_heads)
        width = int(config.hidden_size)
        self.cfg = copy.copy(bridge.cfg)
        for name, value in {
            "model_name": f"{bridge.cfg.model_name}{PART}", "n_layers": len(parts), "n_heads": heads,
            "n_key_value_heads": None, "d_head": width // heads, "d_model": width,
        }.items():  # fmt: skip
            setattr(self.cfg, name, value)
        self.in_one_row = all(hasattr(part, "qkv") for part in parts)
        self._layers = [_Layer(part, heads) for part in parts]
        self.hook_dict: dict[str, HookPoint] = {
            f"blocks.{index}.attn.{name}": point
            for index, layer in enumerate(self._layers)
            for name, point in layer.points.items()
        }
        for name, point in self.hook_dict.items():
            point.name = name
        self._open = 0
        self._own_attention = config._attn_implementation
        self._config = config

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.bridge(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotOfTowers(
            f"{name}: this asks for the text side of a model, and {self.cfg.model_name} is an image tower. What "
            f"changes heads and looks at logits works on it; for the rest take {self.bridge.cfg.model_name}."
        )

    @contextmanager
    def hooks(
        self, fwd_hooks: Iterable[tuple[str, Any]] = (), bwd_hooks: Iterable[Any] = ()
    ) -> Iterator[Tower]:
        """Put functions of (value, hook point) on hook points inside the block; what they return takes its place."""
        if list(bwd_hooks):
            raise BadOption(f"{self.cfg.model_name}: hooks on gradients are not known for towers.")
        added = []
        try:
            self._open += 1
            if self._open == 1:
                for layer in self._layers:
                    layer.attach()
            for name, act in fwd_hooks:
                if name not in self.hook_dict:
                    raise BadOption(f"{name}: {self.cfg.model_name} has no such hook point.")
                point = self.hook_dict[name]
                before = list(point.fwd_hooks)
                point.add_hook(act)
                added += [(point, handle) for handle in point.fwd_hooks if handle not in before]
            yield self
        finally:
            for point, handle in added:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)
            self._open -= 1
            if not self._open:
                for layer in self._layers:
                    layer.detach()

    def reset_hooks(self) -> None:
        """Take all functions off the hook points."""
        for point in self.hook_dict.values():
            point.remove_hooks("fwd")

    def make_editable(self) -> None:
        """Let `hook_pattern` act: headscope's attention function takes the place of the tower's own."""
        self._config._attn_implementation = NAME

    def undo_editable(self) -> None:
        """Give the tower its own attention back."""
        self._config._attn_implementation = self._own_attention

    @torch.no_grad()
    def features(self, inputs: dict[str, Tensor]) -> Float[Tensor, "any piece d_model"]:
        """Return what the text side is shown of images; float32.

        Args:
            inputs: What `Batch.image_inputs` gives.
        """
        found = self.original_model.get_image_features(**inputs, return_dict=True).pooler_output
        return (torch.cat(list(found)) if isinstance(found, (list, tuple)) else found).float()

    def spread(
        self, layer: int, values: Float[Tensor, "image piece head d_head"]
    ) -> Float[Tensor, "image piece head d_head"]:
        """Return what attention spread evenly over all pieces that a piece sees makes of the layer's values."""
        return self._layers[layer].spread(values)


class _Layer:
    """Hook points of one attention module of transformers, and what its last call said about who sees whom."""

    def __init__(self, part: Module, n_heads: int) -> None:
        self.part, self.n_heads = part, n_heads
        self.points = {name: HookPoint() for name in ("hook_v", "hook_pattern", "hook_z")}
        self._lengths: list[int] | None = None
        self._seen: Bool[Tensor, "#image piece piece"] | None = None
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Lead what the module computes past the hook points."""
        part: Any = self.part
        fused = getattr(part, "qkv", None)
        values = part.v_proj if fused is None else fused
        output = part.proj if fused is not None else part.out_proj
        self._handles = [
            part.register_forward_pre_hook(self._look, with_kwargs=True),
            values.register_forward_hook(self._pass_values if fused is None else self._pass_fused),
            output.register_forward_pre_hook(self._pass_z),
        ]
        route(part, _Edits(self.points["hook_pattern"]))

    def detach(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()
        route(self.part, None)

    def _look(self, part: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        edges, mask = kwargs.get("cu_seqlens"), kwargs.get("attention_mask")
        self._lengths = None if edges is None else (edges[1:] - edges[:-1]).tolist()
        self._seen = None
        if isinstance(mask, Tensor) and mask.ndim == 4:
            self._seen = (
                mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
            )

    def _pass_values(self, module: Module, args: Any, out: Tensor) -> Tensor:
        return self._through("hook_v", out)

    def _pass_fused(self, module: Module, args: Any, out: Tensor) -> Tensor:
        q, k, v = out.chunk(3, -1)
        new = self._through("hook_v", v)
        return out if new is v else torch.cat([q, k, new], -1)

    def _pass_z(self, module: Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._through("hook_z", args[0]), *args[1:])

    def _through(self, name: str, value: Tensor) -> Tensor:
        """Show a value to the functions on a hook point, with an axis for heads and one for images."""
        point = self.points[name]
        if not point.fwd_hooks:
            return value
        flat = value.ndim == 2
        shown = (value[None] if flat else value).unflatten(-1, (self.n_heads, -1))
        new = point(shown.clone()).flatten(2)
        return new[0] if flat else new

    def spread(self, values: Tensor) -> Tensor:
        if self._lengths is not None:
            parts = values.split(self._lengths, 1)
            return torch.cat([part.mean(1, keepdim=True).expand_as(part) for part in parts], 1)
        if self._seen is None:
            return values.mean(1, keepdim=True).expand_as(values)
        seen = self._seen.to(values.dtype).expand(values.shape[0], -1, -1)
        return torch.einsum("iqk,ikhd->iqhd", seen / seen.sum(-1, keepdim=True).clamp(min=1), values)


class _Edits:
    """What `attend` passes a tower's attention by."""

    def __init__(self, pattern: HookPoint) -> None:
        self.hook_pattern = pattern


def tower(model: Any) -> Tower:
    """Return the image tower of a model as a model whose heads can be changed and scored.

    It stands on the same weights as `model`. `load("NAME#tower")` gives the same. In LLaVA only those layers count as
    the tower's that the text side reads (all but the last, mostly): no change of a later head could show.

    Args:
        model: A model that sees; a tower is returned as it is.

    Raises:
        MissingData: The model has no image tower that is known: CLIP's, SigLIP's, Idefics3's, Qwen2.5-VL's, Qwen3-VL's.
    """
    if isinstance(model, Tower):
        return model
    if _KEPT not in model.__dict__:
        model.__dict__[_KEPT] = Tower(model)
    return model.__dict__[_KEPT]


def reads_only_images(model: Any) -> bool:
    """Whether a model takes pixels and no tokens, as a ViT does."""
    return model.tokenizer is None and getattr(model.original_model, "main_input_name", "") == "pixel_values"


def sees_pieces(model: Any) -> bool:
    """Whether a model's heads read pieces of images and not tokens: a tower, or a ViT."""
    return isinstance(model, Tower) or reads_only_images(model)


def refuse_pieces(model: Any, what: str) -> None:
    """Raise where something about tokens is asked of heads that read pieces of images.

    Raises:
        MissingData: They do; the message says which methods there are.
    """
    if sees_pieces(model):
        raise MissingData(
            f"{what}: the heads of {model.cfg.model_name} read pieces of images, not tokens; for them there are "
            "leave-one-out, attention-distance, and interventions whose effect is read off the logits."
        )


def spread_over_pieces(
    model: Any, layer: int, values: Float[Tensor, "image piece head d_head"]
) -> Float[Tensor, "image piece head d_head"]:
    """Return what evenly spread attention of a tower's or a ViT's layer makes of values."""
    if isinstance(model, Tower):
        return model.spread(layer, values)
    return values.mean(1, keepdim=True).expand_as(values)


def bridge_of(model: Any) -> Any:
    """Return the whole model that a tower belongs to; any other model as it is."""
    return model.bridge if isinstance(model, Tower) else model


def _parts(bridge: Any) -> Sequence[Module]:
    """Find the attention modules of a tower's layers in transformers' model."""
    inner = getattr(bridge.original_model, "model", None)
    names = ("vision_tower", "vision_model", "visual")
    found = next((getattr(inner, name) for name in names if getattr(inner, name, None) is not None), None)
    parts = [] if found is None else [module for module in found.modules() if _is_attention(module)]
    config = bridge.original_model.config
    if found is None or not parts or not hasattr(config, "vision_config"):
        raise MissingData(
            f"{bridge.cfg.model_name} has no image tower that is known, such as CLIP's in LLaVA; a ViT is one itself."
        )
    return parts[: _n_read(config, len(parts))]


def _is_attention(module: Module) -> bool:
    """Whether a module is one of transformers that computes attention with projections that are known here."""
    own = type(module).__module__.startswith("transformers.")
    fused = hasattr(module, "qkv") and hasattr(module, "proj")
    return own and (fused or (hasattr(module, "v_proj") and hasattr(module, "out_proj")))


def _n_read(config: Any, n_layers: int) -> int:
    """Return how many layers of a tower the text side can notice."""
    chosen = getattr(config, "vision_feature_layer", None)
    if chosen is None:
        return n_layers
    listed = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    # Counted like hidden states, of which the first enters layer 0.
    return max(int(one) if one >= 0 else n_layers + 1 + int(one) for one in listed)
