"""Attention that can be edited, for models that compute it in their own code and only show a copy.

An attention function registered with transformers takes the place of the model's own. It passes each layer's queries,
scores and pattern through that layer's hook points on their way, so that an edit reaches what the model computes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from ..errors import BadOption

NAME = "headscope"

_EDITS = "_headscope_edits"


def attend(
    module: Any,
    query: Float[Tensor, "batch head query_pos d_head"],
    key: Float[Tensor, "batch kv_head key_pos d_head"],
    value: Float[Tensor, "batch kv_head key_pos d_head"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[
    Float[Tensor, "batch query_pos head d_head"], Float[Tensor, "batch head query_pos key_pos"] | None
]:
    """Compute attention written out, the softmax in float32, past the hook points that `route` gave the module.

    Where scores are shown, the pattern is not returned: what shows a returned one shows it as scores, too.

    Args:
        module: The attention module that asks.
        query: After norms and rotation; the same for `key`.
        key: Of all tokens so far.
        value: Of all tokens so far.
        attention_mask: Added to the scores; None where every query sees every key.
        scaling: Factor on the scores; None for 1 / sqrt(d_head).
        dropout: As the model asks for it.
        softcap: Scores are softcap * tanh(score / softcap).
        others: What the model passes on.

    Raises:
        BadOption: the model gives its softmax a learned sink, which this form does not have.
    """
    if others.get("s_aux") is not None:
        raise BadOption("this model's softmax has a learned sink, so its pattern cannot be edited.")
    edits = module.__dict__.get(_EDITS)
    if (rotated := getattr(edits, "hook_rot_q", None)) is not None:
        query = rotated(query)
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    scored = getattr(edits, "hook_attn_scores", None)
    if scored is not None:
        scores = scored(scores)
    pattern = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if edits is not None:
        pattern = edits.hook_pattern(pattern)
    dropped = torch.nn.functional.dropout(pattern, p=dropout, training=module.training)
    out = (dropped @ value).transpose(1, 2).contiguous()
    return out, None if scored is not None else pattern


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)


def route(module: Module, edits: Any) -> None:
    """Let `attend` show a module's attention to hook points, and take from them what they make of it.

    Args:
        module: The attention module of transformers.
        edits: Has `hook_pattern`, and may have `hook_attn_scores` and `hook_rot_q`; None for none any more.
    """
    # Not as an ordinary attribute: the hook points may be a module around this one.
    module.__dict__[_EDITS] = edits


def make_editable(model: Any) -> bool:
    """Let a bridge's hook points of attention act on what the model computes; say whether it could be tried.

    Whether it works is for the self-check to find out.
    """
    parts = [block.attn.original_component for block in model.blocks]
    if any(part is None for part in parts) or not hasattr(model.original_model, "set_attn_implementation"):
        return False
    for block in model.blocks:
        route(block.attn.original_component, block.attn)
    model.original_model.set_attn_implementation(NAME)
    return True


def undo_editable(model: Any) -> None:
    """Give a model its own attention back."""
    for block in model.blocks:
        route(block.attn.original_component, None)
    model.original_model.set_attn_implementation("eager")
