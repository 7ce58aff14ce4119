"""One HTML file that answers the question, shows the evidence, and opens without a network.

The page is a jinja template with autoescape on: a prompt, a token or a model's name is text, whatever it
holds. Every figure is written twice, for light and for dark pages; a few lines of script draw the one that
fits. A content security policy forbids the page to load anything.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..errors import UnknownMethod
from ..hooks.heads import Head
from .attention import Attention
from .figures import ARM_WORDS, causal_curve, head_grid, interval, number, pattern_figure, token_html
from .files import write_atomically
from .registry import get
from .scores import FROM_ATTENTION, HeadScores
from .verify import Verification

ALONE = "attention alone, not checked causally"
_TOP = 8
_MOST_TOKENS = 80  # a longer pattern is not readable as a figure; the text still is


@dataclass(frozen=True, eq=False)
class Part:
    """One question of a report, with its answer.

    Attributes:
        scores: The scores.
        verification: The causal check, None where none ran.
        attention: What the first heads look at on one prompt.
        question: The question in words; by default made from the method and the model.
        known: Heads whose role is known beforehand, by their name for it: "induction head" → L1H3.
        remarks: What a reader should know besides the notes of the scores.
    """

    scores: HeadScores
    verification: Verification | None = None
    attention: Attention | None = None
    question: str = ""
    known: Mapping[str, Head] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The question asked."""
        return self.question or f"Which heads of {self.scores.model.name} are {self.scores.method} heads?"

    @property
    def answer(self) -> str:
        """The verdict in words: of the causal check, or of the scores alone."""
        return self.verification.verdict if self.verification is not None else self.ranking

    @property
    def ranking(self) -> str:
        """The first head against the next one, and where the known heads stand."""
        table = self.scores.table().dropna(subset=["score"])
        if not len(table):
            return "No head has a score."
        heads = [Head(int(row.layer), int(row.head)) for row in table.itertuples()]
        first = table.iloc[0]
        text = f"{heads[0]} comes first with {interval(first.score, first.low, first.high)}"
        text += f"; the next head, {heads[1]}, has {number(table.iloc[1].score)}." if len(table) > 1 else "."
        for role, head in (self.known or {}).items():
            place = heads.index(head) + 1 if head in heads else None
            text += f" {head}, the {role} by construction, is " + (
                f"number {place}." if place else "not scored."
            )
        return text


def write_report(
    path: str | Path,
    parts: Sequence[Part],
    *,
    command: str,
    facts: Sequence[Mapping[str, Any]] = (),
    title: str = "",
) -> Path:
    """Write a report.

    Args:
        path: The file to write.
        parts: The questions, in the order to show.
        command: The command line that makes the report again.
        facts: The manifest of each part: model, data, seed, versions, start, seconds.
        title: The page's title; by default the first question.

    Returns:
        The path.

    Raises:
        CannotWrite: The system refused; no part of the file is left.
    """
    return write_atomically(path, page(parts, command=command, facts=facts, title=title))


def page(
    parts: Sequence[Part], *, command: str, facts: Sequence[Mapping[str, Any]] = (), title: str = ""
) -> str:
    """Return the report as HTML; the arguments are those of `write_report`."""
    figures: dict[str, dict[str, Any]] = {}
    sections = [_section(part, f"part{i}", figures) for i, part in enumerate(parts)]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = package_files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title or parts[0].title,
        sections=sections,
        command=command,
        facts=[_facts(one) for one in facts],
        versions=facts[0].get("versions", {}) if facts else {},
        figures=_script_json(figures),
        plotlyjs=Markup(get_plotlyjs()),
        alone=ALONE,
    )


def _section(part: Part, name: str, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Gather what the template shows of one part; its figures go into `figures`."""
    scores, check = part.scores, part.verification
    known = tuple((part.known or {}).values())
    grid = _add(figures, f"{name}-grid", lambda dark: _grid(scores, known, dark))
    curve = (
        _add(figures, f"{name}-curve", lambda dark: check.figure(dark=dark)) if check is not None else None
    )
    missing = int((~np.isfinite(scores.values)).sum())
    said = (FROM_ATTENTION, f"Causal check: {part.answer}")  # in the verdict at the top
    skipped = [note for note in scores.notes if note not in said]
    skipped += [*(check.notes if check is not None else ()), *part.remarks]
    if missing:
        skipped.append(f"{missing} of {scores.values.size} heads were not run (grey cells with a cross).")
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
                "q": _probability(float(row.q)),  # type: ignore[arg-type]
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
                "arm": words if top else f"{words} (mean of {row['draws']} draws)",
                "k": row["k"],
                "value": number(row["value"]),
                "effect": f"{row['effect']:+.2f}",
                "interval": f"[{row['low']:+.2f}, {row['high']:+.2f}]",
                "excess": ""
                if top
                else f"{row['excess']:+.2f} [{row['excess_low']:+.2f}, {row['excess_high']:+.2f}]",
                "p": _probability(row["p"] if top else row["excess_p"]),
            }
        )
    return rows


def _check_words(check: Verification) -> str:
    """What was done, to what, beside what."""
    k = max(arm.k for arm in check.arms)
    return (
        f"Done to the first k heads by score: {check.how}. Measured: {check.metric.replace('_', ' ')} on "
        f"{len(check.clean)} prompts ({check.data.name}). Random heads never include the first {k}. "
        "The band is the 95 % interval over prompts; small points are single draws."
    )


def _attention(part: Part, name: str, figures: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    seen = part.attention
    if seen is None:
        return None
    at = seen.position
    texts = [
        {"head": str(head), "html": Markup(token_html(seen.tokens, pattern[at], chosen=at))}
        for head, pattern in zip(seen.heads, seen.patterns, strict=True)
    ]
    whole = None
    if len(seen.tokens) <= _MOST_TOKENS:
        whole = _add(
            figures, f"{name}-pattern", lambda dark: pattern_figure(seen.patterns[0], seen.tokens, dark=dark)
        )
    return {"token": seen.tokens[at].strip() or seen.tokens[at], "texts": texts, "pattern": whole}


def _add(figures: dict[str, dict[str, Any]], name: str, draw: Any) -> dict[str, Any]:
    """Draw a figure for both pages; return its element's id and height."""
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


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, data = manifest["model"], manifest["data"]
    facts = [
        (
            "model",
            f"{model['name']}, {model['n_layers']} layers × {model['n_heads']} heads, {model['dtype']}",
        ),
        ("weights", model["digest"]),
        ("prompts", f"{data['name']}, {data['n_prompts']}"),
        ("prompts digest", data["digest"]),
        ("method", manifest["job"]["method"]),
        ("options", ", ".join(f"{k}={v}" for k, v in manifest["job"]["options"].items()) or "none"),
        ("seed", str(manifest["seed"])),
        ("started", manifest["started"]),
    ]
    if manifest.get("seconds") is not None:
        facts.append(("seconds", f"{manifest['seconds']:.1f}"))
    return facts


def _probability(p: float) -> str:
    if not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _script_json(value: object) -> Markup:
    """Write JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
