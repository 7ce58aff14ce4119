"""All patterns at once: a grid of small pictures, layers down, heads across."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from .png import png_address, shades
from .style import finish, theme

_GAP = 1 / 16  # of a small picture's side: the background around it
_WIDE = 420  # pixels that the grid asks for across


def pattern_gallery(
    small: Float[np.ndarray, "layer head side side"],
    *,
    selected: tuple[int, int] | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw every head's pattern small, as one image.

    Colours grow with the square root of attention, so that weak structure shows too; 0 is the lightest (on a dark
    page the darkest), 1 the strongest colour. As in `head_grid`, an invisible marker on every cell has
    `customdata = [layer, head]` and carries hover and clicks.

    Args:
        small: Shrunken patterns, in [0, 1].
        selected: The one head that is selected, drawn with a thick frame.
        title: A title above the grid.
        dark: For a dark page.
    """
    n_layers, n_heads, side, _ = small.shape
    t = theme(dark)
    gap = max(1, round(_GAP * side))
    cell = side + 2 * gap
    levels = np.full((n_layers * cell, n_heads * cell), 255, dtype=np.uint8)
    strength = np.round(254 * np.sqrt(np.clip(small, 0, 1))).astype(np.uint8)
    for layer in range(n_layers):
        for head in range(n_heads):
            top, left = layer * cell + gap, head * cell + gap
            levels[top : top + side, left : left + side] = strength[layer, head]
    colours = [*shades(t.sequential), tuple(int(t.background[i : i + 2], 16) for i in (1, 3, 5))]
    pixels = float(np.clip(_WIDE / n_heads, 28, 96))

    layers, heads = (axis.ravel() for axis in np.indices((n_layers, n_heads)))
    figure = go.Figure(
        go.Scatter(
            x=heads,
            y=layers,
            mode="markers",
            marker={"symbol": "square", "size": pixels - 4, "color": "rgba(0,0,0,0)", "line": {"width": 0}},
            customdata=np.stack([layers, heads], axis=1),
            text=[f"L{layer}H{head}" for layer, head in zip(layers, heads, strict=True)],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.add_layout_image(
        source=png_address(levels, colours, zoom=max(1, round(96 / side))),
        xref="x",
        yref="y",
        x=-0.5,
        y=-0.5,
        sizex=n_heads,
        sizey=n_layers,
        sizing="stretch",
        layer="below",
    )
    if selected is not None:
        figure.add_shape(selection_frame(selected, dark=dark))
    # Margins are fixed: measuring the labels for them is half of the time that a browser takes to draw this.
    axis = {"showgrid": False, "zeroline": False, "constrain": "domain", "automargin": False}
    figure.update_xaxes(
        title="head",
        side="top",
        title_standoff=4,
        range=[-0.5, n_heads - 0.5],
        tickvals=_few(n_heads),
        **axis,
    )
    figure.update_yaxes(
        title="layer",
        range=[n_layers - 0.5, -0.5],
        tickvals=_few(n_layers),
        scaleanchor="x",
        **axis,
    )
    height = int(pixels * n_layers) + (90 if title else 60)
    finish(figure, dark, title, height=height, clickmode="event+select", dragmode=False)
    return figure.update_layout(
        margin={"l": 52, "r": 8, "t": 84 if title else 52, "b": 8, "autoexpand": False}
    )


def selection_frame(head: tuple[int, int], *, dark: bool = False) -> dict:
    """Give the frame of the selected head, to add to a grid that was drawn without one."""
    layer, index = head
    box = {"x0": index - 0.49, "x1": index + 0.49, "y0": layer - 0.49, "y1": layer + 0.49}
    return {"type": "rect", **box, "line": {"color": theme(dark).accent, "width": 3}}


def _few(n: int) -> list[int]:
    return list(range(0, n, -(-n // 24)))
