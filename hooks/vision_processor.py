"""Images beside text for models whose own processor also reads videos, and for that alone wants torchvision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import BadModelFolder

_CONFIGS = ("processor_config.json", "preprocessor_config.json")


class ImageProcessor:
    """What Qwen-VL's processor does with text and images, without its video part.

    Attributes:
        image_processor: As the model's folder has it, on Pillow.
        tokenizer: The model's.
        image_token: What stands for an image in a text.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, image_token: str) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.image_token = image_token

    def __call__(self, text: str, images: Image.Image, return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        """Return the tokens of a text, its placeholder repeated for every piece of the image, and the image's tensors.

        The pieces are what is left of the patches after `merge_size` x `merge_size` of them were put together.
        """
        tensors = dict(self.image_processor(images=[images], return_tensors=return_tensors))
        pieces = int(tensors["image_grid_thw"][0].prod()) // int(self.image_processor.merge_size) ** 2
        read = self.tokenizer(
            text.replace(self.image_token, self.image_token * pieces), return_tensors=return_tensors
        )
        return {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"], **tensors}


def give_processor(model: Any, folder: Path, shown: str) -> None:
    """Give a model that came without its processor one that reads images, if its folder says how.

    Raises:
        BadModelFolder: The folder's settings of images cannot be used.
    """
    config = model.original_model.config
    token_id = getattr(config, "image_token_id", None)
    if getattr(model, "processor", None) is not None or model.tokenizer is None or token_id is None:
        return
    if not any((folder / name).is_file() for name in _CONFIGS) or not _cuts_by_merging(folder):
        return
    from transformers import AutoImageProcessor

    try:
        images = AutoImageProcessor.from_pretrained(str(folder), backend="pil", trust_remote_code=False)
        model.processor = ImageProcessor(
            images, model.tokenizer, str(model.tokenizer.convert_ids_to_tokens(int(token_id)))
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split())[:300]
        raise BadModelFolder(f"{shown}: the settings of images in {folder} cannot be used: {text}") from error


def _cuts_by_merging(folder: Path) -> bool:
    """Whether a folder's settings of images are those of Qwen-VL, which put patches together."""
    for name in _CONFIGS:
        if (folder / name).is_file():
            read = json.loads((folder / name).read_text(encoding="utf-8"))
            if "merge_size" in read.get("image_processor", read):
                return True
    return False


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Let models load whose videos alone need torchvision, where it is missing, and install nothing on the way."""
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
    from transformer_lens.model_bridge.sources.transformers import helpers

    check, install = ArchitectureAdapter._check_required_libraries, helpers._ensure_torchvision

    def check_others(self: Any) -> None:
        self.required_libraries = [name for name in self.required_libraries if name != "torchvision"]
        check(self)

    ArchitectureAdapter._check_required_libraries = check_others  # type: ignore[method-assign]
    helpers._ensure_torchvision = lambda: False
    try:
        yield
    finally:
        ArchitectureAdapter._check_required_libraries = check  # type: ignore[method-assign]
        helpers._ensure_torchvision = install
