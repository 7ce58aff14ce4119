"""What heads write: direct logit attribution on a prompt, and the tokens that a head's output speaks for.

TransformerLens' `direct_logit_attribution` wants a model whose norms were folded into its weights, which grouped
queries and post-norms do not survive unchanged; here the model stays as it is. Each part of the residual stream is
followed through the final norm with the norm's scale at that position held fixed (`analysis.norms`), and through the
unembedding. The parts then add up to the logit exactly, and `read_out` refuses a model for which they do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import Prompt
from ..errors import BadOption
from ..hooks.encode import encode
from ..hooks.forward import forward
from ..hooks.heads import Head, parse_heads
from ..hooks.turn import watching
from .norms import Norm, read_norm
from .weights import cap, has_post_norm, token_text, unembedding, values_weight


class TokenValue(NamedTuple):
    """A token of the vocabulary and what a head adds to its logit."""

    token: str
    value: float


class Spoken(NamedTuple):
    """The tokens that a vector raises most, and those that it lowers most, strongest first."""

    raised: tuple[TokenValue, ...]
    lowered: tuple[TokenValue, ...]


@dataclass(frozen=True, eq=False)
class ReadOut:
    """The residual stream at one position of one prompt, cut into parts, behind the frozen final norm.

    Every part is a vector whose product with a token's column of the unembedding is the part's share of its logit.

    Attributes:
        heads: What each head wrote.
        mlps: What each block's MLP wrote.
        biases: The output bias of each block's attention, which belongs to no head.
        embedding: Of token and position.
        constant: The final norm's bias.
        position: Where the parts were read, counted from the first token.
    """

    heads: Float[Tensor, "layer head d_model"]
    mlps: Float[Tensor, "layer d_model"]
    biases: Float[Tensor, "layer d_model"]
    embedding: Float[Tensor, " d_model"]
    constant: Float[Tensor, " d_model"]
    position: int


@dataclass(frozen=True, eq=False)
class Attribution:
    """A logit, or the difference of two, cut into what each part of the model adds to it.

    Attributes:
        target: What was cut, in words.
        heads: Share of each head.
        mlps: Share of each MLP.
        rest: Share of embedding, biases and the final norm's bias, by name.
        total: The logit; the sum of all shares.
    """

    target: str
    heads: Float[np.ndarray, "layer head"]
    mlps: Float[np.ndarray, " layer"]
    rest: dict[str, float]
    total: float

    def table(self) -> pd.DataFrame:
        """Return one row per part, largest share (by size) first: `part`, `logits`."""
        cells = np.ndindex(self.heads.shape)
        rows = [(str(Head(layer, index)), float(self.heads[layer, index])) for layer, index in cells]
        rows += [(f"MLP {layer}", float(value)) for layer, value in enumerate(self.mlps)]
        rows += list(self.rest.items())
        table = pd.DataFrame(rows, columns=["part", "logits"])
        return table.sort_values("logits", key=np.abs, ascending=False, kind="stable", ignore_index=True)


@torch.no_grad()
def read_out(model: Any, prompt: Prompt | str, position: int = -1) -> ReadOut:
    """Cut the residual stream at one position into what each part of the model wrote.

    Args:
        model: The bridge.
        prompt: One prompt.
        position: Which token; negative ones count from the end.

    Raises:
        BadOption: There is no such position, or the parts do not add up to the model's logits: its heads, norms or
            unembedding are of a kind that is not known here.
        PromptTooLong: The prompt does not fit into the context.
    """
    batch = encode(model, prompt, padding_side="right")
    length = int(batch.lengths[0])
    if not -length <= position < length:
        raise BadOption(f"position {position}: the prompt has tokens 0-{length - 1}.")
    at = position % length
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda value, hook: seen.__setitem__(name, value[0, at].detach())

    n_layers = int(model.cfg.n_layers)
    names = ["ln_final.hook_in", "ln_final.hook_out"]
    for layer in range(n_layers):
        names += [
            f"blocks.{layer}.{point}" for point in ("hook_in", "hook_out", "attn.hook_z", "attn.hook_out")
        ]
        if has_post_norm(model, layer):
            names.append(f"blocks.{layer}.ln1_post.hook_out")
    with watching(model, [(name, keep(name)) for name in names]):
        logits = forward(model, batch)[0, at]

    final = read_norm(model.ln_final, seen["ln_final.hook_in"])
    scale = final.scale(seen["ln_final.hook_in"], seen["ln_final.hook_out"])
    heads, biases, mlps = [], [], []
    for layer in range(n_layers):
        here = f"blocks.{layer}."
        own, bias = _written(model, layer, seen)
        attention = own.sum(0) + bias
        heads.append(final.direction(own) / scale)
        biases.append(final.direction(bias) / scale)
        mlps.append(final.direction(seen[here + "hook_out"] - seen[here + "hook_in"] - attention) / scale)
    found = ReadOut(
        torch.stack(heads),
        torch.stack(mlps),
        torch.stack(biases),
        final.direction(seen["blocks.0.hook_in"]) / scale,
        final.bias,
        at,
    )
    _add_up(model, found, logits)
    return found


def attribute(
    model: Any, prompt: Prompt | str, *, position: int = -1, token: int | None = None, foil: int | None = None
) -> Attribution:
    """Cut a next-token logit into what each head, MLP and bias adds to it: direct logit attribution.

    Formula: W_U[:, token] · gain ⊙ centred(part) / scale, with the scale of the final norm at this position held fixed;
        minus the same for the foil, where there is one.
    Direction: above 0 the part speaks for the token (and against the foil). What a part does through later layers is
        not counted, and no part was taken away: this is no causal effect.
    Shape and unit: logits; all shares add up to the logit, before the cap where the model caps its logits.
    Reference: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Args:
        model: The bridge.
        prompt: One prompt.
        position: Which token predicts; negative ones count from the end.
        token: Id of the token; None for the first one of the prompt's answer or, without one (or at another position
            than the last), the likeliest token.
        foil: Id of the token to subtract; None for that of the prompt's foil, if `token` came from its answer.

    Raises:
        BadOption: As for `read_out`.
    """
    batch = encode(model, prompt, padding_side="right")
    found = read_out(model, prompt, position)
    if token is None and found.position == int(batch.lengths[0]) - 1 and int(batch.answer_ids[0, 0]) >= 0:
        token = int(batch.answer_ids[0, 0])
        wrong = int(batch.foil_ids[0, 0])
        foil = wrong if foil is None and wrong >= 0 and wrong != token else foil
    unembed, bias = unembedding(model)
    if token is None:
        parts = _whole(found)
        token = int((parts @ unembed + bias).argmax())
    column = unembed[:, token] - (unembed[:, foil] if foil is not None else 0)
    offset = float(bias[token] - (bias[foil] if foil is not None else 0))
    rest = {"embedding": found.embedding, "attention biases": found.biases.sum(0)}
    shares = {name: float(vector @ column) for name, vector in rest.items()}
    shares["final norm and unembedding biases"] = float(found.constant @ column) + offset
    heads = (found.heads @ column).double().cpu().numpy()
    mlps = (found.mlps @ column).double().cpu().numpy()
    words = f"logit of {token_text(model, token)!r}"
    if foil is not None:
        words += f" minus logit of {token_text(model, foil)!r}"
    total = float(heads.sum() + mlps.sum() + sum(shares.values()))
    return Attribution(words, heads, mlps, shares, total)


def written_tokens(
    model: Any, prompt: Prompt | str, head: Head, *, position: int = -1, k: int = 10
) -> Spoken:
    """Name the tokens whose logits a head's output at one position raises and lowers most.

    Formula: W_Uᵀ · gain ⊙ centred(z W_O) / scale, with the final norm's scale at this position held fixed; less its
        mean over the vocabulary, which moves no probability.
    Shape and unit: logits, directly added at this position.

    Raises:
        BadOption: As for `read_out`.
        UnknownHead: The model does not have the head.
    """
    (head,) = parse_heads(head, model)
    return spoken(model, read_out(model, prompt, position).heads[head.layer, head.index], k)


@torch.no_grad()
def ov_tokens(model: Any, head: Head, token: int, *, k: int = 10) -> Spoken:
    """Name the tokens that a head raises and lowers most when all its attention is on one token: its OV circuit.

    Formula: W_Uᵀ · gain_final ⊙ centred(norm(W_E[token]) W_V W_O). The token's embedding takes the place of the whole
        residual stream at its position, without position and earlier layers; b_V is left out. The final norm's scale is
        not known without a prompt, so only the order and the sign of the values mean something.
    Reference: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Raises:
        UnknownHead: The model does not have the head.
        BadOption: There is no such token, or the model's norms are of a kind that is not known here.
    """
    (head,) = parse_heads(head, model)
    n_vocab = model.W_E.shape[0]
    if not 0 <= token < n_vocab:
        raise BadOption(f"token {token}: the vocabulary has ids 0-{n_vocab - 1}.")
    block = model.blocks[head.layer]
    read = block.ln1(model.W_E[token].detach()[None, None])[0, 0]
    value = read @ values_weight(model, head.layer)[head.index]
    vector = value @ block.attn.W_O[head.index].detach()
    if has_post_norm(model, head.layer):
        vector = read_norm(block.ln1_post, vector).direction(vector)
    return spoken(model, read_norm(model.ln_final, vector).direction(vector), k)


def _written(
    model: Any, layer: int, seen: dict[str, Tensor]
) -> tuple[Float[Tensor, "head d_model"], Float[Tensor, " d_model"]]:
    """Return what each head of a layer added to the residual stream, and the bias beside them."""
    attn, here = model.blocks[layer].attn, f"blocks.{layer}."
    z, out = seen[here + "attn.hook_z"], seen[here + "attn.hook_out"]
    own = torch.einsum("hd,hdm->hm", z, attn.W_O.detach())
    bias = attn.b_O.detach() if attn.b_O is not None else torch.zeros_like(out)
    if not _close(own.sum(0) + bias, out):
        raise BadOption(
            f"layer {layer} of {model.cfg.model_name} changes what its heads write (a gate, a norm or a scale), so "
            "single heads cannot be followed to the logits."
        )
    if not has_post_norm(model, layer):
        return own, bias
    norm: Norm = read_norm(model.blocks[layer].ln1_post, out)
    added = seen[here + "ln1_post.hook_out"]
    scale = norm.scale(out, added)
    return norm.direction(own) / scale, norm.direction(bias) / scale + norm.bias


def _whole(found: ReadOut) -> Float[Tensor, " d_model"]:
    return (
        found.heads.sum((0, 1)) + found.mlps.sum(0) + found.biases.sum(0) + found.embedding + found.constant
    )


def _add_up(model: Any, found: ReadOut, logits: Float[Tensor, " vocab"]) -> None:
    """Raise unless the parts give the model's own logits."""
    unembed, bias = unembedding(model)
    if not _close(cap(model, _whole(found) @ unembed + bias), logits):
        raise BadOption(
            f"the parts of {model.cfg.model_name} do not add up to its logits: something between the last block and "
            "the logits is not known here."
        )


def _close(ours: Tensor, theirs: Tensor) -> bool:
    half = theirs.dtype not in (torch.float32, torch.float64)
    return bool((ours - theirs).abs().max() <= (5e-2 if half else 1e-4) * theirs.abs().max().clamp_min(1))


def spoken(model: Any, vector: Float[Tensor, " d_model"], k: int) -> Spoken:
    """Name the tokens that a vector behind the final norm raises and lowers most, against their mean."""
    values = vector @ unembedding(model)[0]
    values = (values - values.mean()).float()
    values = values[: len(model.tokenizer)]  # rows beyond the tokenizer's size are padding of the matrix
    k = min(k, len(values))

    def named(found: Any) -> tuple[TokenValue, ...]:
        return tuple(
            TokenValue(token_text(model, int(i)), float(value))
            for value, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        )

    return Spoken(named(values.topk(k)), named(values.topk(k, largest=False)))
