"""Colours, the two plotly templates, and how foreign text enters a figure.

Every figure names its template and its background, so it reads the same in a notebook, in the app and in a
report, whatever theme surrounds it. Colours are chosen to differ in lightness, not in hue alone, so they hold
for colour-blind readers and on a grey printer.
"""

import html
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from ...printable import printable

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Theme:
    """The colours of one side of the light switch."""

    name: str
    background: str
    text: str
    faint: str  # axis lines, grids
    missing: str  # fill of a cell that was not run
    mark: str  # the cross on it
    accent: str  # the thing in question
    controls: tuple[str, ...]  # what it is compared with
    baseline: str
    sequential: tuple[str, ...]  # from nothing (near the background) to much
    diverging: tuple[str, ...]  # negative, zero (near the background), positive


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1c2430",
    faint="#dfe3e8",
    missing="#d4d7dc",
    mark="#7a828e",
    accent="#b3400f",
    controls=("#1f6fb2", "#6b7280"),
    baseline="#1c2430",
    sequential=("#f2f5f7", "#c9e2da", "#7fc0bb", "#3b8fa9", "#21608f", "#1b2f66"),
    diverging=("#1b4f9c", "#7fb0dc", "#f5f5f3", "#eba173", "#a6340b"),
)
DARK = Theme(
    name="dark",
    background="#0e1117",
    text="#e6e9ee",
    faint="#2b313b",
    missing="#3b414b",
    mark="#9aa3af",
    accent="#ff9a5a",
    controls=("#6db3f2", "#a3acb8"),
    baseline="#e6e9ee",
    sequential=("#171c26", "#1e3a5c", "#1f6a8a", "#38a093", "#9bd27a", "#fbf3a4"),
    diverging=("#8cc4ff", "#2f6aa8", "#1d222b", "#b3602f", "#ffb27d"),
)


def theme(dark: bool) -> Theme:
    """The colours for a dark or a light page."""
    return DARK if dark else LIGHT


def colorscale(colours: tuple[str, ...]) -> list[list]:
    """Spread colours evenly over plotly's [0, 1] scale."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def template(dark: bool) -> go.layout.Template:
    """The plotly template of Headscope's figures."""
    t = theme(dark)
    axis = {
        "gridcolor": t.faint,
        "linecolor": t.faint,
        "zerolinecolor": t.faint,
        "automargin": True,
        "ticks": "",
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": t.text},
            "paper_bgcolor": t.background,
            "plot_bgcolor": t.background,
            "colorway": [t.accent, *t.controls],
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": t.background,
                "bordercolor": t.mark,
                "font": {"family": FONT, "size": 13, "color": t.text},
                "align": "left",
                "namelength": -1,
            },
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
            "margin": {"l": 8, "r": 8, "t": 40, "b": 8, "pad": 2},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "xanchor": "left", "x": 0},
            "hovermode": "closest",
        }
    )


def finish(figure: go.Figure, dark: bool, title: str | None, **layout) -> go.Figure:
    """Give a figure its template, its title and its layout."""
    margin = {"t": 48 if title else 16}
    figure.update_layout(template=template(dark), margin=margin, **layout)
    if title:
        figure.update_layout(title={"text": plain(title)})
    return figure


def plain(text: object) -> str:
    """Escape text for plotly, which renders a subset of HTML in titles, ticks and hover.

    Quotes stay: plotly does not know `&quot;` and would print it. Letters that would be obeyed or not be seen are
    written out, see `printable`.
    """
    return html.escape(printable(text), quote=False)


def visible(token: str) -> str:
    """Show the white space in a token: an outer blank as `·`, a break as `↵`, a tab as `⇥`, others by code."""
    core = token.strip(" ")
    left = len(token) - len(token.lstrip(" "))
    right = len(token) - left - len(core) if core else 0
    text = "·" * left + core + "·" * right
    return printable(text.replace("\r\n", "↵").replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥"))


def number(value: float) -> str:
    """Two decimals, or three significant digits where two decimals would show nothing."""
    if not np.isfinite(value):
        return "not run"
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"


def interval(value: float, low: float | None = None, high: float | None = None) -> str:
    """`0.93 [0.91, 0.95]`, or the value alone where no interval is known."""
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high)):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"
