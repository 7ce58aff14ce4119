"""What a report shows of one question: the rows of its tables, its figures, its attention as text."""

from __future__ import annotations

import inspect
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from ..errors import UnknownMethod
from ..hooks.heads import Head
from .figures import ARM_WORDS, head_grid, number, pattern_figure, token_html
from .registry import get
from .scores import FROM_ATTENTION, HeadScores
from .verdict import done_in_words

if TYPE_CHECKING:
    from .report import Part
    from .verification import Verification

ALONE = "attention alone, not checked causally"
_TOP = 8
_MOST_TOKENS = 80  # a longer pattern is not readable as a figure; the text still is


def section(part: Part, name: str, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Gather what the template shows of one part; its figures go into `figures`."""
    scores, check = part.scores, part.verification
    known = tuple((part.known or {}).values())
    grid = add_figure(figures, f"{name}-grid", lambda dark: _grid(scores, known, dark))
    curve = (
        add_figure(figures, f"{name}-curve", lambda dark: check.figure(dark=dark))
        if check is not None
        else None
    )
    missing = int((~np.isfinite(scores.values)).sum())
    said = (FROM_ATTENTION, f"Causal check: {part.answer}")  # in the verdict at the top
    skipped = [note for note in scores.notes if note not in said]
    skipped += [*(check.notes if check is not None else ()), *part.remarks]
    if missing:
        skipped.append(f"{missing} of {scores.values.size} heads have no score (grey cells with a cross).")
    return {
        "id": name,
        "title": part.title,
        "answer": part.answer,
        "ranking": part.ranking if check is not None else "",
        "checked": check is not None,
        "method": scores.method,
        "higher": scores.higher,
        "about": _about(scores.method),
        "rows": _rows(part),
        "grid": grid,
        "curve": curve,
        "check_rows": _check_rows(check) if check is not None else [],
        "check_metric": check.metric.replace("_", " ") if check is not None else "",
        "check_words": _check_words(check) if check is not None else "",
        "attention": _attention(part, name, figures),
        "skipped": skipped,
    }


def _grid(scores: HeadScores, known: tuple[Head, ...], dark: bool) -> go.Figure:
    """The scores' own figure, with the known heads framed."""
    table = scores.table().sort_values(["layer", "head"])
    low, high, n = (table[c].to_numpy().reshape(scores.values.shape) for c in ("low", "high", "n"))
    return head_grid(scores.values, name=scores.method, low=low, high=high, n=n, outlined=known, dark=dark)


def _rows(part: Part) -> list[dict[str, Any]]:
    """The first heads, with the ends of a small bar in percent of the longest."""
    table = part.scores.table().dropna(subset=["score"]).head(_TOP)
    roles = {head: role for role, head in (part.known or {}).items()}
    top = max(float(np.nanmax(table[["score", "high"]].abs().to_numpy(), initial=0.0)), 1e-12)
    rows = []
    for row in table.itertuples():
        head = Head(int(row.layer), int(row.head))  # type: ignore[arg-type]
        score, low, high = (float(getattr(row, c)) for c in ("score", "low", "high"))
        ends = (100 * max(low, 0) / top, 100 * max(high, 0) / top) if np.isfinite([low, high]).all() else None
        rows.append(
            {
                "head": str(head),
                "role": roles.get(head, ""),
                "score": number(score),
                "interval": f"[{number(low)}, {number(high)}]" if ends else "",
                "bar": 100 * max(score, 0) / top,
                "ends": ends,
                "q": probability(float(row.q)),  # type: ignore[arg-type]
                "n": int(row.n),  # type: ignore[arg-type]
            }
        )
    return rows


def _check_rows(check: Verification) -> list[dict[str, Any]]:
    """One row per arm and k; p is of the effect for the top heads, of their distance to it for a control."""
    rows = []
    for row in check.summary().to_dict("records"):
        words, top = ARM_WORDS.get(row["arm"], row["arm"]), row["arm"] == "top"
        rows.append(
            {
                "top": top,
                "arm": words if top else f"{words} ({_draws(row['draws'])})",
                "k": row["k"],
                "value": number(row["value"]),
                "effect": f"{row['effect']:+.2f}",
                "interval": f"[{row['low']:+.2f}, {row['high']:+.2f}]",
                "excess": ""
                if top
                else f"{row['excess']:+.2f} [{row['excess_low']:+.2f}, {row['excess_high']:+.2f}]",
                "p": probability(row["p"] if top else row["excess_p"]),
            }
        )
    return rows


def _draws(n: int) -> str:
    return "one draw" if n == 1 else f"mean of {n} draws"


def _check_words(check: Verification) -> str:
    """What was done, to what, beside what."""
    k = max(arm.k for arm in check.arms)
    metric = check.metric.replace("_", " ")
    return (
        f"Done to the first k heads by score: {done_in_words(check.how)}. Measured: {metric} on "
        f"{len(check.clean)} prompts ({check.data.name}). Random heads never include the first {k}. "
        "The band is the 95 % interval of the value over prompts; small points are single draws."
    )


def _attention(part: Part, name: str, figures: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    seen = part.attention
    if seen is None:
        return None
    at = seen.position
    named = ["needle"] if "needle" in seen.spans else list(seen.spans)
    marked = {i for span in named for i in seen.spans[span]}
    texts = [
        {"head": str(head), "html": Markup(token_html(seen.tokens, pattern[at], chosen=at, marked=marked))}
        for head, pattern in zip(seen.heads, seen.patterns, strict=True)
    ]
    whole = None
    if len(seen.tokens) <= _MOST_TOKENS:
        whole = add_figure(
            figures, f"{name}-pattern", lambda dark: pattern_figure(seen.patterns[0], seen.tokens, dark=dark)
        )
    token = seen.tokens[at].strip() or seen.tokens[at]
    return {"token": token, "texts": texts, "pattern": whole, "spans": ", ".join(named)}


def add_figure(figures: dict[str, dict[str, Any]], name: str, draw: Any) -> dict[str, Any]:
    """Draw a figure for light and dark pages into `figures`; return its element's id and height."""
    light, dark = draw(False), draw(True)
    figures[name] = {"light": json.loads(light.to_json()), "dark": json.loads(dark.to_json())}
    return {"id": name, "height": int(light.layout.height)}


def _about(method: str) -> list[tuple[str, str]]:
    """Take what the score's docstring says in its fixed parts: formula, direction, unit, reference."""
    try:
        function = get(method).function
    except UnknownMethod:  # scores that someone else made
        return []
    text = inspect.getdoc(function) or ""
    parts = re.findall(
        r"^(Formula|Direction|Shape and unit|Reference): (.+?)(?=\n\S|\n\n|\Z)", text, re.M | re.S
    )
    return [("What", text.splitlines()[0])] * bool(text) + [
        (name, " ".join(body.split())) for name, body in parts
    ]


def probability(p: float) -> str:
    """Write a p-value with three digits; a dash where there is none."""
    if not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
