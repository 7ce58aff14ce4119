"""What tasks lose without the top heads of a score, by the number of heads, beside random heads."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import finish, plain, theme

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon")


def selectivity_figure(
    table: Any,
    *,
    k: int | None = None,
    at_least: float,
    at_most: float,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw two panels: tasks that should suffer, and tasks that should not.

    Args:
        table: Columns `role` (`asked`, `spared`), `task`, `arm` (`top`, `same-layers`), `k`, `cost`, `low`, `high`.
        k: The number of heads that was chosen; a dotted line.
        at_least: What the first group should lose on average; a dashed line.
        at_most: What the second may lose at most; a dashed line.
        title: Above the panels.
        dark: For a dark page.
    """
    t = theme(dark)
    panels = (("asked", "tasks that should suffer", at_least), ("spared", "tasks that should not", at_most))
    figure = make_subplots(
        1,
        2,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        subplot_titles=[plain(words) for _, words, _ in panels],
    )
    tasks = list(dict.fromkeys(table["task"]))
    for column, (role, words, line) in enumerate(panels, 1):
        rows = table[table["role"] == role]
        for task in dict.fromkeys(rows.task):
            index = tasks.index(task)
            for arm, color in (("same-layers", t.controls[1]), ("top", t.accent)):
                own = rows[(rows.task == task) & (rows.arm == arm)].sort_values(by="k")
                if not len(own):
                    continue
                is_top = arm == "top"
                spread = {"array": own.high - own.cost, "arrayminus": own.cost - own.low, "visible": is_top}
                figure.add_trace(
                    go.Scatter(
                        x=own.k, y=own.cost, mode="lines+markers", showlegend=is_top, legendgroup=role,
                        legendgrouptitle={"text": plain(words)},
                        name=plain(task), opacity=1.0 if is_top else 0.6,
                        line={"color": color, "width": 2 if is_top else 1.2, "dash": _DASHES[index % len(_DASHES)]},
                        marker={"size": 8 if is_top else 5, "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
                        error_y={"type": "data", "symmetric": False, "thickness": 1, "color": color, **spread},
                        hovertemplate=f"{plain(task)} · {'top' if is_top else 'random'} %{{x}} heads · costs %{{y:.1%}}"
                        "<extra></extra>",
                    ),
                    1, column,
                )  # fmt: skip
        figure.add_hline(y=line, line={"color": t.baseline, "dash": "dash", "width": 1}, row=1, col=column)  # type: ignore[arg-type]
        if k is not None:
            figure.add_vline(x=k, line={"color": t.baseline, "dash": "dot", "width": 1.5}, row=1, col=column)  # type: ignore[arg-type]
    figure.update_yaxes(range=[-0.12, 1.03], tickformat=".0%")
    figure.update_yaxes(title="right answers lost", row=1, col=1)
    figure.update_xaxes(title="heads (grey: random, same layers)", dtick=1)
    finish(figure, dark, title, height=470, legend={"orientation": "v", "groupclick": "toggleitem"})
    figure.update_layout(legend={"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"})
    return figure.update_layout(margin={"t": 80 if title else 40, "b": 56})
