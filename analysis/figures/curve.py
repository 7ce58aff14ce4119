"""The causal curve: what changes when the first k heads are changed, beside what random heads do."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .style import Theme, finish, number, plain, theme

ARM_WORDS = {
    "top": "top heads by score",
    "same-layers": "random heads, same layers",
    "anywhere": "random heads, anywhere",
}
"""How an arm of `verify` is called in words."""


def causal_curve(
    table: pd.DataFrame,
    *,
    baseline: float,
    metric: str = "value",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw the metric against the number of changed heads, one line an arm.

    A line is the mean over the draws of its arm, its band the interval of that mean; single draws of a
    control are small points. The dashed line is the metric with nothing changed.

    Args:
        table: Columns `arm, k, draw, value, low, high`; `low, high` bound the value. One row per arm, k and
            draw; several draws of one arm and k are averaged here.
        baseline: The metric with nothing changed.
        metric: What the metric is called.
        title: A title above the plot.
        dark: For a dark page.

    Returns:
        The figure.
    """
    t = theme(dark)
    figure = go.Figure()
    ks = sorted(int(k) for k in table["k"].unique())
    figure.add_trace(
        go.Scatter(
            x=ks,
            y=[baseline] * len(ks),
            mode="lines",
            line={"color": t.baseline, "dash": "dash", "width": 1.5},
            hoverinfo="skip",
            name=f"nothing changed ({number(baseline)})",
        )
    )
    arms = sorted(
        table["arm"].unique(),
        key=lambda arm: (arm != "top", list(ARM_WORDS).index(arm) if arm in ARM_WORDS else 9),
    )
    colours = dict(zip(arms, [t.accent, *t.controls] * len(arms), strict=False))
    dashes = dict(zip(arms, ["solid", "solid", "dot"] * len(arms), strict=False))
    symbols = dict(zip(arms, ["circle", "square", "diamond"] * len(arms), strict=False))
    for arm in arms:
        _add_arm(
            figure,
            table[table["arm"] == arm],
            arm,
            colours[arm],
            dashes[arm],
            symbols[arm],
            metric,
            t,
        )
    figure.update_xaxes(title="heads changed (k)", tickvals=ks, type="log" if len(ks) > 2 else "linear")
    figure.update_yaxes(title=plain(metric))
    return finish(figure, dark, title, height=400 if title else 370, hovermode="closest")


def _add_arm(
    figure: go.Figure,
    rows: Any,  # the rows of `table` with this arm
    arm: str,
    colour: str,
    dash: str,
    symbol: str,
    metric: str,
    t: Theme,
) -> None:
    k = np.array(sorted(rows["k"].unique()))
    value, low, high = (
        np.array([rows.loc[rows["k"] == i, c].mean() for i in k]) for c in ("value", "low", "high")
    )
    draws = [int((rows["k"] == i).sum()) for i in k]
    words = ARM_WORDS.get(arm, arm)
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([k, k[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.16,
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=arm,
            showlegend=False,
        )
    )
    if max(draws) > 1:
        figure.add_trace(
            go.Scatter(
                x=rows["k"],
                y=rows["value"],
                mode="markers",
                marker={"color": colour, "size": 5, "symbol": symbol, "opacity": 0.45},
                hoverinfo="skip",
                legendgroup=arm,
                showlegend=False,
            )
        )
    text = [
        f"{plain(words)} · k={kk} · {plain(metric)} {number(v)} [{number(a)}, {number(b)}]"
        + (f" · {n} draws" if n > 1 else "")
        for kk, v, a, b, n in zip(k, value, low, high, draws, strict=True)
    ]
    figure.add_trace(
        go.Scatter(
            x=k,
            y=value,
            mode="lines+markers",
            line={"color": colour, "width": 2.5, "dash": dash},
            marker={
                "color": colour,
                "size": 9,
                "symbol": symbol,
                "line": {"color": t.background, "width": 1},
            },
            text=text,
            hoverinfo="text",
            name=plain(words),
            legendgroup=arm,
        )
    )
