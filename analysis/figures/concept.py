"""Mentions of a concept, and what is kept of the other words, against the number of heads that are changed."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import finish, plain, theme

_PANELS = (("mentions", "words of the concept in a text", ".2f"), ("kept", "other words kept", ".0%"))
_LOOKS = (("solid", "circle"), ("dash", "square"), ("dot", "diamond"), ("dashdot", "cross"))


def concept_figure(table: Any, *, title: str | None = None, dark: bool = False) -> go.Figure:
    """Draw two panels over k, one line a gain: the heads of the concept in colour, each random set in grey.

    Args:
        table: Columns `arm` (`clean`, `top`, `same-layers`), `gain`, `k`, `draw`, and `mentions` and `kept`, each with
            `_low` and `_high`.
        title: Above the panels.
        dark: For a dark page.
    """
    t = theme(dark)
    figure = make_subplots(
        1, 2, horizontal_spacing=0.1, subplot_titles=[plain(words) for _, words, _ in _PANELS]
    )
    clean = table[table["arm"] == "clean"].iloc[0]
    changed = table[table["arm"] != "clean"]
    for column, (name, words, form) in enumerate(_PANELS, 1):
        for (dash, symbol), (gain, rows) in zip(_LOOKS * len(changed), changed.groupby("gain"), strict=False):
            for (arm, draw), own in rows.groupby(["arm", "draw"]):
                line = own.sort_values(by="k")
                is_top = arm == "top"
                color = t.accent if is_top else t.controls[1]
                spread = {
                    "array": line[f"{name}_high"] - line[name],
                    "arrayminus": line[name] - line[f"{name}_low"],
                }
                figure.add_trace(
                    go.Scatter(
                        x=[0, *line.k], y=[clean[name], *line[name]], mode="lines+markers",
                        name=f"gain {gain:g}" if is_top else f"gain {gain:g}, random heads of the same layers",
                        legendgroup=f"{gain}{arm}", showlegend=column == 1 and draw <= 1,
                        opacity=1.0 if is_top else 0.55, marker={"size": 8 if is_top else 5, "symbol": symbol},
                        line={"color": color, "width": 2.2 if is_top else 1.2, "dash": dash},
                        error_y={
                            "type": "data", "symmetric": False, "thickness": 1, "color": color, "visible": is_top,
                            "array": [0, *spread["array"]], "arrayminus": [0, *spread["arrayminus"]],
                        },
                        hovertemplate=f"{'top' if is_top else 'random'} %{{x}} heads, gain {gain:g} · {plain(words)} "
                        f"%{{y:{form}}}<extra></extra>",
                    ),
                    1, column,
                )  # fmt: skip
        figure.update_yaxes(rangemode="tozero", tickformat=form if "%" in form else "", row=1, col=column)
    figure.update_xaxes(title="heads changed", tickvals=[0, *sorted(set(changed["k"]))])
    finish(figure, dark, title, height=440, legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    return figure.update_layout(margin={"t": 80 if title else 40, "b": 90})
