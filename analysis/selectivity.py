"""Do the top heads of a score matter for some tasks and not for others? What each task loses without them, by k."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..datasets.prompts import PromptSet
from ..errors import BadOption
from ..hooks.heads import Head
from ..hooks.info import describe
from ..hooks.interventions import Intervention, zero
from .files import write_atomically, write_json, write_table
from .scores import FROM_ATTENTION, HeadScores, Source
from .verification import TOP
from .verify import verify

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ASKED, SPARED = "asked", "spared"
TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Selectivity:
    """What tasks lose without the top heads of a score, and without random ones.

    Attributes:
        rows: One row a split, task, arm (`top`, `same-layers`) and k: `role` (`asked`: should suffer; `spared`: should
            not), `n`, `draws`, `clean` and `value`, the shares of right answers, and `cost`, their difference, with its
            paired bootstrap interval over prompts.
        heads: The ranked heads, as many as the largest k.
        k: Chosen by the rule on the training prompts; None where no k reaches it.
        at_least: What tasks that are asked about should lose on average.
        at_most: What spared tasks should lose less than, each.
        how: What was done to the heads.
        method, options: The score.
        model: Name and weight digest.
        seed: Of random heads and intervals.
        notes: What could not be done as asked.
    """

    rows: pd.DataFrame
    heads: tuple[Head, ...]
    k: int | None
    at_least: float
    at_most: float
    how: str
    method: str
    options: Mapping[str, Any]
    model: Source
    seed: int
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return all rows."""
        return self.rows.copy()

    def curve(self, split: str = TEST, arm: str = TOP) -> pd.DataFrame:
        """Return what each task (column) loses by k (row); and the mean over the tasks that are asked about."""
        rows: Any = self.rows[(self.rows["split"] == split) & (self.rows.arm == arm)]
        wide = rows.pivot(index="k", columns="task", values="cost")
        names = {role: list(dict.fromkeys(rows[rows.role == role].task)) for role in (ASKED, SPARED)}
        wide.insert(0, "mean asked", wide[names[ASKED]].mean(axis=1))
        return wide[["mean asked", *names[ASKED], *names[SPARED]]].rename_axis(columns=None)

    def conclusion(self) -> str:
        """Say at which k the rule stopped, what that costs on fresh prompts, and whether the bar holds."""
        rule = f"the fewest whose loss costs the tasks {100 * self.at_least:g} points on average in training"
        if self.k is None:
            most = self.curve(TRAIN)["mean asked"].max()
            return (
                f"No k up to {len(self.heads)} costs {100 * self.at_least:g} points on average in training (at most "
                f"{100 * most:.0f}), so none is chosen."
            )
        own: Any = self.rows[(self.rows["split"] == TEST) & (self.rows.k == self.k)]
        top, others = (own[own.arm == arm].set_index("task") for arm in (TOP, "same-layers"))
        asked, spared = (top[top.role == role] for role in (ASKED, SPARED))
        random = others[others.role == ASKED].cost
        mean = float(asked.cost.mean())
        text = (
            f"{self.how} of the top {self.k} heads by {self.method} ({', '.join(map(str, self.heads[: self.k]))}; "
            f"{rule}) costs on fresh prompts {_list(asked)}, {100 * mean:.0f} points on average"
            + (
                f" (as many random heads of the same layers: {100 * random.mean():.0f})"
                if len(random)
                else ""
            )
            + f", and of what should stay {_list(spared)}."
        )
        hurt = [str(task) for task, cost in spared.cost.items() if cost >= self.at_most]
        reached = mean >= self.at_least
        text += f" At least {100 * self.at_least:g} points on average: {'yes' if reached else 'no'}; "
        text += f"less than {100 * self.at_most:g} points of each other task: "
        return text + (f"no, {', '.join(hurt)}." if hurt else "yes.")

    def figure(self, *, dark: bool = False) -> Figure:
        """Draw cost against k, one panel for the tasks that are asked about and one for the others."""
        from .figures.selectivity import selectivity_figure

        return selectivity_figure(
            self.rows[self.rows["split"] == TEST], k=self.k, at_least=self.at_least, at_most=self.at_most,
            title=f"{self.how} of the top heads by {self.method}, {self.model.name}", dark=dark,
        )  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write `selectivity.parquet`, `selectivity.json` and `selectivity.html` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder = Path(folder)
        write_table(folder / "selectivity.parquet", self.rows)
        record = {
            "method": self.method, "options": dict(self.options), "how": self.how, "heads": list(map(str, self.heads)),
            "k": self.k, "at_least": self.at_least, "at_most": self.at_most, "model": self.model._asdict(),
            "seed": self.seed, "conclusion": self.conclusion(), "notes": list(self.notes),
        }  # fmt: skip
        write_json(folder / "selectivity.json", record)
        page = self.figure().to_html(include_plotlyjs=True, full_html=True)
        write_atomically(folder / "selectivity.html", page)
        return folder


def selectivity(
    model: Any,
    scores: HeadScores,
    asked: Mapping[str, PromptSet],
    spared: Mapping[str, PromptSet],
    train: Mapping[str, PromptSet],
    *,
    how: Callable[..., Intervention] = zero,
    k: Iterable[int] = range(1, 9),
    at_least: float = 0.3,
    at_most: float = 0.05,
    draws: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Selectivity:
    """Change the top heads of a score, and see which tasks suffer.

    The number of heads is chosen on training prompts, by a rule that looks at none of the others: the smallest k at
    which the tasks lose `at_least` of their right answers, mean over tasks. Everything is then told on fresh prompts,
    at every k, beside as many random heads of the same layers.

    Direction: a cost is the share of right answers lost; 0.3 is 30 points.

    Args:
        model: The bridge that was scored.
        scores: Ranks the heads; made on training prompts.
        asked: Tasks that should suffer, fresh prompts with answers.
        spared: Tasks that should not.
        train: The first tasks again, other prompts, on which k is chosen.
        how: What is done to the heads, in all phases.
        k: Numbers of heads.
        at_least: See above.
        at_most: What a spared task may lose less than.
        draws: Random sets at each k.
        seed: Of random heads and intervals.
        progress: Called with the number of measurements done and of all.

    Raises:
        BadOption: There is no task, or a name stands in both groups.
        NoEffect: Changing the heads changed nothing at all.
    """
    if not asked or not train or set(asked) & set(spared):
        raise BadOption(
            f"selectivity: tasks {', '.join(asked) or 'none'}, others {', '.join(spared) or 'none'}, to choose on "
            f"{', '.join(train) or 'none'}; give tasks of different names, and some to choose k on."
        )
    sizes = sorted(set(k))
    plan = [(TRAIN, ASKED, task, prompts, ()) for task, prompts in train.items()]
    plan += [(TEST, ASKED, task, prompts, ("same-layers",)) for task, prompts in asked.items()]
    plan += [(TEST, SPARED, task, prompts, ("same-layers",)) for task, prompts in spared.items()]
    steps = [len(sizes) * (1 + draws * len(controls)) for *_, controls in plan]
    parts, notes = [], dict.fromkeys(note for note in scores.notes if note != FROM_ATTENTION)
    for index, (split, role, task, prompts, controls) in enumerate(plan):

        def count(done: int, total: int, index: int = index) -> None:
            if progress:
                progress(sum(steps[:index]) + done * steps[index] // total, sum(steps))

        found = verify(
            model, scores, prompts, "needle_accuracy", how=how, phase="all", k=sizes, controls=controls, draws=draws,
            seed=seed, progress=count,
        )  # fmt: skip
        notes |= dict.fromkeys(found.notes)
        summary = found.summary()
        part = pd.DataFrame({"split": split, "role": role, "task": task}, index=summary.index)
        part = part.join(summary[["arm", "k", "draws", "n"]])
        # 0 − x, since −0.0 would be printed as it is.
        cost = {"cost": 0 - summary["effect"], "low": 0 - summary["high"], "high": 0 - summary["low"]}
        parts.append(part.assign(clean=found.baseline, value=summary["value"], **cost))
    rows = pd.concat(parts, ignore_index=True)
    chosen_on: Any = rows[rows["split"] == TRAIN]
    means = chosen_on.groupby("k").cost.mean()
    enough = [int(size) for size in sizes if means[size] >= at_least - 1e-9]
    info = describe(model)
    return Selectivity(
        rows, scores.top(sizes[-1]), enough[0] if enough else None, at_least, at_most, _name(how), scores.method,
        dict(scores.options), Source(info.name, info.digest), seed, tuple(notes),
    )  # fmt: skip


def _name(how: Callable[..., Any]) -> str:
    return {"zero": "Zeroing", "uniform": "Uniform attention"}.get(getattr(how, "__name__", ""), "A change")


def _list(rows: Any) -> str:
    costs = [
        f"{task} {100 * row.cost:.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"
        for task, row in rows.iterrows()
    ]
    return ", ".join(costs) if np.size(costs) else "nothing (no task was named)"
