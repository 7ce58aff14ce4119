"""A model's matrices as the accounts of heads need them: by query head, with what stands behind them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def values_weight(model: Any, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """Give W_V by query head; heads that share one are given the same."""
    weight = model.blocks[layer].attn.W_V.detach()
    return weight.repeat_interleave(int(model.cfg.n_heads) // weight.shape[0], dim=0)


def has_post_norm(model: Any, layer: int) -> bool:
    """Whether what attention writes passes a norm of its own before it is added, as in Gemma 2."""
    return "ln1_post" in model.blocks[layer]._modules


def token_text(model: Any, token: int) -> str:
    """The text of one token of the vocabulary; its name there where it is only some bytes of a character."""
    text = model.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text if text and "\ufffd" not in text else str(model.tokenizer.convert_ids_to_tokens(token))


def cap(model: Any, logits: Tensor) -> Tensor:
    """Apply the model's cap on logits, where it has one."""
    most = float(getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0)
    return most * torch.tanh(logits / most) if most > 0 else logits


def unembedding(model: Any) -> tuple[Float[Tensor, "d_model vocab"], Float[Tensor, " vocab"]]:
    """Give W_U and its bias, zeros where there is none."""
    weight = model.W_U.detach()
    bias = getattr(model, "b_U", None)
    return weight, bias.detach() if bias is not None else weight.new_zeros(weight.shape[1])
