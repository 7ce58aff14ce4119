"""What a causal check found: every arm's values per prompt, and what they say in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..errors import BadRun
from ..hooks.heads import Head
from .files import read_json, read_table, write_json, write_table
from .scores import FROM_ATTENTION, UNNAMED, HeadScores, Source
from .statistics import binomial_interval, bootstrap_mean, sign_flip
from .verdict import Judgement, judge

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TOP = "top"
_CLEAN = "clean"
_CHECKED = "Causal check:"
_FORMAT = "headscope-verification/1"


@dataclass(frozen=True, eq=False)
class Arm:
    """One set of heads that was changed, and what the metric was then.

    Attributes:
        name: `top`, or the name of a control.
        k: Number of heads.
        draw: 0 for the top heads, 1 and up for the draws of a control.
        heads: The heads.
        values: The metric on each prompt.
    """

    name: str
    k: int
    draw: int
    heads: tuple[Head, ...]
    values: Float[np.ndarray, " prompt"]


@dataclass(frozen=True, eq=False)
class Verification:
    """A causal check of head scores: the top k heads changed, beside random heads changed.

    Attributes:
        clean: The metric on each prompt with nothing changed.
        arms: All sets of heads that were changed.
        metric: Name of the metric.
        how: The intervention, in words.
        phase: Where it acted: `prefill`, `decode` or `all`.
        method: The method whose scores were checked.
        model: Name and weight digest of the model.
        data: Name and content digest of the prompts.
        seed: Of the random heads and the intervals.
        margin: The smallest difference worth calling one, in the metric's unit.
        notes: What could not be done as asked.
    """

    clean: Float[np.ndarray, " prompt"]
    arms: tuple[Arm, ...]
    metric: str
    how: str
    phase: str
    method: str
    model: Source = UNNAMED
    data: Source = UNNAMED
    seed: int = 0
    margin: float = 0.1
    notes: tuple[str, ...] = field(default=())

    @property
    def baseline(self) -> float:
        """The metric with nothing changed, mean over prompts."""
        return float(np.nanmean(self.clean))

    @property
    def judgement(self) -> Literal["causal", "redundant", "not causal", "cannot tell"]:
        """The verdict in one term; see `analysis.verdict` for its rules."""
        return self._judged.judgement

    @property
    def verdict(self) -> str:
        """The verdict in words, with the numbers it rests on."""
        return self._judged.words

    def __repr__(self) -> str:
        return f"Verification({self.method} of {self.model}: {self.verdict})"

    def table(self) -> pd.DataFrame:
        """Return one row per set of heads that was changed.

        Columns: `arm`, `k`, `draw` (0 for the top heads); `n`, prompts; `value`, the metric; `effect`, its change
        against nothing changed; `low`, `high`, 95 % bootstrap interval of the effect over prompts; `p`, sign-flip test
        of the effect; `heads`.
        """
        rows = []
        for arm in self.arms:
            rows.append(
                {
                    "arm": arm.name,
                    "k": arm.k,
                    "draw": arm.draw,
                    **self._effect(arm.values),
                    "heads": " ".join(map(str, arm.heads)),
                }
            )
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Return one row per arm and k; a control's draws are averaged for each prompt.

        Columns: those of `table`, with `draws` for their number; `value_low`, `value_high`, 95 % interval of the value
        (exact binomial for a single 0-or-1 measurement per prompt, bootstrap otherwise), and for controls `excess`:
        how much further than this control the top heads move the metric, in the direction in which they move it, with
        `excess_low`, `excess_high` and the paired test `excess_p`.
        """
        return self._summary.copy()

    def figure(self, *, dark: bool = False) -> Figure:
        """Draw the metric against k: top heads, controls with their single draws, and nothing changed."""
        from .figures import causal_curve

        summary = self._summary
        ends = summary.assign(low=summary["value_low"], high=summary["value_high"])
        pooled = ends.set_index(["arm", "k"])[["low", "high"]]
        table = self.table().drop(columns=["low", "high"]).join(pooled, on=["arm", "k"])
        return causal_curve(table, baseline=self.baseline, metric=self.metric.replace("_", " "), dark=dark)

    def mark(self, scores: HeadScores) -> HeadScores:
        """Return the scores with this check's verdict as their last note; `causal` if it confirms them."""
        notes = [one for one in scores.notes if one != FROM_ATTENTION and not one.startswith(_CHECKED)]
        return replace(
            scores,
            causal=self.judgement in ("causal", "redundant"),
            notes=(*notes, f"{_CHECKED} {self.verdict}"),
        )

    def save(self, folder: str | Path) -> Path:
        """Write `verification.parquet` (every value) and, last, `verification.json` into a folder.

        Raises:
            CannotWrite: The folder cannot be written; no partial file is left.
        """
        folder = Path(folder)
        parts = [(_CLEAN, 0, 0, self.clean), *((arm.name, arm.k, arm.draw, arm.values) for arm in self.arms)]
        frames = [
            pd.DataFrame(
                {"arm": name, "k": k, "draw": draw, "prompt": np.arange(len(values)), "value": values}
            )
            for name, k, draw, values in parts
        ]
        write_table(folder / "verification.parquet", pd.concat(frames, ignore_index=True))
        meta = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in ("metric", "how", "phase", "method", "seed", "margin")},
            "model": self.model._asdict(),
            "data": self.data._asdict(),
            "notes": self.notes,
            "arms": [
                {"arm": arm.name, "k": arm.k, "draw": arm.draw, "heads": list(map(str, arm.heads))}
                for arm in self.arms
            ],
            "judgement": self.judgement,
            "verdict": self.verdict,
        }
        write_json(folder / "verification.json", meta)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Verification:
        """Read what `save` wrote. Only JSON and parquet are read; the verdict is derived again.

        Raises:
            BadRun: A file is missing, unreadable, or does not fit the other.
        """
        path = Path(folder) / "verification.json"
        meta = read_json(path)
        if meta.get("format") != _FORMAT:
            raise BadRun(
                f"{path}: format {meta.get('format')!r}, expected {_FORMAT!r}. Check the scores again."
            )
        table = read_table(path.with_suffix(".parquet"))
        try:
            values = {
                _key(key): group.sort_values("prompt")["value"].to_numpy(dtype=np.float64)
                for key, group in table.groupby(["arm", "k", "draw"])
            }
            clean = values.pop((_CLEAN, 0, 0))
            arms = tuple(
                Arm(
                    one["arm"],
                    int(one["k"]),
                    int(one["draw"]),
                    tuple(map(Head.parse, one["heads"])),
                    values.pop(_key((one["arm"], one["k"], one["draw"]))),
                )
                for one in meta["arms"]
            )
            if values or any(len(arm.values) != len(clean) or len(arm.heads) != arm.k for arm in arms):
                raise ValueError("arms, heads and values do not fit each other")
            return cls(
                clean,
                arms,
                *(str(meta[name]) for name in ("metric", "how", "phase", "method")),
                model=Source(**meta["model"]),
                data=Source(**meta["data"]),
                seed=int(meta["seed"]),
                margin=float(meta["margin"]),
                notes=tuple(map(str, meta["notes"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadRun(
                f"{path}: {type(error).__name__}: {error}. The file is damaged: check the scores again."
            ) from error

    @cached_property
    def _judged(self) -> Judgement:
        return judge(
            self._summary,
            clean=self.clean,
            heads=next((arm.heads for arm in reversed(self.arms) if arm.name == TOP), ()),
            metric=self.metric,
            how=self.how,
            margin=self.margin,
        )

    @cached_property
    def _summary(self) -> pd.DataFrame:
        top = {arm.k: arm.values for arm in self.arms if arm.name == TOP}
        rows = []
        for name, k in dict.fromkeys((arm.name, arm.k) for arm in self.arms):
            draws = np.stack([arm.values for arm in self.arms if (arm.name, arm.k) == (name, k)])
            values = draws.mean(axis=0)
            ends = self._value_interval(values)
            row: dict[str, Any] = {"arm": name, "k": k, "draws": len(draws), **self._effect(values)}
            row |= {"value_low": ends[0], "value_high": ends[1]}
            if name != TOP and k in top:
                row |= self._excess(top[k], values)
            rows.append(row)
        empty = ["excess", "excess_low", "excess_high", "excess_p"]
        return pd.DataFrame(rows).reindex(columns=[*_SUMMARY, *empty])

    def _effect(self, values: Float[np.ndarray, " prompt"]) -> dict[str, Any]:
        effects = values - self.clean
        interval = bootstrap_mean(effects, seed=self.seed)
        return {
            "n": int(np.isfinite(effects).sum()),
            "value": _mean(values),
            "effect": _mean(effects),
            "low": float(interval.low),
            "high": float(interval.high),
            "p": float(sign_flip(effects, seed=self.seed)),
        }

    def _excess(
        self, top: Float[np.ndarray, " prompt"], control: Float[np.ndarray, " prompt"]
    ) -> dict[str, float]:
        direction = -1.0 if _mean(top - self.clean) < 0 else 1.0
        excess = direction * (top - control)
        interval = bootstrap_mean(excess, seed=self.seed)
        return {
            "excess": _mean(excess),
            "excess_low": float(interval.low),
            "excess_high": float(interval.high),
            "excess_p": float(sign_flip(excess, seed=self.seed)),
        }

    def _value_interval(self, values: Float[np.ndarray, " prompt"]) -> tuple[float, float]:
        here = values[np.isfinite(values)]
        if np.isin(here, (0.0, 1.0)).all():
            return binomial_interval(int(here.sum()), len(here))
        interval = bootstrap_mean(values, seed=self.seed)
        return float(interval.low), float(interval.high)


_SUMMARY = ["arm", "k", "draws", "n", "value", "value_low", "value_high", "effect", "low", "high", "p"]


def _key(key: Any) -> tuple[str, int, int]:
    arm, k, draw = key
    return str(arm), int(k), int(draw)


def _mean(values: Float[np.ndarray, " prompt"]) -> float:
    here = values[np.isfinite(values)]
    return float(here.mean()) if len(here) else float("nan")
