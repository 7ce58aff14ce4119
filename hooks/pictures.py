"""Pictures for models of images alone, such as a ViT: what they are shown, and which of their labels a word is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..datasets.images import open_image
from ..errors import BadImage, BadModelFolder, BadPrompts, nearest
from .eyes import Seen


def see_alone(model: Any, images: Sequence[str], where: str) -> Seen:
    """Read a prompt's image for a model of images alone.

    Raises:
        BadImage: It cannot be opened, or the model's processor refuses it.
        BadPrompts: There is none, or there are several.
        BadModelFolder: The model came without its image processor.
    """
    if getattr(model, "processor", None) is None:
        raise BadModelFolder(f"{model.cfg.model_name} came without its image processor.")
    if len(images) != 1:
        raise BadPrompts(
            f"{where} has {len(images)} images, and {model.cfg.model_name} is shown one at a time."
        )
    picture = open_image(images[0], where)
    try:
        pixels = model.processor(images=picture, return_tensors="pt")["pixel_values"]
    except (ValueError, TypeError, ZeroDivisionError) as error:
        text = " ".join(str(error).split())[:200]
        raise BadImage(
            f"{where}: the model's image processor refuses {images[0][:80]!r} ({picture.width} x {picture.height} "
            f"pixels): {text}"
        ) from error
    digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:16]
    return Seen((), {"pixel_values": pixels.to(next(model.original_model.parameters()).dtype)}, digest)


def labels_of(model: Any, word: str, where: str) -> tuple[int, ...]:
    """Return the index of a label; none for an empty word.

    Raises:
        BadPrompts: The model has no such label.
    """
    if not word:
        return ()
    named = getattr(model.original_model.config, "id2label", None) or {}
    found = {str(name): int(index) for index, name in named.items()}
    if word.strip() not in found:
        raise BadPrompts(
            f"{where} {word!r} is no label of {model.cfg.model_name}.{nearest(word.strip(), found)}"
        )
    return (found[word.strip()],)
