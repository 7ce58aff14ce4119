"""Whether a model takes images beside text."""

from __future__ import annotations

from typing import Any


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
