"""What steps that are one study have in common: its result is kept as table, words and figure, and written as pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..analysis.files import jsonable, write_atomically, write_json, write_table
from .steps import Found, Task


def kept(study: Any, **record: Any) -> Found:
    """Keep a study, which has `table()` and `figure()`, as what a unit gives; `record` is told beside."""
    return Found(study.table(), {"record": jsonable(record), "figure": study.figure().to_json()})


def put_together(task: Task, found: Sequence[Found | None], folder: Path, name: str) -> pd.DataFrame | None:
    """Write `name.parquet`, `name.json` and `name.html` of the only unit; return its table with the model's name."""
    import plotly.io

    [one] = found
    if one is None:
        return None
    write_table(folder / f"{name}.parquet", one.table)
    write_json(folder / f"{name}.json", one.meta["record"])
    figure = plotly.io.from_json(one.meta["figure"])
    write_atomically(folder / f"{name}.html", figure.to_html(include_plotlyjs=True, full_html=True))
    return one.table.assign(model=task.model.name if task.model else "")


def short_name(name: str) -> str:
    """Return the last part of a model's name, for titles."""
    return name.rstrip("/").split("/")[-1]
