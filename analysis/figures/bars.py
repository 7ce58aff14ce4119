"""Named values as bars: shares of a logit, neighbours of a head, effects of one head changed in several ways."""

from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from .style import finish, interval, number, plain, theme


def value_bars(
    labels: Sequence[str],
    values: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    name: str = "value",
    heads: Sequence[tuple[int, int] | None] | None = None,
    marked: Collection[int] = (),
    level: float | None = None,
    level_name: str = "",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw one bar per label, the first one on top. A missing value (NaN) has no bar and says "not run".

    Args:
        labels: Names, each once.
        values: One number each.
        low: Lower ends of their intervals; NaN where there is none.
        high: Upper ends.
        name: What the numbers are.
        heads: `(layer, index)` of each bar that stands for a head; it becomes the bar's `customdata`.
        marked: Bars in the accent colour, by place.
        level: A vertical line to compare with, for example chance.
        level_name: What the line is.
        title: A title above.
        dark: For a dark page.

    Returns:
        The figure.
    """
    t = theme(dark)
    value = np.asarray(values, dtype=float)
    ends = [(None, None)] * len(value) if low is None or high is None else list(zip(low, high, strict=True))
    error = None
    if low is not None and high is not None:
        error = {
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(np.asarray(high, dtype=float) - value).clip(0),
            "arrayminus": np.nan_to_num(value - np.asarray(low, dtype=float)).clip(0),
            "color": t.text,
            "thickness": 1.5,
            "width": 4,
        }
    shown = [plain(label) for label in labels]
    figure = go.Figure(
        go.Bar(
            x=np.nan_to_num(value),
            y=list(range(len(shown))),
            orientation="h",
            marker={"color": [t.accent if i in marked else t.controls[0] for i in range(len(shown))]},
            error_x=error,
            customdata=[list(head) if head is not None else [] for head in heads] if heads else None,
            text=[
                f"{label} · {plain(name)} {interval(v, *e)}"
                for label, v, e in zip(shown, value, ends, strict=True)
            ],
            textposition="none",
            unselected={"marker": {"opacity": 1}},  # which head is selected is said by colour
            hoverinfo="text",
        )
    )
    for place in np.flatnonzero(~np.isfinite(value)).tolist():
        figure.add_annotation(
            x=0, y=place, text="not run", showarrow=False, xanchor="left", xshift=4, font={"color": t.mark}
        )
    if level is not None and np.isfinite(level):
        figure.add_vline(x=level, line={"color": t.baseline, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=level, y=1, yref="paper", yanchor="bottom", showarrow=False, font={"size": 12},
            text=plain(f"{level_name} {number(level)}".strip()),
        )  # fmt: skip
    figure.update_xaxes(title=plain(name), zeroline=True, rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=shown, range=[len(shown) - 0.5, -0.5], showgrid=False
    )
    height = 26 * len(labels) + (100 if title or level is not None else 76)
    # The nearest bar answers to the mouse anywhere in its row, so that short bars can be clicked too.
    look = {"bargap": 0.35, "showlegend": False, "dragmode": False, "hovermode": "y"}
    finish(figure, dark, title, height=height, clickmode="event+select", **look)
    if level is not None and not title:
        figure.update_layout(margin={"t": 30})
    return figure
