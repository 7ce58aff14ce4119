"""Why a query looks at a key: the two vectors, their product, and the softmax over all keys."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from .style import colorscale, finish, plain, theme, visible

_MOST_KEYS = 60  # bars that can be told apart; of more keys, the strongest are shown


def neuron_figure(
    query: Float[np.ndarray, " d_head"],
    key: Float[np.ndarray, " d_head"],
    scores: Float[np.ndarray, " key_pos"],
    attention: Float[np.ndarray, " key_pos"],
    tokens: Sequence[str],
    *,
    query_position: int,
    key_position: int,
    dark: bool = False,
) -> go.Figure:
    """Draw q, k and q·k by dimension, and below them the softmax of the query over its keys.

    Args:
        query: The query vector, as attention uses it.
        key: The key vector.
        scores: What goes into the softmax, for every key; -inf where the query may not look.
        attention: Their softmax.
        tokens: The text of every token.
        query_position: Which token asks.
        key_position: Which key is drawn above, and marked below.
        dark: For a dark page.
    """
    t = theme(dark)
    shown = [visible(token) for token in tokens]
    names = [
        f"q of {query_position} {plain(shown[query_position])}",
        f"k of {key_position} {plain(shown[key_position])}",
        "q × k",
    ]
    figure = make_subplots(
        rows=3, cols=1, row_heights=[0.22, 0.14, 0.64], vertical_spacing=0.1, shared_xaxes=False
    )
    for row, (values, labels) in enumerate(
        ((np.stack([query, key]), names[:2]), ((query * key)[None], names[2:])), start=1
    ):
        end = float(np.abs(values).max()) or 1.0
        figure.add_trace(
            go.Heatmap(
                z=values.astype(np.float32),
                y=labels,
                colorscale=colorscale(t.diverging),
                zmin=-end,
                zmax=end,
                zmid=0,
                ygap=3,
                showscale=False,
                hovertemplate="%{y} · dimension %{x} · %{z:.3f}<extra></extra>",
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(autorange="reversed", row=row, col=1)
        figure.update_xaxes(
            showticklabels=row == 2,
            title_text="dimension" if row == 2 else None,
            title_standoff=2,
            row=row,
            col=1,
        )
    keys = _strongest(attention, scores, key_position)
    figure.add_trace(
        go.Bar(
            x=[f"{i} {plain(shown[i][:14])}" for i in keys],
            y=attention[keys].astype(np.float32),
            marker_color=[t.accent if i == key_position else t.controls[0] for i in keys],
            customdata=scores[keys].astype(np.float32),
            hovertemplate="%{x} · softmax %{y:.3f} · score %{customdata:.2f}<extra></extra>",
            showlegend=False,
        ),
        row=3,
        col=1,
    )
    figure.update_yaxes(title_text="softmax", range=[0, 1], row=3, col=1)
    figure.update_xaxes(type="category", tickangle=-60, row=3, col=1)
    return finish(figure, dark, None, height=520)


def _strongest(attention: np.ndarray, scores: np.ndarray, also: int) -> list[int]:
    """Choose the keys to draw, in the order of the text; the pair's own key is always among them."""
    allowed = np.flatnonzero(np.isfinite(scores))
    most = allowed[np.argsort(-attention[allowed], kind="stable")[:_MOST_KEYS]]
    return sorted({*most.tolist(), also})
