"""How much each token that a model writes about an image depends on it: T-VHD, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ...datasets.prompts import Prompt, PromptSet
from ...errors import MissingData
from ...hooks.encode import encode
from ...hooks.generate import generate
from ...hooks.vision import divergence, without_image
from ..figures.bars import value_bars
from ..methods.vhd import outputs, token_divergence

_ROWS = 16


def token_dependence(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    *,
    k: int = 3,
    outliers: Literal["drop", "keep"] = "drop",
    max_new_tokens: int = 32,
    stop: str | None = None,
) -> pd.DataFrame:
    """Measure, for every token of an answer, how far the heads' outputs move when the image is taken away.

    Formula: T-VHD(t) = Σ_l Σ of the k largest VHD[l, :] at the position that predicts token t, both runs given the
        tokens before it (see the method `vhd`).
    Direction: higher means that more of what the heads write there depends on the image. It says nothing about whether
        the token is right.
    Shape and unit: a number ≥ 0 a token, in the unit of z; compare within one model.
    Reference: He et al. 2024, arXiv:2412.13949. k is not in the text we read; 3 is ours.

    Args:
        model: The bridge.
        prompts: Each with an image; where a prompt has no answer, the model's own greedy one is measured.
        k: Heads of each layer that count.
        outliers: As for `vhd`.
        max_new_tokens: Longest answer of the model's own.
        stop: Text that ends one.

    Returns:
        A row a token: `prompt`, `position` in the answer, `token` (its text), `t_vhd`.

    Raises:
        MissingData: A prompt has no image.
    """
    for index, prompt in enumerate(prompts):
        if not prompt.image:
            raise MissingData(f"prompt {index} ({prompt.text[:40]!r}) has no image to take away; give one.")
    asked = [one for one in prompts if not one.answer]
    written = iter(generate(model, asked, max_new_tokens=max_new_tokens, stop=stop) if asked else ())
    answered = [one if one.answer else replace(one, answer=next(written).text) for one in prompts]
    tokenizer = model.tokenizer
    rows = []
    kept = [(index, one) for index, one in enumerate(answered) if one.answer.strip()]
    for start in range(0, len(kept), _ROWS):
        some = [one for _, one in kept[start : start + _ROWS]]
        ids = [[i for i in row if i >= 0] for row in encode(model, some).answer_ids.tolist()]
        seen = outputs(model, some, "answer")
        blind = outputs(model, [without_image(model, one) for one in some], "answer")
        for place, (tokens, with_image, without) in enumerate(zip(ids, seen, blind, strict=True)):
            found = divergence(with_image, without, drop=outliers == "drop")  # token layer head
            for position, value in enumerate(token_divergence(found.double().cpu().numpy(), k)):
                rows.append(
                    {
                        "prompt": kept[start + place][0],
                        "position": position,
                        "token": tokenizer.decode([tokens[position]]),
                        "t_vhd": float(np.asarray(value)),
                    }
                )
    return pd.DataFrame(rows, columns=["prompt", "position", "token", "t_vhd"])


def dependence_figure(table: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Draw one prompt's tokens as bars, in the order in which they are written."""
    labels = [
        f"{place + 1}: {str(token).strip()}"
        for place, token in zip(table["position"], table["token"], strict=True)
    ]
    return value_bars(labels, table.t_vhd.tolist(), name="T-VHD", dark=dark)
