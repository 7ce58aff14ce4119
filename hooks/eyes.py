"""What a model needs to see an image: the tokens that stand for it, and the tensors that go with them."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from ..datasets.images import file_size, open_image
from ..errors import BadImage, BadPrompts, BadSpan

# Of what a processor returns, what is about the text and not about the image.
_TEXT_PARTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
_KEPT_BYTES = 2**26  # of images that were read already, a processor

_kept: WeakKeyDictionary[Any, OrderedDict[tuple[str, int], Seen]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Seen:
    """What one prompt shows, as a model takes it.

    Attributes:
        ids: For each image the tokens that stand for it, marks around it included.
        tensors: What the forward pass takes beside the tokens, such as `pixel_values`; those of several images are
            concatenated along the first axis.
        digest: Of the pixels.
        centers: Where the middle of each of the image's pieces lies in the picture, x and y in pixels; None where the
            pieces form no grid that is known, or of several images.
    """

    ids: tuple[tuple[int, ...], ...]
    tensors: Mapping[str, Tensor]
    digest: str
    centers: Float[Tensor, "piece xy"] | None = None

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class Eyes:
    """A model's image processor with the token that stands for a piece of an image.

    Attributes:
        processor: As the model's folder has it.
        token: Its placeholder in a text, such as `<image>`.
        token_id: The id that every piece of an image has.
        added_ids: What the tokenizer adds around any text.
        marks: What a text has before and after the placeholder, where the processor does not put it there itself.
    """

    processor: Any
    token: str
    token_id: int
    added_ids: frozenset[int]
    marks: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, model: Any) -> Eyes | None:
        """Read a bridge's; None if it takes no images or came without a processor."""
        processor, config = getattr(model, "processor", None), model.original_model.config
        token_id = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        if token_id is None or processor is None or not hasattr(processor, "image_processor"):
            return None
        tokenizer = processor.tokenizer
        token = getattr(processor, "image_token", None) or tokenizer.convert_ids_to_tokens(int(token_id))
        around = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
        ends = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
        marks = tuple(str(tokenizer.convert_ids_to_tokens(int(end))) for end in ends if end is not None)
        return cls(
            processor, str(token), int(token_id), frozenset(around), marks if len(marks) == 2 else ("", "")
        )

    def see(self, images: Sequence[str], where: str) -> Seen:
        """Read a prompt's images.

        Raises:
            BadImage: One cannot be opened, or the model's processor refuses it.
            BadPrompts: The model makes tensors of different shapes of them.
        """
        seen = [self._see(image, where) for image in images]
        if len(seen) == 1:
            return seen[0]
        digest = hashlib.sha256("".join(one.digest for one in seen).encode()).hexdigest()[:16]
        return Seen(tuple(run for one in seen for run in one.ids), stack(seen), digest)

    def _see(self, image: str, where: str) -> Seen:
        """Read an image; one that was read lately, and has not changed on disk, is not read again."""
        path = None if image.startswith("scene:") else Path(image).expanduser()
        key = (image, path.stat().st_mtime_ns if path is not None and file_size(path) is not None else 0)
        kept = _kept.setdefault(self.processor, OrderedDict())
        if key not in kept:
            kept[key] = self._read(image, where)
            while len(kept) > 1 and sum(seen.n_bytes for seen in kept.values()) > _KEPT_BYTES:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]

    def _read(self, image: str, where: str) -> Seen:
        picture = open_image(image, where)
        try:
            read = self.processor(text=self.token.join(self.marks), images=picture, return_tensors="pt")
        except (ValueError, TypeError, ZeroDivisionError) as error:
            text = " ".join(str(error).split())[:200]
            raise BadImage(
                f"{where}: the model's image processor refuses {image[:80]!r} ({picture.width} x {picture.height} "
                f"pixels): {text}"
            ) from error
        ids = tuple(int(i) for i in read["input_ids"][0] if int(i) not in self.added_ids)
        if self.token_id not in ids:
            raise BadImage(f"{where}: the model's processor makes no {self.token} tokens of {image[:80]!r}.")
        tensors = {
            name: value
            for name, value in read.items()
            if name not in _TEXT_PARTS and isinstance(value, Tensor)
        }
        digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:16]
        grid = tensors.get("image_grid_thw")
        centers = (
            self._centers(picture.size, ids.count(self.token_id))
            if grid is None
            else _grid_centers(picture.size, grid[0].tolist(), int(self.processor.image_processor.merge_size))
        )
        return Seen((ids,), tensors, digest, centers)

    def _centers(self, size: tuple[int, int], n_pieces: int) -> Float[Tensor, "piece xy"] | None:
        """Find where the pieces lie by showing the processor a picture whose red is x and whose green is y.

        This follows whatever resizing, cropping and padding the processor does, to 1/255 of the picture's side.
        """
        side = math.isqrt(n_pieces)
        images = self.processor.image_processor
        mean, deviation = getattr(images, "image_mean", None), getattr(images, "image_std", None)
        if side * side != n_pieces or mean is None or deviation is None:
            return None
        width, height = size
        x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
        y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
        ramp = Image.fromarray(np.stack((x, y, np.zeros_like(x)), -1).round().astype(np.uint8))
        pixels = torch.as_tensor(images(ramp, return_tensors="pt")["pixel_values"])
        if (
            pixels.ndim == 5 and pixels.shape[1] == 1
        ):  # an axis for the parts of an image, of which there is one
            pixels = pixels[:, 0]
        if (
            pixels.ndim != 4
            or pixels.shape[0] != 1
            or pixels.shape[2] != pixels.shape[3]
            or pixels.shape[2] % side
        ):
            return None
        shares = (
            pixels[0, :2] * torch.tensor(deviation[:2])[:, None, None] + torch.tensor(mean[:2])[:, None, None]
        )
        pooled = torch.nn.functional.avg_pool2d(shares, pixels.shape[2] // side).flatten(1).T
        return pooled * (torch.tensor([width, height]) - 1) + 0.5

    def place(
        self, ids: list[int], offsets: list[tuple[int, int]], seen: Seen | None, bos: int | None, where: str
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Put images' tokens where the placeholders stand, or all after BOS where the text has none.

        Raises:
            BadPrompts: The text does not have as many placeholders as the prompt has images.
        """
        at = [index for index, own in enumerate(ids) if own == self.token_id]
        runs = seen.ids if seen is not None else ()
        if at and not runs:
            raise BadPrompts(
                f"{where}: the text says {self.token}, but the prompt has no image; fill its `image` field, or "
                f"take {self.token} out."
            )
        if at and len(at) != len(runs):
            raise BadPrompts(
                f"{where}: the text says {self.token} {_times(len(at))}, and the prompt has {len(runs)} "
                f"image{'s' if len(runs) > 1 else ''}; give one image a line in its `image` field, in order."
            )
        cuts = [self._cut(ids, index, run) for index, run in zip(at, runs, strict=False)]
        if not at:
            start = int(bool(ids) and ids[0] == bos)
            cuts = [(start, start)] * len(runs)
        new_ids, new_offsets, done = [], [], 0
        for (start, stop), run in zip(cuts, runs, strict=True):
            marks = offsets[start] if stop > start else (0, 0)
            new_ids += [*ids[done:start], *run]
            new_offsets += [*offsets[done:start], *[marks] * len(run)]
            done = stop
        return [*new_ids, *ids[done:]], [*new_offsets, *offsets[done:]]

    def _cut(self, ids: Sequence[int], at: int, run: tuple[int, ...]) -> tuple[int, int]:
        """Return what an image's tokens replace: its placeholder, and marks around it that the text has already."""
        before = run.index(self.token_id)
        after = run[::-1].index(self.token_id)
        start = at - before if before and tuple(ids[max(0, at - before) : at]) == run[:before] else at
        stop = at + 1 + (after if after and tuple(ids[at + 1 : at + 1 + after]) == run[-after:] else 0)
        return start, stop


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _grid_centers(size: tuple[int, int], grid: Sequence[int], merge: int) -> Float[Tensor, "piece xy"] | None:
    """Return the middles of pieces that cut the whole resized picture into rows and columns; None of a video."""
    frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    if frames != 1:
        return None
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([x.flatten() / columns * size[0], y.flatten() / rows * size[1]], -1)


def in_boxes(seen: Seen, boxes: Sequence[tuple[int, int, int, int]], where: str) -> Bool[Tensor, " piece"]:
    """Mark which of an image's pieces lie with their middle in any of the boxes.

    Raises:
        BadSpan: The model's pieces form no grid, or no piece lies in a box.
    """
    if seen.centers is None:
        raise BadSpan(
            f"{where}: boxes cannot be found where the image's pieces form no grid that is known, or where a prompt "
            "has several images; leave the prompt's boxes empty."
        )
    x, y = seen.centers.T
    inside = torch.zeros(len(x), dtype=torch.bool)
    for left, top, right, bottom in boxes:
        found = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        if not bool(found.any()):
            raise BadSpan(
                f"{where}: the box {(left, top, right, bottom)} holds the middle of no piece of the image; give a "
                "larger box, inside the picture."
            )
        inside |= found
    return inside


def stack(images: Iterable[Seen | None]) -> dict[str, Tensor]:
    """Put the tensors of several images into one batch.

    Raises:
        BadPrompts: Their shapes differ, so that they cannot be run together.
    """
    given = [seen for seen in images if seen is not None]
    stacked = {}
    for name in given[0].tensors if given else ():
        parts = [seen.tensors[name] for seen in given]
        if len({part.shape[1:] for part in parts}) > 1:
            raise BadPrompts(
                f"images of different shapes ({name}: {', '.join(str(tuple(p.shape[1:])) for p in parts[:4])}) cannot "
                "be run in one batch by this model; give them one by one, or in one size."
            )
        stacked[name] = torch.cat(parts)
    return stacked
