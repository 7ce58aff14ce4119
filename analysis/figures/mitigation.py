"""What a method does to descriptions and answers, against its strength."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import finish, plain, theme

_PANELS = (
    ("CHAIR_S", "descriptions with an object that is not there", ".0%"),
    ("recall", "objects that are mentioned", ".0%"),
    ("right", "questions answered right", ".0%"),
    ("words", "words in a description", ".0f"),
)


def mitigation_figure(
    table: pd.DataFrame,
    *,
    neutral: float,
    published: float,
    strength: str,
    control: str,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw four panels over one strength: less in the first is better, if the others hold.

    Args:
        table: Columns `arm` (`chosen`, `random`, `lower threshold`), `draw`, `strength`, and `CHAIR_S`, `recall`,
            `right`, `words`, each with `_low` and `_high`.
        neutral: The strength that changes nothing; a dashed line.
        published: The paper's; a dotted line.
        strength: Words under the axes.
        control: What the random arm is, in words.
        title: Above the panels.
        dark: For a dark page.
    """
    t = theme(dark)
    figure = make_subplots(
        2,
        2,
        subplot_titles=[plain(words) for _, words, _ in _PANELS],
        vertical_spacing=0.18,
        horizontal_spacing=0.1,
    )
    own = table[table["arm"] == "chosen"].sort_values(by="strength")  # type: ignore[call-overload]
    others, lowered = (table[table["arm"] == arm] for arm in ("random", "lower threshold"))
    at_rest = own[own.strength == neutral]
    for index, (name, words, form) in enumerate(_PANELS):
        row, column = index // 2 + 1, index % 2 + 1
        for draw, rows in others.groupby("draw"):
            line = pd.concat([rows, at_rest]).sort_values(by="strength")  # type: ignore[call-overload]
            figure.add_trace(
                go.Scatter(
                    x=line.strength, y=line[name], mode="lines+markers", name=plain(control), legendgroup="random",
                    showlegend=index == 0 and bool(draw == others.draw.min()), opacity=0.7,
                    line={"color": t.controls[0], "width": 1.2, "dash": "dash"}, marker={"size": 5, "symbol": "square"},
                    hovertemplate=f"random · strength %{{x:g}} · {plain(words)} %{{y:{form}}}<extra></extra>",
                ),
                row, column,
            )  # fmt: skip
        spread = {"array": own[f"{name}_high"] - own[name], "arrayminus": own[name] - own[f"{name}_low"]}
        if len(lowered):
            line = pd.concat([lowered, at_rest]).sort_values(by="strength")  # type: ignore[call-overload]
            figure.add_trace(
                go.Scatter(
                    x=line.strength, y=line[name], mode="lines+markers", name="with a lower threshold (ours)",
                    legendgroup="lowered", showlegend=index == 0,
                    line={"color": t.controls[1], "width": 2, "dash": "dot"}, marker={"size": 7, "symbol": "diamond"},
                    error_y={
                        "type": "data", "symmetric": False, "thickness": 1, "color": t.controls[1],
                        "array": line[f"{name}_high"] - line[name], "arrayminus": line[name] - line[f"{name}_low"],
                    },
                    hovertemplate=f"lower threshold · strength %{{x:g}} · {plain(words)} %{{y:{form}}}<extra></extra>",
                ),
                row, column,
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=own.strength, y=own[name], mode="lines+markers", name="the method", legendgroup="chosen",
                showlegend=index == 0, line={"color": t.accent, "width": 2.5}, marker={"size": 8},
                error_y={"type": "data", "symmetric": False, "thickness": 1, "color": t.accent, **spread},
                hovertemplate=f"strength %{{x:g}} · {plain(words)} %{{y:{form}}}<extra></extra>",
            ),
            row, column,
        )  # fmt: skip
        marks = {neutral: {"color": t.baseline, "dash": "dash", "width": 1}}
        marks.setdefault(published, {"color": t.accent, "dash": "dot", "width": 1.5})
        for x, line in marks.items():
            figure.add_vline(x=x, line=line, row=row, col=column)  # type: ignore[arg-type]
        if form == ".0%":
            figure.update_yaxes(range=[-0.03, 1.03], tickformat=form, row=row, col=column)
        else:
            figure.update_yaxes(rangemode="tozero", row=row, col=column)
    for column in (1, 2):
        figure.update_xaxes(title=plain(strength), row=2, col=column)
    finish(figure, dark, title, height=660, legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0})
    # Panels have titles of their own, below the figure's.
    return figure.update_layout(margin={"t": 90 if title else 40, "b": 90})
