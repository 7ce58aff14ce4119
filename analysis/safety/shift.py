"""How far the space spanned by a set of requests turns when heads are changed: principal angles in sample space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float

from ...datasets.prompts import PromptSet
from ...errors import BadOption
from ...hooks.encode import Batch, encode
from ...hooks.heads import Head
from ...hooks.hidden import final_hidden
from ...hooks.interventions import Intervention
from ...hooks.references import References
from ...hooks.sweep import sweep_hidden

SPAN_NOTE = (
    "The first direction of an uncentred set is mostly how large each request's hidden state is, so the score can be "
    "large for reasons other than safety."
)

_ROWS = 32  # prompts in one plain forward pass


def representation_shift(
    model: Any,
    prompts: PromptSet,
    kind: Callable[..., Intervention],
    heads: Sequence[Head],
    *,
    group: Sequence[Head] = (),
    rank: int = 1,
) -> Iterator[tuple[Head, float]]:
    """Yield for each head the angle between the clean space and that of the model without `group` and this head.

    Heads come in order of layer, one layer at a time, so that a caller may stop or save between them. Without a group
    the heads of a layer share one sweep; with one, every head costs a pass over the prompts.

    Raises:
        BadOption: The rank is below 1, or above the number of prompts or the width of the model.
    """
    batch = encode(model, prompts)
    most = min(len(prompts), int(model.cfg.d_model))
    if not 1 <= rank <= most:
        raise BadOption(f"rank={rank}: expected 1 to {most} for {len(prompts)} requests.")
    shared = References(model)
    clean = leading_directions(_hidden(model, batch, [], shared), rank)
    for _, layer_heads in groupby(sorted(heads), key=lambda head: head.layer):
        some = list(layer_heads)
        if group:
            changed = (_hidden(model, batch, [kind((*group, head))], shared) for head in some)
        else:
            changed = iter(sweep_hidden(model, batch, kind, heads=some).double().numpy())
        for head, hidden in zip(some, changed, strict=True):
            yield head, float(principal_angles(clean, leading_directions(hidden, rank)).sum())


def leading_directions(
    hidden: Float[np.ndarray, "request d_model"], rank: int
) -> Float[np.ndarray, "request rank"]:
    """Return the first left singular vectors, uncentred: directions in the space of requests, of free sign."""
    left, _, _ = np.linalg.svd(np.asarray(hidden, dtype=np.float64), full_matrices=False)
    return left[:, :rank]


def principal_angles(
    one: Float[np.ndarray, "request rank"], two: Float[np.ndarray, "request rank"]
) -> Float[np.ndarray, " rank"]:
    """Return the angles between two spaces with orthonormal columns, smallest first, in radians.

    The cosines are the singular values of one'two, the sines those of what is left of two outside of one. atan2 takes
    each where it is exact: the cosine alone loses angles below 1e-8.
    """
    inside = one.T @ two
    cosine = np.linalg.svd(inside, compute_uv=False)
    sine = np.linalg.svd(two - one @ inside, compute_uv=False)[::-1]
    return np.arctan2(sine, cosine)


def _hidden(
    model: Any, batch: Batch, interventions: list[Intervention], references: References
) -> Float[np.ndarray, "request d_model"]:
    parts = [
        final_hidden(model, batch.rows(slice(start, start + _ROWS)), interventions, references=references)
        for start in range(0, len(batch), _ROWS)
    ]
    return np.concatenate([part.double().numpy() for part in parts])
