"""The first heads of a score, and two scores against each other."""

from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from .style import finish, interval, plain, theme


def top_bars(
    heads: Sequence[tuple[int, int]],
    values: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    name: str = "score",
    outlined: Iterable[tuple[int, int]] = (),
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw heads as bars with their intervals, the first one on top.

    Args:
        heads: `(layer, index)`, in the order to show.
        values: One number a head.
        low: Lower ends of the intervals.
        high: Upper ends of the intervals.
        name: What the number is called.
        outlined: Heads drawn in the accent colour, for example the known ones.
        title: A title above the bars.
        dark: For a dark page.

    Returns:
        The figure. Each bar carries `customdata = [layer, head]`.
    """
    t, known = theme(dark), {tuple(head) for head in outlined}
    value = np.asarray(values, dtype=float)
    ends = [(None, None)] * len(value) if low is None or high is None else list(zip(low, high, strict=True))
    error = None
    if low is not None and high is not None:
        below, above = value - np.asarray(low, dtype=float), np.asarray(high, dtype=float) - value
        error = {
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(above).clip(0),
            "arrayminus": np.nan_to_num(below).clip(0),
            "color": t.text,
            "thickness": 1.5,
            "width": 4,
        }
    labels = [f"L{layer}H{index}" for layer, index in heads]
    figure = go.Figure(
        go.Bar(
            x=value,
            y=labels,
            orientation="h",
            marker={"color": [t.accent if tuple(head) in known else t.controls[0] for head in heads]},
            error_x=error,
            customdata=[list(head) for head in heads],
            text=[
                f"{head} · {plain(name)} {interval(v, *e)}"
                for head, v, e in zip(labels, value, ends, strict=True)
            ],
            textposition="none",
            hoverinfo="text",
        )
    )
    figure.update_xaxes(title=plain(name), zeroline=True, rangemode="tozero")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return finish(
        figure, dark, title, height=26 * len(labels) + (100 if title else 70), bargap=0.35, showlegend=False
    )


def score_scatter(
    x: Float[np.ndarray, "layer head"],
    y: Float[np.ndarray, "layer head"],
    *,
    x_name: str,
    y_name: str,
    outlined: Iterable[tuple[int, int]] = (),
    selected: tuple[int, int] | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw one score against another, one point a head, coloured by layer.

    Args:
        x: The score across; NaN where a head was not run.
        y: The score up.
        x_name: What the first is called.
        y_name: What the second is called.
        outlined: Heads drawn with a ring and their name.
        selected: The one head that is selected.
        title: A title above the plot.
        dark: For a dark page.

    Returns:
        The figure. Each point carries `customdata = [layer, head]`; heads without both scores are counted
        below it.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    t, both = theme(dark), np.isfinite(x) & np.isfinite(y)
    layer, index = np.nonzero(both)
    named = {tuple(head) for head in outlined} | ({tuple(selected)} if selected is not None else set())
    colours = t.sequential[1:] if len(t.sequential) > 2 else t.sequential
    text = [
        f"L{a}H{b} · {plain(x_name)} {interval(x[a, b])} · {plain(y_name)} {interval(y[a, b])}"
        for a, b in zip(layer, index, strict=True)
    ]
    marked = np.array(
        [(a, b) in named for a, b in zip(layer.tolist(), index.tolist(), strict=True)], dtype=bool
    )
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=x[both],
            y=y[both],
            mode="markers",
            marker={
                "size": 10,
                "color": layer,
                "colorscale": [[i / (len(colours) - 1), c] for i, c in enumerate(colours)],
                "cmin": 0,
                "cmax": max(1, x.shape[0] - 1),
                "line": {"width": np.where(marked, 2.5, 0.8), "color": np.where(marked, t.accent, t.mark)},
                "colorbar": {
                    "title": {"text": "layer", "side": "right"},
                    "thickness": 12,
                    "outlinewidth": 0,
                    "dtick": max(1, round(x.shape[0] / 8)),
                },
            },
            customdata=np.stack([layer, index], axis=1),
            text=text,
            hoverinfo="text",
            showlegend=False,
            unselected={"marker": {"opacity": 1}},  # which head is selected is said by its ring
        )
    )
    for a, b in sorted(named):
        if both[a, b]:
            figure.add_annotation(x=x[a, b], y=y[a, b], text=f"L{a}H{b}", showarrow=False, yshift=14)
    left_out = int((~both).sum())
    if left_out:
        figure.add_annotation(
            text=f"{left_out} of {both.size} heads have no such score",
            showarrow=False, xref="paper", yref="paper", x=1, y=1, xanchor="right", yanchor="bottom",
            font={"size": 12, "color": t.mark},
        )  # fmt: skip
    figure.update_xaxes(title=plain(x_name))
    figure.update_yaxes(title=plain(y_name))
    return finish(figure, dark, title, height=440, clickmode="event+select")
