"""Tiny random models that see, in Hugging Face folders: a LLaVA with a processor that resizes and crops, an Idefics3
that puts marks around its images, a Qwen2.5-VL and a Qwen3-VL that cut images into as many pieces as they are large,
and a ViT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import N_CTX, N_HEADS, N_LAYERS, WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

SIDE, PATCH = 32, 8
_TEXT_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
N_PIECES = (SIDE // PATCH) ** 2
_SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", "<image>"]
_SPECIAL += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
_SPECIAL += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def write_llava(folder: Path, *, seed: int = 0) -> Path:
    """Write a random LLaVA with grouped queries and its processor into `folder` and return it."""
    tokenizer = _tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    text = _text(len(tokenizer))
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=N_PIECES, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = _random(lambda: LlavaForConditionalGeneration(config), seed)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=[0.5, 0.4, 0.3],
        image_std=[0.3, 0.25, 0.2],
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH, image_token="<image>",
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_idefics3(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Idefics3, whose images are four pieces between marks, and its processor."""
    tokenizer = _tokenizer()
    vision = Idefics3VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    config = Idefics3Config(
        vision_config=vision, text_config=_text(len(tokenizer)), scale_factor=2, pad_token_id=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = _random(lambda: Idefics3ForConditionalGeneration(config), seed)
    edge = {"longest_edge": SIDE}
    images = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    Idefics3Processor(images, tokenizer, image_seq_len=4).save_pretrained(folder)
    return folder


def write_qwen2_5_vl(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Qwen2.5-VL: windows of 2 x 2 pieces, all pieces together in tower layer 1."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 4, "window_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return _write_qwen(
        folder,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        vision,
        rope,
        "Qwen2_5_VLProcessor",
        seed,
    )


def write_qwen3_vl(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Qwen3-VL, whose first text layer gets image features of the tower's first layer added."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
    }  # fmt: skip
    return _write_qwen(
        folder, Qwen3VLConfig, Qwen3VLForConditionalGeneration, vision, rope, "Qwen3VLProcessor", seed
    )


def _write_qwen(
    folder: Path, config_class: Any, model_class: Any, vision: dict, rope: dict, processor: str, seed: int
) -> Path:
    tokenizer = _tokenizer(bos=False)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    marks = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    text = _text(len(tokenizer)).to_dict()
    text = {name: text[name] for name in _TEXT_SIZES} | {
        "rope_parameters": rope,
        "tie_word_embeddings": False,
    }
    config = config_class(
        text_config=text, vision_config=vision, image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=marks["vision_start"], vision_end_token_id=marks["vision_end"],
        tie_word_embeddings=False,
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(
        min_pixels=16 * 16, max_pixels=SIDE * SIDE, patch_size=4, temporal_patch_size=2, merge_size=2
    )
    folder.mkdir(parents=True, exist_ok=True)
    _random(lambda: model_class(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # As the hub's folders have it: settings of images in a file of their own, with the processor's class.
    settings = images.to_dict() | {
        "processor_class": processor,
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_vit(folder: Path, *, seed: int = 0) -> Path:
    """Write a random ViT that names shapes, and its processor, into `folder` and return it."""
    names = dict(enumerate(("circle", "square", "triangle", "star")))
    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS, image_size=SIDE,
        patch_size=PATCH, id2label=names, label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    model = _random(lambda: ViTForImageClassification(config), seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def _tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *WORDS, ".", ","])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    core.add_special_tokens(_SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>" if bos else "<|image_pad|>"},
    )  # fmt: skip


def _text(n_vocab: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=n_vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=2, head_dim=8, max_position_embeddings=N_CTX,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip


def _random(make: Callable[[], Any], seed: int) -> Any:
    """Build a model with wide weights, so that attention is far from uniform and a wrong formula shows."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5 * 1.5)
    return model
