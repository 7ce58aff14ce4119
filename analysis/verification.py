"""What a causal check found: every arm's values per prompt, and what they say in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..errors import BadOption, BadRun
from ..hooks.heads import Head
from .files import read_json, read_table, write_json, write_table
from .scores import FROM_ATTENTION, UNNAMED, HeadScores, Source, read_source
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

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise BadOption(
                f"{self.method}: seed is {self.seed}; intervals are drawn with a seed of 0 or more."
            )

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
        table = pd.DataFrame(
            {name: [getattr(arm, name) for arm in self.arms] for name in ("name", "k", "draw")}
        )
        effects = self._effects(np.stack([arm.values for arm in self.arms], axis=1))
        table = pd.concat([table.rename(columns={"name": "arm"}), effects], axis=1)
        return table.assign(heads=[" ".join(map(str, arm.heads)) for arm in self.arms])

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
                model=read_source(meta, "model"),
                data=read_source(meta, "data"),
                seed=int(meta["seed"]),
                margin=float(meta["margin"]),
                notes=tuple(map(str, meta["notes"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise BadRun(
                f"{path}: {type(error).__name__}: {error}. The file is damaged: check the scores again."
            ) from error

    @cached_property
    def _judged(self) -> Judgement:
        return judge(
            self._summary,
            baseline=self.baseline,
            rate=_is_rate(np.stack([self.clean, *(arm.values for arm in self.arms)])),
            heads=next((arm.heads for arm in reversed(self.arms) if arm.name == TOP), ()),
            metric=self.metric,
            how=self.how,
            margin=self.margin,
        )

    @cached_property
    def _summary(self) -> pd.DataFrame:
        draws: dict[tuple[str, int], list[np.ndarray]] = {}
        for arm in self.arms:
            draws.setdefault((arm.name, arm.k), []).append(arm.values)
        means = {key: np.mean(values, axis=0) for key, values in draws.items()}
        table = pd.DataFrame(
            {
                "arm": [arm for arm, _ in means],
                "k": [k for _, k in means],
                "draws": [len(values) for values in draws.values()],
            }
        )
        values = np.stack(list(means.values()), axis=1)
        ends = np.array([self._value_interval(column) for column in values.T])
        effects = self._effects(values).assign(value_low=ends[:, 0], value_high=ends[:, 1])
        # Against each control: how much further the top heads go, in the direction in which they go.
        nothing = np.full(len(self.clean), np.nan)
        top = np.stack([means.get((TOP, k), nothing) if arm != TOP else nothing for arm, k in means], axis=1)
        direction = np.where(_mean(top - self.clean[:, None]) < 0, -1.0, 1.0)
        excess = direction * (top - values)
        low, high = bootstrap_mean(excess, seed=self.seed)
        compared = pd.DataFrame(
            {
                "excess": _mean(excess),
                "excess_low": low,
                "excess_high": high,
                "excess_p": sign_flip(excess, seed=self.seed),
            }
        )
        return pd.concat([table, effects, compared], axis=1)

    def _effects(self, values: Float[np.ndarray, "prompt set"]) -> pd.DataFrame:
        effects = values - self.clean[:, None]
        low, high = bootstrap_mean(effects, seed=self.seed)
        columns = {
            "n": np.isfinite(effects).sum(axis=0),
            "value": _mean(values),
            "effect": _mean(effects),
            "low": low,
            "high": high,
            "p": sign_flip(effects, seed=self.seed),
        }
        return pd.DataFrame(columns)

    def _value_interval(self, values: Float[np.ndarray, " prompt"]) -> tuple[float, float]:
        here = values[np.isfinite(values)]
        if _is_rate(here):
            return binomial_interval(int(here.sum()), len(here))
        interval = bootstrap_mean(values, seed=self.seed)
        return float(interval.low), float(interval.high)


def _key(key: Any) -> tuple[str, int, int]:
    arm, k, draw = key
    return str(arm), int(k), int(draw)


def _is_rate(values: np.ndarray) -> bool:
    """Whether all values are hits and misses."""
    return bool(np.isin(values[np.isfinite(values)], (0.0, 1.0)).all())


def _mean(values: Float[np.ndarray, "prompt set"]) -> Float[np.ndarray, " set"]:
    """Average over the prompts that have a value; NaN where none has."""
    n = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(n > 0, np.nansum(values, axis=0) / n, np.nan)
