"""Steering refusals: heads scaled up or down, what is refused at every gain, and what benign requests pay for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...datasets.prompts import PromptSet
from ...errors import BadOption
from ...hooks.heads import Head, parse_heads
from ...hooks.interventions import scale
from ..files import jsonable, write_json, write_table
from .answers import CHOSEN, CLEAN, RANDOM, Evaluation, first_way
from .asked import BENIGN, HARMFUL
from .evaluate import evaluate
from .report import write_page
from .settings import Asking
from .study import DAMAGED, both_kinds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

GAINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
_ENDS = {"": "", "_low": "_high", "_high": "_low", "_lowest": "_highest", "_highest": "_lowest"}


@dataclass(frozen=True)
class Dose:
    """What is refused with heads multiplied by several gains, beside random heads with the same gains.

    Attributes:
        heads: The chosen heads.
        gains: In rising order; 1 is the model as it is.
        evaluations: One for each gain but 1; the first holds the clean model.
        notes: What could not be done as asked.
    """

    heads: tuple[Head, ...]
    gains: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return one row per gain, arm, label, form and temperature.

        Columns: `gain`, `arm` (`chosen` or `random`; gain 1 is the clean model in both), `label`, `draws`, `n`, then
        `refused` (the judge's word, so 1 - `answered`) with its exact 95 % interval for the chosen heads and the lowest
        and highest draw for random ones; `gibberish` and `perplexity`. A text that says nothing is not refused here:
        read `gibberish` beside it.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        others = [gain for gain in self.gains if gain != 1]
        parts = []
        for gain, one in zip(others, self.evaluations, strict=True):
            found = one.summary()
            parts.append(found[found["arm"] != CLEAN].assign(gain=gain))
        first = self.evaluations[0].summary()
        clean = first[first["arm"] == CLEAN]
        arms = dict.fromkeys(parts[0]["arm"])
        parts += [clean.assign(arm=arm, gain=1.0) for arm in arms if 1 in self.gains]
        table: Any = pd.concat(parts, ignore_index=True)
        for end, other in _ENDS.items():
            table[f"refused{end}"] = 1 - table[f"answered{other}"]
        keys = ["gain", "arm", "label", "form", "temperature"]
        columns = [
            *keys,
            "draws",
            "n",
            *(f"refused{end}" for end in _ENDS),
            "complied",
            "gibberish",
            "perplexity",
        ]
        return table.sort_values(keys, ignore_index=True)[columns]

    def figure(self, *, dark: bool = False) -> Figure:
        """Draw refusals and perplexity against the gain; of several forms and temperatures the first."""
        from ..figures.refusals import refusal_figure

        return refusal_figure(
            first_way(self._table),
            x="gain",
            x_words="gain",
            rate="refused",
            rate_words="share of requests refused",
            dark=dark,
        )

    def sentences(self) -> list[str]:
        """Say what each gain does; of several forms and temperatures the first."""
        said = []
        for gain in self.gains:
            rows = {key: self._row(gain, *key) for key in _ARMS}
            harmful, benign = rows[CHOSEN, HARMFUL], rows[CHOSEN, BENIGN]
            text = (
                f"Gain {gain:g}: {_share(harmful)} of harmful requests are refused, {_share(benign)} of benign ones"
                f" (over-refusal); gibberish {100 * harmful.gibberish:.0f} % and {100 * benign.gibberish:.0f} %"
            )
            for label in (HARMFUL, BENIGN):
                control = rows[RANDOM, label]
                if gain != 1 and control is not None:
                    text += (
                        f"; random heads, {label}: {100 * control.refused_lowest:.0f} to "
                        f"{100 * control.refused_highest:.0f} %"
                    )
            if np.isfinite(harmful.perplexity):
                text += f"; perplexity {harmful.perplexity:.3g}"
            said.append(f"{text}.")
        return said

    def conclusion(self) -> str:
        """Say whether strengthening the heads refuses more, and at what price."""
        heads, now = ", ".join(map(str, self.heads)), self._row(1.0, CHOSEN, HARMFUL)
        benign_now = self._row(1.0, CHOSEN, BENIGN)
        stronger = [(gain, self._row(gain, CHOSEN, HARMFUL)) for gain in self.gains if gain > 1]
        better = [(gain, row) for gain, row in stronger if row.refused_low > now.refused_high]
        if not stronger:
            return f"No gain above 1 was tried on {heads}."
        if not better:
            why = " They are refused already." if now.refused > 0.95 else ""
            return f"Strengthening {heads} does not refuse more harmful requests, as far as {now.n} of them tell.{why}"
        gain, row = max(better, key=lambda pair: pair[1].refused)
        control, benign = self._row(gain, RANDOM, HARMFUL), self._row(gain, CHOSEN, BENIGN)
        text = (
            f"At gain {gain:g} {heads} refuse {_share(row)} of harmful requests instead of {_share(now)}, and "
            f"{_share(benign)} of benign ones instead of {_share(benign_now)}"
        )
        if control is not None:
            text += f"; random heads at this gain refuse at most {100 * control.refused_highest:.0f} %"
            if control.refused_highest >= row.refused_low:
                text += ", which is as much: nothing is shown about these heads"
        if np.isfinite(row.perplexity) and row.perplexity > DAMAGED * now.perplexity:
            text += f"; perplexity of neutral text rises from {now.perplexity:.3g} to {row.perplexity:.3g}"
        return f"{text}."

    def record(self) -> dict[str, Any]:
        """Return what machines read."""
        one = self.evaluations[0]
        return {
            "heads": [str(head) for head in self.heads],
            "gains": list(self.gains),
            "model": one.model._asdict(),
            "data": one.data._asdict(),
            "table": self.table().to_dict("records"),
            "sentences": self.sentences(),
            "conclusion": self.conclusion(),
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path) -> Path:
        """Write `dose.parquet`, `dose.json` and the report `dose.html` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder, one = Path(folder), self.evaluations[0]
        write_table(folder / "dose.parquet", self.table())
        write_json(folder / "dose.json", jsonable(self.record()))
        shown = self.table().drop(columns=["form", "temperature"])
        write_page(
            folder / "dose.html",
            title=f"Refusals of {one.model.name} with {', '.join(map(str, self.heads))} scaled",
            about=f"Requests: {one.data}. A gain of 1 is the model as it is.",
            conclusions=[self.conclusion()],
            words=self.sentences(),
            figure=self.figure,
            tables={"What was refused": shown},
            notes=self.notes,
        )
        return folder

    def _row(self, gain: float, arm: str, label: str) -> Any:
        table = self._table
        found = table[(table["gain"] == gain) & (table["arm"] == arm) & (table["label"] == label)]
        return next(iter(found.itertuples(index=False)), None)


_ARMS = [(arm, label) for arm in (CHOSEN, RANDOM) for label in (HARMFUL, BENIGN)]


def dose(
    model: Any,
    prompts: PromptSet,
    heads: Any,
    gains: Sequence[float] = GAINS,
    asking: Asking = Asking(),  # noqa: B008 (frozen)
    *,
    neutral: Any = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Dose:
    """Scale heads by several gains, and count what the model refuses of harmful and of benign requests.

    The same random heads of the same layers stand beside the chosen ones at every gain.

    Args:
        model: The bridge.
        prompts: Requests: harmful ones, and benign ones or counterparts.
        heads: The heads to scale.
        gains: Factors of the heads' output; 1 is added where it is missing.
        asking, neutral, seed, progress: As for `evaluate`.

    Raises:
        BadOption: A gain is not a number, or only 1 is given; and as `evaluate`.
    """
    chosen = parse_heads(heads, model)
    if not chosen:
        raise BadOption("heads: name at least one head, such as L0H5.")
    wanted = tuple(sorted({float(gain) for gain in gains} | {1.0}))
    if not np.isfinite(wanted).all() or len(wanted) < 2:
        raise BadOption(f"gains={tuple(gains)!r}: expected finite numbers, one of them other than 1.")
    asked = both_kinds(prompts)
    others = [gain for gain in wanted if gain != 1]
    found: list[Evaluation] = []
    for index, gain in enumerate(others):

        def count(done: int, total: int, before: int = index) -> None:
            if progress:
                progress(before * total + done, len(others) * total)

        found.append(
            evaluate(
                model,
                asked,
                chosen,
                kind=partial(scale, gain=gain),
                asking=asking,
                neutral=neutral,
                seed=seed,
                clean=index == 0,
                progress=count,
            )
        )
    notes = tuple(dict.fromkeys(note for one in found for note in one.notes))
    return Dose(chosen, wanted, tuple(found), notes)


def _share(row: Any) -> str:
    return f"{100 * row.refused:.0f} % ({100 * row.refused_low:.0f} to {100 * row.refused_high:.0f})"
