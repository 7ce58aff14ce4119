"""Whether a model takes images beside text, and which methods suit it."""

from __future__ import annotations

from typing import Any

from ..hooks.tower import Tower
from .registry import methods

_IMAGES, _ABOUT_IMAGES = "pictures", "scenes"  # kinds of prompts: images alone, and images with a question


def sees_images(model: Any) -> bool:
    """Say whether a model's configuration has a part for images.

    Args:
        model: The bridge.
    """
    config = model.original_model.config
    return (
        getattr(config, "vision_config", None) is not None
        or getattr(config, "image_token_id", None) is not None
    )


def fitting_methods(model: Any) -> tuple[str, ...]:
    """Return the names of the methods whose prompts a model can read: of text, of text about images, or of images.

    Args:
        model: The bridge.
    """
    has_text = model.tokenizer is not None and not isinstance(model, Tower)
    has_eyes = sees_images(model)
    fits = {_IMAGES: not has_text, _ABOUT_IMAGES: has_text and has_eyes}
    return tuple(name for name, method in methods().items() if fits.get(method.data, has_text))
