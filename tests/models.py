"""Tiny random models in Hugging Face folders, one per architecture that Headscope promises to work on.

Weights are drawn wide (and biases and norm scales away from 0 and 1), so that attention is far from uniform and a wrong
formula shows. Nothing here is trained, and nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

N_LAYERS, N_HEADS, N_CTX = 3, 4, 128
_TEXT = (
    "the a cat dog bird fish fox red blue green gold small old new big saw took found lost made box key lamp book "
    "ring in on under near by and then so but said gave kept one two three four five six seven eight nine ten moon"
)
WORDS = _TEXT.split()
ARCHITECTURES = ("gpt2", "llama", "qwen3", "gemma2")


def sentence(n_words: int, seed: int) -> str:
    """Return `n_words` random words that every tokenizer here knows."""
    generator = torch.Generator().manual_seed(seed)
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n_words,), generator=generator))


def write_model(architecture: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random model with its tokenizer into `folder` and return it."""
    if architecture in ("llava", "idefics3", "vit", "qwen2_5_vl", "qwen3_vl"):
        import models_vision

        return getattr(models_vision, f"write_{architecture}")(folder, seed=seed)
    tokenizer = _byte_tokenizer() if architecture == "qwen3" else _word_tokenizer(bos=True)
    config = _config(architecture, len(tokenizer))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(
                    std=weight.shape[-1] ** -0.5 * (1.5 if "proj" in name or "attn" in name else 1.0)
                )
            else:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
            if name.endswith("q_norm.weight"):  # unit queries and keys alone would attend almost evenly
                weight.mul_(3.0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(architecture: str, n_vocab: int) -> transformers.PreTrainedConfig:
    shared = {"vocab_size": n_vocab, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if architecture == "gpt2":
        return transformers.GPT2Config(
            n_layer=N_LAYERS, n_head=N_HEADS, n_embd=32, n_positions=N_CTX, n_inner=64, **shared
        )
    sizes = {
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": N_CTX,
        **shared,
    }
    if architecture == "llama":
        return transformers.LlamaConfig(head_dim=8, **sizes)
    if architecture == "qwen3":
        return transformers.Qwen3Config(head_dim=8, **sizes)
    if architecture == "gemma2":
        return transformers.Gemma2Config(
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=6,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=8.0,
            **sizes,
        )
    raise ValueError(f"no tiny model for {architecture!r}; choose from {ARCHITECTURES}")


def _word_tokenizer(*, bos: bool) -> PreTrainedTokenizerFast:
    """One token per word, with `<s>` in front."""
    vocabulary = {
        word: index for index, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS, ".", ","])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces with the blank glued to the word that follows, no BOS, padded on the left."""
    special = ["<|im_start|>", "<|endoftext|>", "<|pad|>"]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in ("the", "cat", "dog", "red", "box"):
        built = "Ġ"
        for letter in word:
            merges.append((built, letter))
            built += letter
            symbols.append(built)
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>", padding_side="left"
    )
