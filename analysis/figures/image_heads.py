"""How the heads of an image model attend: how far, which kinds of maps there are, and what each kind looks like."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from .style import colorscale, finish, theme

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
_ACROSS = 6  # typical maps in a row


def image_heads_figure(
    distance: Float[np.ndarray, "layer head"],
    place: Float[np.ndarray, "layer head image xy"],
    cluster: Int[np.ndarray, "layer head image"],
    typical: Float[np.ndarray, "cluster query_piece key_piece"],
    *,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw every head's distance by layer, every map as a point, and below a typical map of each kind.

    Colours of the typical maps grow with the square root of attention, so that weak structure shows too.

    Args:
        distance: How far a head looks, in pieces.
        place: Where a map lies among the others.
        cluster: Which kind it is; 0 is the largest.
        typical: A map of each kind: queries down, keys across, both row by row on the grid of pieces.
        title: Above the panels.
        dark: For a dark page.
    """
    t, n = theme(dark), len(typical)
    below = -(-n // _ACROSS)
    specs = [
        [{"colspan": 3}, None, None, {"colspan": 3}, None, None],
        *[[{"type": "xy"}] * _ACROSS for _ in range(below)],
    ]
    titles = ["how far a head looks, in pieces", "every map, by likeness", *(f"kind {i}" for i in range(n))]
    figure = make_subplots(
        1 + below, _ACROSS, specs=specs, subplot_titles=titles, row_heights=[0.6, *[0.4 / below] * below],
        vertical_spacing=0.24 / below, horizontal_spacing=0.035,
    )  # fmt: skip
    layers, heads = (axis.ravel() for axis in np.indices(distance.shape))
    figure.add_trace(
        go.Scatter(
            x=layers, y=distance.ravel(), mode="markers", showlegend=False,
            marker={"color": t.accent, "size": 8, "opacity": 0.75},
            text=[f"L{layer}H{head}" for layer, head in zip(layers, heads, strict=True)],
            hovertemplate="%{text} · %{y:.2f} pieces<extra></extra>",
        ),
        1, 1,
    )  # fmt: skip
    figure.update_xaxes(title="layer", dtick=max(1, distance.shape[0] // 12), row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    names = np.array(
        [f"L{layer}H{head}, image {image}" for layer, head, image in np.ndindex(cluster.shape)]
    ).reshape(cluster.shape)
    shades = colorscale(t.sequential)
    for kind in range(n):
        own = cluster == kind
        figure.add_trace(
            go.Scatter(
                x=place[own][:, 0], y=place[own][:, 1], mode="markers", name=f"kind {kind}", text=names[own],
                marker={
                    "symbol": _SYMBOLS[kind % len(_SYMBOLS)], "size": 7, "line": {"width": 0.5, "color": t.text},
                    "color": [kind] * int(own.sum()), "cmin": 0, "cmax": max(1, n - 1), "colorscale": shades,
                },
                hovertemplate=f"%{{text}} · kind {kind}<extra></extra>",
            ),
            1, 4,
        )  # fmt: skip
        row, column = 2 + kind // _ACROSS, 1 + kind % _ACROSS
        figure.add_trace(
            go.Heatmap(
                z=np.sqrt(typical[kind].clip(0)), customdata=typical[kind], colorscale=shades, showscale=False,
                zmin=0, zmax=1, hovertemplate="piece %{y} looks at %{x}: %{customdata:.2f}<extra></extra>",
            ),
            row, column,
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed", showticklabels=False, row=row, col=column)
        figure.update_xaxes(showticklabels=False, row=row, col=column)
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(showticklabels=False, zeroline=False, row=1, col=4)
    finish(figure, dark, title, height=450 + 180 * below)
    # Panels have titles of their own, below the figure's; the legend stands under the maps.
    return figure.update_layout(
        margin={"t": 84 if title else 40, "b": 60},
        legend={"orientation": "h", "y": -0.04, "yanchor": "top", "x": 0},
    )
