"""Scores that lie in a folder of runs, for one model, and one head's line in many scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import HeadscopeError
from ..hooks.heads import Head
from ..hooks.info import ModelInfo
from .files import read_json
from .scores import HeadScores
from .verification import TOP, Verification

_MOST = 500  # entries of a folder that are looked at


def runs_of(folder: str | Path, model: ModelInfo) -> dict[str, Path]:
    """Find the runs of a model in a folder, by name; those that cannot be read are passed over.

    A run counts if it was made with the same weights and head counts. Links that lead out of the folder are not
    followed.
    """
    folder = Path(folder).resolve()
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for entry in sorted(folder.iterdir())[:_MOST]:
        manifest = entry / "manifest.json"
        if not manifest.is_file() or not manifest.resolve().is_relative_to(folder):
            continue
        try:
            made = read_json(manifest).get("model")
        except HeadscopeError:
            continue
        if not isinstance(made, dict):
            continue
        same = (made.get("digest"), made.get("n_layers"), made.get("n_heads"))
        if same == (model.digest, model.n_layers, model.n_heads) and (entry / "scores.json").is_file():
            found[entry.name] = entry
    return found


def head_table(scores: Mapping[str, HeadScores | None], head: Head) -> pd.DataFrame:
    """Collect one head's line from many scores.

    Args:
        scores: By name; None where a score was not run.
        head: The head.

    Returns:
        One row per score, in the order given: `name`, `score`, `low`, `high`, `chance`, `p`, `q`, `n`, `rank` (1 is
        the first of `leading`), `of` (heads that have this score), `ran`, `causal`. All numbers are NaN
        where it was not run.
    """
    rows = []
    for name, one in scores.items():
        if one is None:
            rows.append({"name": name, "ran": False, "causal": False})
            continue
        table = one.table()
        here = table[(table["layer"] == head.layer) & (table["head"] == head.index)]
        line = here.iloc[0]
        ran = bool(np.isfinite(line["score"]))
        order = leading(one, len(table)).index.tolist()
        rows.append(
            {
                "name": name,
                **{column: line[column] for column in ("score", "low", "high", "p", "q", "n")},
                "chance": _mean(one.chance),
                "rank": order.index(here.index[0]) + 1 if ran else np.nan,
                "of": int(np.isfinite(one.values).sum()),
                "ran": ran,
                "causal": one.causal,
            }
        )
    columns = ["name", "score", "low", "high", "chance", "p", "q", "n", "rank", "of", "ran", "causal"]
    return pd.DataFrame(rows, columns=columns)


def by_size(scores: HeadScores) -> bool:
    """Whether heads are ordered by the size of the score: an effect far below zero is no small one."""
    return scores.method.endswith("-effect")


def leading(scores: HeadScores, k: int) -> pd.DataFrame:
    """Return the first k rows of the table: highest score first, effects by their size."""
    table = scores.table().dropna(subset=["score"])
    if by_size(scores):
        table = table.sort_values("score", key=np.abs, ascending=False, kind="stable")
    return table.head(k)


def standing(scores: HeadScores, check: Verification | None, head: Head) -> str:
    """Say in words what is known about one head's score: from attention, from an intervention, or checked.

    A causal check is about the heads that it changed, so a head that was not among them stays unchecked.
    """
    if by_size(scores):
        return "from an intervention"
    if check is None:
        return "confirmed by intervention" if scores.causal else "from attention alone"
    changed = max((arm.heads for arm in check.arms if arm.name == TOP), key=len, default=())
    if head in changed:
        place = f"number {changed.index(head) + 1} of the {len(changed)} heads that the causal check changed"
        return f"{place}; its verdict on the score: {check.judgement}"
    return "from attention alone; the causal check changed other heads"


def grids(scores: HeadScores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ends of the intervals and the number of prompts as grids, layer by head."""
    table = scores.table().sort_values(["layer", "head"])
    low, high, n = (table[name].to_numpy().reshape(scores.values.shape) for name in ("low", "high", "n"))
    return low, high, n


def _mean(chance: np.ndarray | None) -> float:
    if chance is None or not np.isfinite(chance).any():
        return float("nan")
    return float(np.nanmean(chance))
