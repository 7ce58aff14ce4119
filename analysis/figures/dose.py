"""The dose-response curve of a steering method: right answers, and what neutral text costs, against its strength."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import finish, number, plain, theme

WORDS = {"chosen": "steered", "clean": "as it is"}


def dose_response(
    table: Any,  # a table, or some of its rows
    *,
    neutral: float,
    chosen: float | None = None,
    strength: str = "strength",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw accuracy above and perplexity below, against strength, one line an arm.

    A band is the exact interval of a rate; draws of a control are faint points and their mean a line. The dotted
    vertical line is the strength that was chosen in training.

    Args:
        table: Columns `arm, draw, strength, accuracy, low, high, perplexity`; the arm `clean` stands at the strength
            that does nothing, and every other line passes through it.
        neutral: The strength that does nothing.
        chosen: The strength that was chosen; None or `neutral` for none.
        strength: Words under the axis.
        title: A title above the plot.
        dark: For a dark page.
    """
    t = theme(dark)
    damage = bool(table["perplexity"].notna().any())
    figure = make_subplots(
        rows=2 if damage else 1,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.08,
        row_heights=[0.65, 0.35] if damage else None,
    )
    clean: Any = table[table["arm"] == "clean"]
    arms = sorted(set(table["arm"]) - {"clean"}, key=lambda arm: (arm != "chosen", arm))
    looks = zip(
        [t.accent, *t.controls] * len(arms),
        ["solid", "dash", "dot"] * len(arms),
        ["circle", "square", "diamond"] * len(arms),
        strict=True,
    )
    for arm, (colour, dash, symbol) in zip(arms, looks, strict=False):
        rows: Any = pd.concat([clean, table[table["arm"] == arm]])
        mean: Any = rows.groupby("strength", as_index=False)[["accuracy", "low", "high", "perplexity"]].mean()
        name = WORDS.get(arm, arm)
        x = mean["strength"].tolist()
        if arm == "chosen":
            figure.add_trace(
                go.Scatter(
                    x=[*x, *x[::-1]],
                    y=[*mean["high"], *mean["low"].tolist()[::-1]],
                    mode="lines",
                    fill="toself",
                    fillcolor=colour,
                    opacity=0.16,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=arm,
                ),
                row=1,
                col=1,
            )
        else:
            figure.add_trace(
                go.Scatter(
                    x=rows["strength"],
                    y=rows["accuracy"],
                    mode="markers",
                    marker={"color": colour, "size": 5, "symbol": symbol, "opacity": 0.45},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=arm,
                ),
                row=1,
                col=1,
            )
        for row, column in ((1, "accuracy"), (2, "perplexity"))[: 1 + damage]:
            what = "right" if column == "accuracy" else "perplexity"
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=mean[column],
                    mode="lines+markers",
                    line={"color": colour, "width": 2.5 if arm == "chosen" else 1.75, "dash": dash},
                    marker={
                        "color": colour,
                        "size": 8,
                        "symbol": symbol,
                        "line": {"color": t.background, "width": 1},
                    },
                    text=[
                        f"{plain(name)} · strength {s:g} · {what} {number(v)}"
                        for s, v in zip(x, mean[column], strict=True)
                    ],
                    hoverinfo="text",
                    name=plain(name),
                    legendgroup=arm,
                    showlegend=row == 1,
                ),
                row=row,
                col=1,
            )
    lines = [(neutral, t.baseline, "dash", "nothing changed")]
    if chosen is not None and chosen != neutral:
        lines.append((chosen, t.accent, "dot", "chosen in training"))
    for row in (1, 2)[: 1 + damage]:
        for x, colour, dash, words in lines:
            side = "bottom right" if x == neutral else "top right"
            said = {"annotation_text": words, "annotation_position": side} if row == 1 else {}
            line = {"color": colour, "dash": dash, "width": 1.25}
            figure.add_vline(x=x, line=line, row=row, col=1, **said)  # type: ignore[arg-type]
    # Below 0 there is room for words, where no curve runs through them.
    figure.update_yaxes(title="right answers", range=[-0.1, 1.02], tickformat=".0%", row=1, col=1)
    if damage:
        figure.update_yaxes(title="perplexity", type="log", row=2, col=1)
    figure.update_xaxes(title=plain(strength), row=1 + damage, col=1)
    finish(figure, dark, title, height=540 if damage else 400, hovermode="closest")
    if title:
        figure.update_layout(margin={"t": 84}, title={"y": 0.97, "yanchor": "top"})
    return figure
