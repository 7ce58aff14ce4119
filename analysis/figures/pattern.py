"""What a head looks at: the whole pattern, or the text with the looks painted on it.

Tokens are data. A prompt may hold `<img src=x onerror=…>`; here it is always shown, never rendered.
"""

import html
from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ...printable import printable
from .style import colorscale, finish, plain, theme, visible

_MOST_LABELS = 48  # more token labels than this overlap
_MOST_UPRIGHT = 26  # below the plot, which may be narrow
_MOST_GAPS = 100  # more lines between cells than this grey the picture
_WARM, _GREY = "234,118,20", "128,136,148"


def pattern_figure(
    pattern: Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    *,
    query_positions: Sequence[int] | None = None,
    name: str = "attention",
    top: float = 1.0,
    height: int = 790,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw one attention pattern with the tokens on both axes.

    Keys that a query may not see (a causal pattern's upper triangle) are left blank: a masked key is not a
    zero.

    Args:
        pattern: Attention of each query (down) to each key (across); rows sum to 1.
        tokens: The text of each key position.
        query_positions: The position of each row, where the pattern holds some rows only.
        name: What the numbers are, beside the colour bar.
        top: The number at the strong end of the colours.
        height: At most this high, in pixels, labels included.
        title: A title above the plot.
        dark: For a dark page.

    Returns:
        The figure. The first query is at the top. Long axes are labelled every few tokens, with positions.

    Raises:
        ValueError: The sizes do not fit together.
    """
    pattern = np.asarray(pattern, dtype=float)
    queries = list(range(len(tokens)) if query_positions is None else query_positions)
    if pattern.shape != (len(queries), len(tokens)):
        raise ValueError(
            f"pattern {pattern.shape} does not fit {len(queries)} queries and {len(tokens)} tokens."
        )
    shown = [visible(token) for token in tokens]
    future = np.arange(len(tokens))[None, :] > np.array(queries)[:, None]
    causal = not pattern[future].any()
    drawn = np.where(future & causal, np.nan, pattern.round(4)).astype(np.float32)
    figure = go.Figure(
        go.Heatmap(
            z=drawn,
            colorscale=colorscale(theme(dark).sequential),
            zmin=0,
            zmax=top,
            xgap=int(len(tokens) <= _MOST_GAPS),
            ygap=int(len(queries) <= _MOST_GAPS),
            hoverongaps=False,
            **_hover(pattern, queries, shown),
            colorbar={"title": {"text": plain(name), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        )
    )
    keys = _labels(list(range(len(tokens))), shown, most=_MOST_UPRIGHT)
    side = int(np.clip(22 * len(queries), 160, height - 150))
    rows = _labels(queries, shown, most=side // 14)
    figure.update_xaxes(title="key", tickangle=-90, tickfont_size=11, showgrid=False, zeroline=False, **keys)
    figure.update_yaxes(
        title="query",
        title_standoff=10,
        tickfont_size=11,
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        **rows,
    )
    left, below = (26 + int(6.7 * max(map(len, axis["ticktext"]))) for axis in (rows, keys))
    # Told in advance, because measuring them is half of the time that a browser takes to draw this.
    finish(figure, dark, title, height=side + 150)
    return figure.update_layout(margin={"l": left + 16, "r": 84, "b": below + 16, "autoexpand": False})


def _hover(pattern: np.ndarray, queries: list[int], shown: list[str]) -> dict:
    """Say query, key and weight of a cell: written out for few tokens, put together from the axes for many."""
    if len(shown) > _MOST_LABELS:
        names = [f"{i} {plain(token)}" for i, token in enumerate(shown)]
        return {
            "x": names,
            "y": [names[i] for i in queries],
            "hovertemplate": "%{y} → %{x} · %{z:.3f}<extra></extra>",
        }
    text = [
        [f"{i} {plain(shown[i])} → {j} {plain(token)} · {row[j]:.3f}" for j, token in enumerate(shown)]
        for i, row in zip(queries, pattern, strict=True)
    ]
    return {"text": text, "hoverinfo": "text"}


def _labels(positions: list[int], shown: list[str], *, most: int) -> dict:
    """Ticks at rows or columns: the token, cut where it is long; every few tokens and with positions where many."""
    step = -(-len(positions) // most)
    at = list(range(0, len(positions), step))
    short = [token if len(token) <= 14 else token[:13] + "…" for token in (shown[positions[i]] for i in at)]
    if len(shown) > _MOST_LABELS:
        short = [f"{positions[i]} {token}" for i, token in zip(at, short, strict=True)]
    return {"tickvals": at, "ticktext": [plain(label) for label in short]}


def token_html(
    tokens: Sequence[str],
    looks_at: Float[np.ndarray, " key_pos"],
    *,
    seen_by: Float[np.ndarray, " query_pos"] | None = None,
    chosen: int | None = None,
    marked: Collection[int] = (),
) -> str:
    """Write tokens as text: warm where the chosen token looks, a grey line under those that look at it.

    Args:
        tokens: The text of each position.
        looks_at: Attention of the chosen token to each position, in [0, 1].
        seen_by: Attention of each position to the chosen token, in [0, 1].
        chosen: The position of the chosen token, drawn with a frame. None where it is not among the tokens.
        marked: Positions drawn with a dotted line below, for example those of the needle.

    Returns:
        One HTML element. Every token is escaped. Colours stand in `style` attributes, so no stylesheet is
        needed.

    Raises:
        ValueError: Not one weight a token.
    """
    if len(looks_at) != len(tokens) or (seen_by is not None and len(seen_by) != len(tokens)):
        raise ValueError(f"{len(looks_at)} weights do not fit {len(tokens)} tokens.")
    parts = []
    for i, token in enumerate(tokens):
        weight = float(np.clip(np.nan_to_num(looks_at[i]), 0, 1))
        style = [f"background:rgba({_WARM},{0.62 * weight:.3f})"] if weight >= 0.005 else []
        if seen_by is not None and seen_by[i] >= 0.005:
            style.append(f"border-bottom:3px solid rgba({_GREY},{min(1.0, float(seen_by[i])):.3f})")
        if i in marked:
            style.append("text-decoration:underline dotted;text-underline-offset:4px")
        if i == chosen:
            style.append("outline:2px solid currentColor;outline-offset:-1px")
        attribute = f' style="{";".join([*style, "border-radius:3px"])}"' if style else ""
        hover = html.escape(f"position {i} · {weight:.3f}")
        parts.append(f'<span title="{hover}"{attribute}>{html.escape(_readable(token))}</span>')
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.75">{"".join(parts)}</div>'


def _readable(token: str) -> str:
    """Keep blanks as they are, and show a line break before it breaks the line."""
    return printable(token).replace("\n", "↵\n")
