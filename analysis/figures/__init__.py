"""Plotly figures from plain arrays. No file is read or written here, and no model is run."""

from .curve import ARM_WORDS, causal_curve
from .grid import head_grid
from .pattern import pattern_figure, token_html
from .style import DARK, LIGHT, Theme, interval, number, plain, template, theme, visible
from .top import score_scatter, top_bars

__all__ = [
    "ARM_WORDS",
    "DARK",
    "LIGHT",
    "Theme",
    "causal_curve",
    "head_grid",
    "interval",
    "number",
    "pattern_figure",
    "plain",
    "score_scatter",
    "template",
    "theme",
    "token_html",
    "top_bars",
    "visible",
]
