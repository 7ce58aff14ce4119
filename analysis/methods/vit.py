"""Heads that read images, of a ViT or of the tower of a model that also reads: what is lost without each, and how far
each looks.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...datasets.prompts import PromptSet
from ...errors import BadOption, MissingData
from ...hooks.encode import encode
from ...hooks.forward import forward
from ...hooks.heads import all_heads
from ...hooks.intervene import intervene
from ...hooks.interventions import zero
from ...hooks.sweep import Progress
from ...hooks.tower import Tower
from ..registry import Measured, method
from ..vision.rings import mean_distance, ring_profile
from ..vision.vit import each_attention, first_piece, without_each_head

_ROWS = 16
_PAPER = "Li et al. 2023, arXiv:2303.13731"


@method(
    "leave-one-out",
    data="pictures",
    higher="changes the prediction when it is removed",
    reference=_PAPER,
    intervenes=True,
    alternative=None,
    per_prompt=True,
)
def leave_one_out(
    model: Any,
    prompts: PromptSet,
    *,
    measure: Literal["probability", "jsd", "cls"] = "jsd",
    progress: Progress | None = None,
) -> Measured:
    """Measure what an image model, or a model that sees and reads, loses without a head of its image part (z := 0).

    Formula: `probability`: p(y) − p_without(y), y the image's label if the model has it, else the predicted class.
        `jsd`: Jensen-Shannon divergence of the class probabilities, in nats. `cls`: 1 − cosine between the CLS
        embeddings that enter the classifier. For a tower (`NAME#tower`) the probabilities are those of the token after
        the prompt, y is the first token of the answer if there is one, and there is no `cls`.
    Direction: higher means that more changes. `probability` is negative where the head argued against the class.
    Shape and unit: one number per image and head.
    Reference: Li et al. 2023, arXiv:2303.13731 (abstract read; the three measures are remembered, their formulas ours).

    Raises:
        MissingData: The heads read text, or a prompt has no image.
        BadOption: `cls` of a tower.
    """
    images = _images(prompts)
    if isinstance(model, Tower):
        return _of_tower(model, prompts, measure, progress)
    shape = (len(images), int(model.cfg.n_layers), int(model.cfg.n_heads))
    samples, named, n_named = np.full(shape, np.nan), _labels(model), 0
    chosen = torch.zeros(len(images), dtype=torch.long)
    for rows, head, p, cls in without_each_head(model, images, progress):
        p, cls = p.double().cpu(), cls.double().cpu()
        if head is None:
            whole, embedding = p, cls
            known = [named.get(prompts[row].label) for row in rows]
            n_named += sum(label is not None for label in known)
            chosen[rows] = torch.tensor(
                [int(p[i].argmax()) if label is None else label for i, label in enumerate(known)]
            )
            continue
        if measure == "probability":
            value = (whole - p).gather(1, chosen[rows][:, None])[:, 0]
        elif measure == "jsd":
            value = _jsd(whole, p)
        else:
            value = 1 - torch.nn.functional.cosine_similarity(embedding, cls)
        samples[rows, head[0], head[1]] = value.numpy()
    note = f"The class is the image's label for {n_named} of {len(images)} images, for the others the predicted one."
    return Measured(samples, None, (note,) if measure == "probability" else ())


@method(
    "attention-distance",
    data="pictures",
    higher="looks farther away on the image",
    reference=_PAPER,
    per_prompt=True,
    alternative="two-sided",
)
def attention_distance(model: Any, prompts: PromptSet, *, progress: Progress | None = None) -> Measured:
    """Measure how far on the grid of pieces a head looks.

    Formula: Σ k s_k / Σ s_k, s_k the attention at Chebyshev distance k (see `ring_profile`); attention from and to CLS
        is left out.
    Direction: 0 means every piece looks at itself; chance is a head that looks at all pieces alike.
    Shape and unit: a distance in pieces, per image and head.
    Reference: Li et al. 2023, arXiv:2303.13731 (abstract read; the mean over rings is ours).

    Raises:
        MissingData: The heads read text, a prompt has no image, or the pieces form no square.
        BadOption: The model has a single piece.
    """
    images = _images(prompts)
    shape = (len(images), int(model.cfg.n_layers), int(model.cfg.n_heads))
    samples, side = np.full(shape, np.nan), 0

    def visit(layer: int, rows: list[int], pattern: Tensor) -> None:
        nonlocal side
        first = first_piece(model, pattern.shape[-1])
        side = isqrt(pattern.shape[-1] - first)
        profile = ring_profile(pattern[..., first:, first:]).double().cpu().numpy()
        samples[rows, layer] = mean_distance(profile)
        if progress and layer == shape[1] - 1:
            progress(rows[-1] + 1, len(images))

    each_attention(model, images, visit)
    if side < 2:
        raise BadOption(f"{model.cfg.model_name} sees an image as one piece; there is no distance on it.")
    even = torch.full((side**2, side**2), 1 / side**2)
    chance = float(mean_distance(ring_profile(even).numpy()))
    return Measured(samples, np.full(len(images), chance))


@torch.no_grad()
def _of_tower(model: Tower, prompts: PromptSet, measure: str, progress: Progress | None) -> Measured:
    """Measure what the text side says without each head of a tower."""
    if measure == "cls":
        raise BadOption("leave-one-out: measure=cls is of classifiers; a tower has probability and jsd.")
    heads = all_heads(model)
    samples, n_answers = np.full((len(prompts), int(model.cfg.n_layers), int(model.cfg.n_heads)), np.nan), 0
    for start in range(0, len(prompts), _ROWS):
        batch = encode(model, prompts.prompts[start : start + _ROWS])
        rows = slice(start, start + len(batch))
        whole = forward(model, batch, logits_at="last")[:, 0].double().softmax(-1)
        answers = batch.answer_ids[:, 0]
        n_answers += int((answers >= 0).sum())
        chosen = torch.where(answers >= 0, answers, whole.argmax(-1))[:, None]
        for head in heads:
            with intervene(model, zero(head), batch):
                p = forward(model, batch, logits_at="last")[:, 0].double().softmax(-1)
            value = (whole - p).gather(1, chosen)[:, 0] if measure == "probability" else _jsd(whole, p)
            samples[rows, head.layer, head.index] = value.cpu().numpy()
        if progress:
            progress(rows.stop, len(prompts))
    note = f"The token is the answer's for {n_answers} of {len(prompts)} prompts, for the others the likeliest one."
    return Measured(samples, None, (note,) if measure == "probability" else ())


def _images(prompts: PromptSet) -> list[str]:
    for index, prompt in enumerate(prompts):
        if not prompt.image:
            raise MissingData(
                f"{prompts.name}[{index}] ({prompt.text[:40]!r}) has no image; fill its `image` field."
            )
    return [prompt.image for prompt in prompts]


def _labels(model: Any) -> dict[str, int]:
    return {
        str(name): int(i)
        for i, name in (getattr(model.original_model.config, "id2label", None) or {}).items()
    }


def _jsd(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2

    def kl(a: Tensor) -> Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, middle)).sum(-1)

    return ((kl(p) + kl(q)) / 2).clamp_min(0)
