"""What a study of a steering method found: a dose-response curve, its controls, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..figures.dose import dose_response
from ..files import jsonable, write_atomically, write_json, write_table
from ..scores import Source
from ..statistics import binomial_interval, bootstrap_mean, sign_flip
from .methods import Candidate

CLEAN, CHOSEN = "clean", "chosen"

_MOST_SETTINGS = 6  # values of a number that a table shows one by one


@dataclass(frozen=True)
class Arm:
    """What one changed model answered.

    Attributes:
        name: `clean`, `chosen`, or a control such as `random heads`.
        candidate: Label of the candidate.
        draw: Number of the random set; 0 for the others.
        strength: Of the method.
        answers: One row per prompt: the parts of its label, `right`, `lured`, `text`.
        perplexity: Of this changed model on neutral text; NaN without any.
        heads: The chosen heads, or the random ones in their place, in words; empty where only something else is random.
    """

    name: str
    candidate: str
    draw: int
    strength: float
    answers: Any  # pd.DataFrame
    perplexity: float
    heads: str = ""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.answers["right"].mean())

    def row(self) -> dict[str, Any]:
        """Return a row of the table."""
        n, right = len(self.answers), int(self.answers["right"].sum())
        low, high = binomial_interval(right, n)
        return {
            "arm": self.name,
            "candidate": self.candidate,
            "heads": self.heads,
            "draw": self.draw,
            "strength": self.strength,
            "n": n,
            "right": right,
            "accuracy": right / n,
            "low": low,
            "high": high,
            "lured": float(self.answers["lured"].mean()),
            "perplexity": self.perplexity,
        }


@dataclass(frozen=True)
class Study:
    """A steering method, chosen in training and measured on held-out prompts.

    Attributes:
        method: Its name.
        target: What counts as right.
        by: Parts of the prompts' labels that `settings` keeps apart.
        candidate: What was chosen.
        strength: The strength that was chosen in training; `neutral` if none did better than doing nothing.
        neutral: The strength that does nothing.
        train: What was tried; the clean model first.
        arms: What was measured on held-out prompts; the clean model first.
        model, trained_on, data: What it was done with.
        seed: Of prompts, fits and controls.
        notes: What could not be done as asked.
        limit: How many times the clean perplexity of neutral text a chosen strength could cost; None for any.
    """

    method: str
    target: str
    by: tuple[str, ...]
    candidate: Candidate
    strength: float
    neutral: float
    train: tuple[Arm, ...]
    arms: tuple[Arm, ...]
    model: Source
    trained_on: Source
    data: Source
    seed: int
    notes: tuple[str, ...] = ()
    limit: float | None = None

    def table(self) -> pd.DataFrame:
        """Return one row per split, arm, draw and strength.

        Columns: `split`, `arm`, `candidate`, `heads` (see `Arm`), `draw`, `strength`, `n`,
        `right`, `accuracy` with its exact 95 % interval `low` and `high`, `lured` (the share answered with the foil or
        a distractor), `perplexity` on neutral text.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        rows = [{"split": "train", **arm.row()} for arm in self.train]
        rows += [{"split": "test", **arm.row()} for arm in self.arms]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Return, for each arm at the chosen strength, the change of accuracy against the clean model.

        Columns: `arm`, `draws`, `accuracy`, `effect` (difference of shares of right answers on the same prompts; random
        draws as their mean), `low`, `high` (95 % bootstrap interval over prompts), `p` (sign flips), `lowest`, `median`
        and `highest` draw, `foremost` (the heads of the highest), `lured`, `perplexity`; `broken`, how many draws cost
        more than `limit` times the clean perplexity, and `unbroken`, the effect of the others, NaN for none. What
        breaks a model may change its answers in any direction, so both means belong beside the chosen arm, which is
        held to the limit.
        """
        clean = self.arms[0]
        before = clean.answers["right"].to_numpy(float)
        rows = []
        for name in dict.fromkeys(arm.name for arm in self.arms[1:]):
            arms = [arm for arm in self.arms if arm.name == name and arm.strength == self.strength]
            arms = arms or [clean]
            effects = np.stack([arm.answers["right"].to_numpy(float) - before for arm in arms])
            mean = effects.mean(0)
            interval = bootstrap_mean(mean, seed=self.seed)
            each = effects.mean(1)
            whole = np.array([not self._breaks(arm) for arm in arms])
            rows.append(
                {
                    "arm": name,
                    "draws": len(arms),
                    "accuracy": float(before.mean() + mean.mean()),
                    "effect": float(mean.mean()),
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "p": float(sign_flip(mean, seed=self.seed)),
                    "lowest": float(each.min()),
                    "median": float(np.median(each)),
                    "highest": float(each.max()),
                    "foremost": arms[int(each.argmax())].heads,
                    "lured": float(np.mean([arm.answers["lured"].mean() for arm in arms])),
                    "perplexity": float(np.mean([arm.perplexity for arm in arms])),
                    "broken": int((~whole).sum()),
                    "unbroken": float(each[whole].mean()) if whole.any() else float("nan"),
                }
            )
        return pd.DataFrame(rows)

    def settings(self) -> pd.DataFrame:
        """Return accuracy of each arm at the chosen strength for every setting that the prompts were written in.

        Where no strength was chosen, at that with the most right answers in training. A number with more than six
        values, such as a depth, is cut into thirds of its range.

        Columns: `by`, `setting`, `arm`, `strength`, `draws`, `n`, `accuracy` (of random draws their mean), `effect` on
        accuracy against the clean model on the same prompts, `low` and `high`, the 95 % bootstrap interval over
        prompts of the effect, or for the clean model the exact one of its accuracy; `lured`.
        """
        rows = []
        clean = self.arms[0].answers
        before = clean["right"].to_numpy(float)
        for part in self.by:
            values = _binned(clean[part])
            for name in dict.fromkeys(arm.name for arm in self.arms):
                arms = [
                    arm.answers for arm in self.arms if arm.name == name and arm.strength == self._at(name)
                ]
                if not arms:
                    continue
                right = np.mean([one["right"].to_numpy(float) for one in arms], axis=0)
                lured = np.mean([one["lured"].to_numpy(float) for one in arms], axis=0)
                for value, group in clean.groupby(values, sort=True, observed=True):
                    own = group.index.to_numpy()
                    low, high = (
                        binomial_interval(int(right[own].sum()), len(own))
                        if name == CLEAN
                        else _interval(right[own] - before[own], self.seed)
                    )
                    rows.append(
                        {
                            "by": part,
                            "setting": value if isinstance(value, str) else f"{value:g}",
                            "arm": name,
                            "strength": self._at(name),
                            "draws": len(arms),
                            "n": len(own),
                            "accuracy": float(right[own].mean()),
                            "effect": float((right - before)[own].mean()),
                            "low": low,
                            "high": high,
                            "lured": float(lured[own].mean()),
                        }
                    )
        return pd.DataFrame(rows)

    def conclusion(self) -> str:
        """Say in sentences what was found."""
        clean = self.arms[0].row()
        what = f"{self.method} on {self.data.name} ({clean['n']} held-out prompts; right is {self.target})"
        if self.strength == self.neutral:
            return (
                f"{what}: no strength that was tried gave more right answers in training than doing nothing "
                f"({_percent(clean['accuracy'])} right on the held-out prompts), so it does not help here."
            )
        table = self.summary()
        own: Any = table[table["arm"] == CHOSEN].iloc[0]
        heads = _named(self.candidate)
        text = (
            f"{what}: at strength {self.strength:g}, chosen in training, {_percent(own['accuracy'])} are right "
            f"(clean {_percent(clean['accuracy'])}; {100 * own['effect']:+.0f} points, 95 % interval "
            f"{100 * own['low']:+.0f} to {100 * own['high']:+.0f}){heads}."
        )
        others: Any = table[table["arm"] != CHOSEN]
        for row in others.itertuples(index=False):
            text += (
                f" {str(row.arm).capitalize()}: {100 * row.effect:+.0f} points, {100 * row.low:+.0f} to "
                f"{100 * row.high:+.0f} ({row.draws} draws from {100 * row.lowest:+.0f} to {100 * row.highest:+.0f}"
                + (f", {row.foremost}" if row.foremost and row.draws > 1 else "")
                + (f"; median {100 * row.median:+.0f}" if row.draws > 2 else "")
            )
            if row.broken:
                rest = f": {100 * row.unbroken:+.0f} points without" if row.broken < row.draws else ""
                text += f"; {row.broken} cost more than {self.limit:g} times the perplexity{rest}"
            text += ")."
        if np.isfinite(own["perplexity"]):
            text += f" Perplexity of neutral text {own['perplexity']:.3g} (clean {clean['perplexity']:.3g})."
        return text

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw right answers and perplexity against strength, on held-out prompts."""
        table = self.table()
        return dose_response(
            table[table["split"] == "test"],
            neutral=self.neutral,
            chosen=self.strength,
            strength=f"strength: {self.candidate.preset.strength}",
            title=f"{self.method} of {self.model.name}",
            dark=dark,
        )

    def save(self, folder: str | Path) -> Path:
        """Write `steering.parquet`, `settings.parquet`, `answers.parquet`, `steering.json`, `steering.html` and, where
        there are any, `directions.safetensors` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder = Path(folder)
        write_table(folder / "steering.parquet", self.table())
        write_table(folder / "settings.parquet", self.settings())
        texts = [
            arm.answers[["right", "lured", "text"]]
            .rename_axis("prompt")
            .reset_index()
            .assign(arm=arm.name, draw=arm.draw, strength=arm.strength)
            for arm in self.arms
        ]
        write_table(folder / "answers.parquet", pd.concat(texts, ignore_index=True))
        write_json(folder / "steering.json", jsonable(self.record()))
        if self.candidate.directions is not None:
            self.candidate.directions.save(folder / "directions.safetensors")
        page = self.figure().to_html(include_plotlyjs=True, full_html=True)
        write_atomically(folder / "steering.html", page)
        return folder

    def record(self) -> dict[str, Any]:
        """Return what machines read."""
        return {
            "method": self.method,
            "target": self.target,
            "candidate": self.candidate.label,
            "heads": [str(head) for head in self.candidate.heads],
            "suppressed": [str(head) for head in self.candidate.suppressed],
            "strength": self.strength,
            "neutral": self.neutral,
            "model": self.model._asdict(),
            "trained_on": self.trained_on._asdict(),
            "data": self.data._asdict(),
            "seed": self.seed,
            "summary": self.summary().to_dict("records"),
            "table": self.table().to_dict("records"),
            "settings": self.settings().to_dict("records"),
            "conclusion": self.conclusion(),
            "notes": list(self.notes),
        }

    def _breaks(self, arm: Arm) -> bool:
        return self.limit is not None and arm.perplexity > self.limit * self.arms[0].perplexity

    def _at(self, name: str) -> float:
        if name == CLEAN:
            return self.neutral
        if self.strength != self.neutral:
            return self.strength
        tried = [arm for arm in self.train if arm.candidate == self.candidate.label and arm.name == CHOSEN]
        best = max(tried, key=lambda arm: (arm.accuracy, -abs(arm.strength - self.neutral)), default=None)
        return self.strength if best is None else best.strength


def _interval(effects: Any, seed: int) -> tuple[float, float]:
    found = bootstrap_mean(effects, seed=seed)
    return float(found.low), float(found.high)


def _binned(values: Any) -> Any:
    """Return a setting's values, those of a number with many of them as thirds of its range."""
    if values.dtype.kind not in "fi" or values.nunique() <= _MOST_SETTINGS:
        return values
    low, high = float(values.min()), float(values.max())
    edges = [*(low + (high - low) * third / 3 for third in range(3)), high]
    words = [f"{a:.2g} to {b:.2g}" for a, b in pairwise(edges)]
    return pd.cut(values, edges, labels=words, include_lowest=True)


def _named(candidate: Candidate) -> str:
    heads = candidate.named()
    if not heads:
        return f", with {candidate.label}" if candidate.label else ""
    why = f" ({candidate.label})" if candidate.label else ""
    return f", with {'heads ' if candidate.heads else ''}{heads}{why}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"
