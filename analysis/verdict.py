"""Say in words whether a score is causal, and only what the numbers allow.

At each k the top heads are compared, prompt by prompt, with each control. The difference is

- *specific*, if the effect itself is at least the margin and larger than that of every control, the difference from
  every control is at least the margin, and its sign-flip test passes 5 % after Benjamini-Hochberg over all k (of the
  larger p-value of the controls);
- *absent*, if the whole interval of the effect lies within the margin around zero, or if against some control the
  whole interval of the difference lies below the margin: random heads do as much;
- *open* otherwise: the prompts are too few to tell.

Causal: specific at the smallest k, or at a larger one while smaller ones are open. Redundant: specific only from some
larger k on, and absent below it: other heads stand in for the first ones. Not causal: absent at every k. Cannot tell:
anything else, a missing control, or a model that fails the task to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..hooks.heads import Head
from .statistics import benjamini_hochberg

_LEVEL = 0.05
_DONE = {"uniform": "attention spread evenly", "zero": "output set to zero"}
_WHERE = {
    "all": "at every token",
    "prefill": "while the prompt is read",
    "decode": "while the answer is written",
}
_IN_WORDS = {"same-layers": "random heads of the same layers", "anywhere": "random heads anywhere"}


def done_in_words(how: str) -> str:
    """Say what was done for someone who does not know the names.

    >>> done_in_words("uniform (decode)")
    'attention spread evenly while the answer is written (uniform, decode)'
    """
    kind, _, phase = how.removesuffix(")").partition(" (")
    if kind not in _DONE or phase not in _WHERE:
        return how
    return f"{_DONE[kind]} {_WHERE[phase]} ({kind}, {phase})"


class Judgement(NamedTuple):
    """A verdict in one term and in words."""

    judgement: Literal["causal", "redundant", "not causal", "cannot tell"]
    words: str


def judge(
    summary: pd.DataFrame,
    *,
    baseline: float,
    rate: bool,
    heads: Sequence[Head],
    metric: str,
    how: str,
    margin: float,
) -> Judgement:
    """Judge the summary of a verification; the rules stand in the module's docstring.

    Args:
        summary: What `Verification.summary` gives.
        baseline: The metric with nothing changed, mean over prompts.
        rate: Whether the metric counts hits, 0 or 1 per prompt.
        heads: The top heads, best first, at least as many as the largest k.
        metric: Name of the metric.
        how: The intervention, in words.
        margin: The smallest difference worth calling one, in the metric's unit.
    """
    records: list[dict[str, Any]] = [dict(row) for row in summary.to_dict("records")]
    top = {int(row["k"]): row for row in records if row["arm"] == "top"}
    controls = [row for row in records if row["arm"] != "top"]
    ks = sorted(top)
    states = _states(top, controls, margin)
    told = _Telling(top, controls, heads, metric, how, baseline)

    if not controls:
        return Judgement(
            "cannot tell", f"Cannot tell. {told.at(ks[-1])} There is no control to compare with."
        )
    specific = [k for k in ks if states[k] == "specific"]
    if specific:
        first, below = specific[0], [k for k in ks if k < specific[0]]
        strongest = max(specific, key=lambda k: abs(top[k]["effect"]))
        more = f" {told.at(strongest)}" if strongest != first else ""
        if below and all(states[k] == "absent" for k in below):
            words = f"Redundant. {told.little(below)}; changing {first} breaks it. {told.at(first)}{more}"
            return Judgement("redundant", words)
        from_k = f" from k={first} on; below, the prompts are too few to tell" if below else ""
        return Judgement("causal", f"Causal{from_k}. {told.at(first)}{more}")
    if rate and baseline <= margin:
        words = (
            f"With nothing changed, {told.metric} is only {baseline:.2f}: the model has nothing to lose here."
        )
        return Judgement("cannot tell", f"Cannot tell. {words}")
    if all(states[k] == "absent" for k in ks):
        return Judgement("not causal", f"Not causal. {told.at(ks[-1])} {told.no_more(ks, margin)}")
    fewest = min(row["n"] for row in top.values())
    why = "There are too few prompts." if fewest < 6 else "The intervals are too wide to tell."
    return Judgement("cannot tell", f"Cannot tell. {told.at(ks[-1])} {why} Give more than {fewest} prompts.")


def _states(
    top: Mapping[int, Mapping[str, Any]], controls: Sequence[Mapping[str, Any]], margin: float
) -> dict[int, str]:
    n_kinds = len({row["arm"] for row in controls})
    ks = sorted(top)
    rows = {k: [row for row in controls if row["k"] == k] for k in ks}
    worst = [max(row["excess_p"] for row in rows[k]) if len(rows[k]) == n_kinds > 0 else np.nan for k in ks]
    states = {}
    for k, q in zip(ks, benjamini_hochberg(np.array(worst, dtype=float)), strict=True):
        size = abs(top[k]["effect"])
        stands_out = size >= margin and all(
            row["excess"] >= margin and abs(row["effect"]) < size for row in rows[k]
        )
        small = -margin < top[k]["low"] and top[k]["high"] < margin
        if len(rows[k]) < n_kinds:
            states[k] = "open"
        elif stands_out and q < _LEVEL:
            states[k] = "specific"
        elif small or any(row["excess_high"] < margin for row in rows[k]):
            states[k] = "absent"
        else:
            states[k] = "open"
    return states


class _Telling:
    """Puts numbers into sentences."""

    def __init__(
        self,
        top: Mapping[int, Mapping[str, Any]],
        controls: Sequence[Mapping[str, Any]],
        heads: Sequence[Head],
        metric: str,
        how: str,
        baseline: float,
    ) -> None:
        self.top, self.controls, self.heads = top, controls, heads
        self.metric, self.how, self.baseline = metric.replace("_", " "), how, baseline

    def at(self, k: int) -> str:
        row = self.top[k]
        which = "the top head" if k == 1 else f"the top {k} heads"
        names = ", ".join(map(str, self.heads[:k])) if k <= 4 else f"{self.heads[0]} to {self.heads[k - 1]}"
        verb = "takes" if k == 1 else "take"
        said = [
            f"With {done_in_words(self.how)}, {which} ({names}) {verb} {self.metric} from {self.baseline:.2f} to "
            f"{row['value']:.2f} ({_signed(row)}, n={int(row['n'])})"
        ]
        for control in (row for row in self.controls if row["k"] == k):
            words = _IN_WORDS.get(str(control["arm"]), str(control["arm"]))
            said.append(f"{words}: {_signed(control)}, paired p {_p(control['excess_p'])}")
        return "; ".join(said) + "."

    def little(self, ks: Sequence[int]) -> str:
        parts = [f"k={k}: {_signed(self.top[k])}" for k in ks]
        which = (
            "the top head"
            if ks == [1]
            else f"the top {ks[-1]} heads or fewer"
            if len(ks) > 1
            else f"the top {ks[0]}"
        )
        return f"Changing {which} moves {self.metric} no further than random heads do ({', '.join(parts)})"

    def no_more(self, ks: Sequence[int], margin: float) -> str:
        span = f"k={ks[0]}" if len(ks) == 1 else f"every k from {ks[0]} to {ks[-1]}"
        return f"At {span} they move it by less than {margin:g}, or no further than random heads do."


def _signed(row: Mapping[str, Any]) -> str:
    return f"{row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def _p(p: float) -> str:
    return "not tested" if not np.isfinite(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"
