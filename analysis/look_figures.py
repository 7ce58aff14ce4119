"""Figures and plain data of what heads look at, for a page or a notebook to draw."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ..hooks.heads import Head
from ..printable import printable
from .figures import neuron_figure, pattern_figure, pattern_gallery
from .figures.style import colorscale, finish, plain, theme, visible
from .looks import Looks, shrink

MOST_HOVERED = (
    256  # tokens up to which every row travels to the browser, so that hover needs no answer from here
)
_MOST_CELLS = 256  # cells a side of a large pattern
_MOST_LINES = 120  # tokens between which lines are drawn
_HIGH = 600  # pixels of a large pattern
_WEIGHTED = "attention × ‖v·W_O‖"


def gallery_figure(looks: Looks, selected: Head | None = None, *, dark: bool = False) -> go.Figure:
    """Draw all heads' patterns small: the model view."""
    return pattern_gallery(looks.thumbnails(), selected=selected, dark=dark)


def head_figure(looks: Looks, head: Head, *, weighted: bool = False, dark: bool = False) -> go.Figure:
    """Draw one head's pattern: with its tokens, or, for long prompts, shrunken to squares of several tokens."""
    pattern = looks.pattern(head, weighted=weighted)
    name = _WEIGHTED if weighted else "attention"
    top = float(pattern.max()) or 1.0 if weighted else 1.0
    if len(looks.tokens) <= _MOST_CELLS:
        return pattern_figure(pattern, looks.tokens, name=name, top=top, height=_HIGH, dark=dark)
    small, starts = shrink(pattern, _MOST_CELLS)
    ends = [*starts[1:], len(looks.tokens)]
    names = [
        f"{start}-{end - 1} {plain(visible(looks.tokens[start]))}…"
        for start, end in zip(starts, ends, strict=True)
    ]
    future = starts[None, :] > np.array(ends)[:, None] - 1
    figure = go.Figure(
        go.Heatmap(
            z=np.where(future, np.nan, small).astype(np.float32),
            x=names,
            y=names,
            colorscale=colorscale(theme(dark).sequential),
            zmin=0,
            zmax=top,
            hoverongaps=False,
            hovertemplate="%{y} → %{x} · at most %{z:.3f}<extra></extra>",
            colorbar={
                "title": {"text": f"largest {name}", "side": "right"},
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    at = list(range(0, len(names), len(names) // 16))
    ticks = {"tickvals": at, "ticktext": [str(starts[i]) for i in at], "showgrid": False, "zeroline": False}
    figure.update_xaxes(title="key position", **ticks)
    figure.update_yaxes(title="query position", autorange="reversed", **ticks)
    return finish(figure, dark, None, height=_HIGH)


def pair_figure(looks: Looks, head: Head, query: int, key: int, *, dark: bool = False) -> go.Figure:
    """Draw why a query looks at a key: q, k, their product, and the softmax over all keys.

    Raises:
        BadOption: as `Looks.pair`.
    """
    pair = looks.pair(head, query, key)
    return neuron_figure(
        pair.query,
        pair.key,
        pair.scores,
        pair.attention,
        looks.tokens,
        query_position=query,
        key_position=key,
        dark=dark,
    )


def text_data(looks: Looks, head: Head, token: int | None, *, weighted: bool = False) -> dict[str, Any]:
    """Give the text view what it paints: where each token looks, and who looks at it.

    Args:
        looks: A prompt's attention.
        head: The head.
        token: The chosen token; None for the last one, which is then only where the view begins.
        weighted: Attention weighted by ‖v·W_O‖, as a share of its largest value.

    Returns:
        `tokens`, `token`, `chosen` (whether it was chosen), and weights in [0, 1]: of a short prompt the whole pattern
        in `whole` (bytes, 255 = 1, base64), of a long one `looks_at` and `seen_by` of the token only. `unit` is what
        a weight of 1 stands for.
    """
    n = len(looks.tokens)
    here = n - 1 if token is None else min(token, n - 1)
    pattern = looks.pattern(head, weighted=weighted)
    unit = float(pattern.max()) or 1.0 if weighted else 1.0
    data: dict[str, Any] = {
        "tokens": [printable(token) for token in looks.tokens],
        "token": here,
        "chosen": token is not None,
        "unit": unit,
        "name": _WEIGHTED if weighted else "attention",
    }
    if n <= MOST_HOVERED:
        levels = np.round(255 * pattern / unit).astype(np.uint8)
        return data | {"whole": base64.b64encode(levels.tobytes()).decode("ascii")}
    return data | {
        "looks_at": _rounded(pattern[here] / unit),
        "seen_by": _rounded(pattern[:, here] / unit),
    }


def lines_data(looks: Looks, heads: Iterable[Head], token: int | None = None) -> dict[str, Any]:
    """Give the head view its lines: of a long prompt, those between the tokens around the chosen one.

    Returns:
        `tokens` and `first` (the position of the first of them), `chosen`, and for every head its `name` and lines as
        `[query, key, weight]`, strongest first.
    """
    n = len(looks.tokens)
    stop = n if token is None else min(n, max(token + _MOST_LINES // 3, _MOST_LINES))
    first = max(0, stop - _MOST_LINES)
    asked = range(first, stop)
    found = [
        {
            "name": str(head),
            "lines": [
                [line.query, line.key, round(line.weight, 3)]
                for line in looks.lines(head, asked)
                if line.key >= first
            ],
        }
        for head in heads
    ]
    tokens = [printable(token) for token in looks.tokens[first:stop]]
    return {"tokens": tokens, "first": first, "chosen": token, "heads": found}


def _rounded(weights: Float[np.ndarray, " pos"]) -> list[float]:
    return [round(float(weight), 4) for weight in weights]
