"""Write the scores of runs and jobs as one table, for other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..analysis.csv_text import csv_text
from ..analysis.files import jsonable, read_table, write_atomically, write_table
from ..analysis.run import Run
from ..errors import BadOption, BadRun, nearest
from .listing import Opened, latest

FORMS = ("csv", "parquet", "json", "headvis")


def scores_table(opened: Sequence[Opened]) -> pd.DataFrame:
    """Put the scores of runs and jobs into one long table.

    A job's rows are those of its own `scores.parquet`; a run's have the same columns. `run` is the folder's name;
    `missing` counts prompts that a failed unit did not deliver; a head that was not run is NaN.
    """
    tables = []
    for one in opened:
        parts = [read_table(one.folder / "scores.parquet")] if one.is_job else map(_rows, one.runs)
        tables += [part.assign(run=one.name) for part in parts]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "run", table.pop("run"))
    return table


def other_table(opened: Opened, name: str) -> pd.DataFrame:
    """Return another table of a job or run by the name of its file, such as `verify` or `samples`.

    Raises:
        BadRun: There is no such table; those that there are are named.
    """
    path = opened.folder / f"{name}.parquet"
    tables = sorted(one.stem for one in opened.folder.glob("*.parquet"))
    if path.name not in {f"{one}.parquet" for one in tables}:
        raise BadRun(f"{opened.folder}: no table {name}.{nearest(name, tables)}")
    return read_table(path)


def write_as(path: str | Path, table: pd.DataFrame, form: str) -> Path:
    """Write a table as `csv` (see `csv_text`), `parquet` or `json` (a list of rows; NaN is null).

    Raises:
        BadOption: There is no such form.
        CannotWrite: The system refused; no part of the file is left.
    """
    path = Path(path)
    if form == "csv":
        return write_atomically(path, csv_text(table))
    if form == "parquet":
        return write_table(path, table)
    if form == "json":
        rows = jsonable(table.to_dict("records"))
        return write_atomically(path, json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    raise BadOption(f"{form}: no such form of a table.{nearest(form, FORMS[:-1])}")


def trees(opened: Sequence[Opened], out: Path) -> list[tuple[Path, list[Run]]]:
    """Group the scores of runs and jobs into HeadVis trees, one for each model and prompt set.

    Args:
        opened: What `open_folder` gave.
        out: The folder of the only tree; of several, each is in `out/<model>/<prompts>`.

    Raises:
        BadRun: There is no score in them.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for one in opened:
        for run in latest(one.runs):
            groups.setdefault((run.scores.model.digest, run.scores.data.digest), []).append(run)
    if not groups:
        raise BadRun("There is no score in it to export.")
    if len(groups) == 1:
        return [(out, next(iter(groups.values())))]
    found, taken = [], set()
    for (weights, data), group in groups.items():
        model, prompts = (slug(source.name) for source in (group[0].scores.model, group[0].scores.data))
        place = out / model / prompts
        if place in taken:
            place = out / f"{model}-{weights[:6]}" / f"{prompts}-{data[:6]}"
        taken.add(place)
        found.append((place, group))
    return found


def slug(name: str) -> str:
    """Write a name as Neuronpedia writes its ids: small letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.") or "run"


def _rows(run: Run) -> pd.DataFrame:
    """The rows that a job's table would have of this run."""
    scores, model = run.scores, run.manifest["model"]
    options = {key: getattr(value, "__name__", value) for key, value in scores.options.items()}
    known: dict[str, Any] = {
        "step": "score",
        "model": scores.model.name,
        "model_digest": scores.model.digest,
        "dtype": model.get("dtype", ""),
        "method": scores.method,
        "options": json.dumps(jsonable(options), sort_keys=True),
        "data": scores.data.name,
        "data_digest": scores.data.digest,
        "seed": scores.seed,
    }
    table = scores.table()
    for place, (name, value) in enumerate(known.items()):
        table.insert(place, name, value)
    return table.assign(missing=0)
