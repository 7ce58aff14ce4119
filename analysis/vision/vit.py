"""Models that read only images: their predictions, their attention, and what is lost without a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...datasets.images import open_image
from ...errors import HookNeverFired, MissingData
from ...hooks.check import reads_only_images
from ...hooks.eyes import Eyes, stack
from ...hooks.tower import Tower
from ...hooks.turn import watching

_ROWS = 32


def pixels(model: Any, images: Sequence[str]) -> Float[Tensor, "image channel row column"]:
    """Return what the model's own processor makes of pictures, named as in a prompt's `image`.

    Raises:
        MissingData: The model reads text, or came without a processor.
        BadImage: A picture cannot be read.
    """
    processor = getattr(model, "processor", None)
    if not reads_only_images(model) or processor is None:
        raise MissingData(
            f"{model.cfg.model_name} is no model of images alone with its processor, such as a ViT."
        )
    pictures = [open_image(image, f"image {index}") for index, image in enumerate(images)]
    found = processor(images=pictures, return_tensors="pt")["pixel_values"]
    return found.to(next(model.original_model.parameters()))


def first_piece(model: Any, n_tokens: int) -> int:
    """Return where the pieces of an image begin among its tokens: after CLS, or at once where there is none.

    Raises:
        MissingData: The pieces form no square.
    """
    first = 0 if isqrt(n_tokens) ** 2 == n_tokens else 1
    n_pieces = n_tokens - first
    if isqrt(n_pieces) ** 2 != n_pieces:
        raise MissingData(f"{model.cfg.model_name} cuts images into {n_pieces} pieces, which form no square.")
    return first


@torch.no_grad()
def each_attention(
    model: Any,
    images: Sequence[str],
    visit: Callable[[int, list[int], Float[Tensor, "image head query_piece key_piece"]], None],
) -> None:
    """Show every layer's attention to `visit(layer, rows, pattern)`, some images at a time; token 0 is CLS
    where the model has one (`first_piece`).

    Raises:
        HookNeverFired: A layer shows no pattern.
        MissingData: The images of a call share one row of this tower.
    """
    if getattr(model, "in_one_row", False):
        raise MissingData(
            f"{model.cfg.model_name} runs images as one row, whose attention comes by image or window in an order of "
            "its own; where its heads look on the picture is not known."
        )
    n_layers = int(model.cfg.n_layers)
    for rows in _some(len(images)):
        seen: set[int] = set()

        def show(layer: int, rows: list[int] = rows, seen: set[int] = seen) -> Any:
            def hook_fn(pattern: Tensor, hook: Any) -> None:
                seen.add(layer)
                if len(pattern) != len(rows):
                    raise MissingData(
                        f"{model.cfg.model_name} cuts an image into parts that it sees one by one; where its heads "
                        "look on the whole picture is not known."
                    )
                visit(layer, rows, pattern.detach().float().clone())

            return hook_fn

        hooks = [(f"blocks.{layer}.attn.hook_pattern", show(layer)) for layer in range(n_layers)]
        with watching(model, hooks):
            _look(model, [images[row] for row in rows])
        if missing := sorted(set(range(n_layers)) - seen):
            raise HookNeverFired(f"{model.cfg.model_name}: hook_pattern of layers {missing} did not fire.")


def _look(model: Any, images: Sequence[str]) -> None:
    """Run the part of a model that sees on pictures."""
    if not isinstance(model, Tower):
        model(pixels(model, images))
        return
    eyes = Eyes.of(model.bridge)
    assert eyes is not None, "a tower was checked without its image processor"
    inputs = stack([eyes.see([image], f"image {index}") for index, image in enumerate(images)])
    model.features({name: value.to(model.cfg.device) for name, value in inputs.items()})


@torch.no_grad()
def without_each_head(
    model: Any, images: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> Iterator[
    tuple[list[int], tuple[int, int] | None, Float[Tensor, "image label"], Float[Tensor, "image d_model"]]
]:
    """Run images whole (head None first) and without each head in turn (z := 0).

    Yields:
        Rows of the images, the head, class probabilities, and the CLS embedding that enters the classifier.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    for rows in _some(len(images)):
        taken = pixels(model, [images[row] for row in rows])
        yield rows, None, *_predict(model, taken, [])
        for layer in range(n_layers):
            for head in range(n_heads):

                def remove(z: Tensor, hook: Any, head: int = head) -> Tensor:
                    z[:, :, head] = 0
                    return z

                yield rows, (layer, head), *_predict(model, taken, [(f"blocks.{layer}.attn.hook_z", remove)])
        if progress:
            progress(rows[-1] + 1, len(images))


def _predict(model: Any, taken: Tensor, hooks: list[Any]) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    # What enters the unembedding, which reads CLS alone, is the embedding of CLS after the last norm.
    watch = ("ln_final.hook_out", lambda x, hook: kept.append(x.detach().float()))
    with watching(model, [*hooks, watch]):
        logits = model(taken)
    if not kept:
        raise HookNeverFired(f"{model.cfg.model_name}: ln_final.hook_out did not fire.")
    last = kept[-1]
    return logits.float().softmax(-1), last[:, 0] if last.ndim == 3 else last


def _some(n: int) -> Iterator[list[int]]:
    for start in range(0, n, _ROWS):
        yield list(range(start, min(start + _ROWS, n)))
