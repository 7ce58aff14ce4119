"""Files of what is on a page: its table as CSV and parquet, its figure as HTML and, where it can be drawn, as PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from headscope.analysis.csv_text import csv_text
from headscope.analysis.figures.export import png, png_problem
from headscope.app import widgets

_Offer = tuple[str, Callable[[], bytes], str, str]


@st.cache_data(ttl=60, show_spinner=False)
def no_png() -> str:
    """Why no PNG can be drawn here; empty where it can."""
    return png_problem()


def offer(
    stem: str, *, key: str, table: pd.DataFrame, figure: go.Figure, name: str, report: Path | None = None
) -> None:
    """Draw a button for every kind of file; each is made when it is clicked.

    Args:
        stem: Of the files' names.
        key: Of the widgets.
        table: What CSV and parquet hold.
        figure: What the PNG shows, and the HTML where there is no report.
        name: What the figure is called.
        report: A report that stands in a file.
    """
    page: _Offer = ("Report, HTML", report.read_bytes, "html", "text/html") if report else _page(figure, name)
    offers: list[_Offer] = [
        ("Table, CSV", lambda: csv_text(table).encode(), "csv", "text/csv"),
        ("Table, parquet", lambda: _parquet(table), "parquet", "application/octet-stream"),
        page,
    ]
    problem = no_png()
    if not problem:
        offers.append((f"{name}, PNG", lambda: png(figure), "png", "image/png"))
    for column, (label, data, ending, mime) in zip(st.columns(4), offers, strict=False):
        column.download_button(
            label,
            data=data,
            file_name=f"{stem.replace('/', '-')}.{ending}",
            mime=mime,
            on_click="ignore",
            key=f"{key}_{ending}",
            width="stretch",
            icon=":material/download:",
        )
    if problem:
        st.caption(widgets.md(problem))


def _page(figure: go.Figure, name: str) -> _Offer:
    return (
        f"{name}, HTML",
        lambda: figure.to_html(include_plotlyjs=True).encode(),
        "html",
        "text/html",
    )


def _parquet(table: pd.DataFrame) -> bytes:
    written = table.to_parquet(None, index=False)
    assert isinstance(written, bytes)
    return written
