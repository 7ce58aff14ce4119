"""A run or a job in a few lines: the first heads with their intervals, and what is missing."""

from __future__ import annotations

from typing import Any

from ..analysis.figures.style import interval, number
from ..analysis.run import Run
from ..analysis.scores import FROM_ATTENTION
from ..hooks.heads import Head
from .listing import Opened, latest, listed_in
from .reports import in_words


def lines(opened: Opened, top: int = 5) -> list[str]:
    """Say what is there, for a terminal."""
    found = record(opened, top)
    said = [f"{opened.name}: {found['what']}, {found['state']}", *([found["then"]] if found["then"] else [])]
    for one in found["scores"]:
        said += [
            "",
            f"{one['method']} of {one['model']} on {one['data']} ({one['n_prompts']} prompts, seed {one['seed']})",
        ]
        said.append(f"  {one['verdict'] or one['standing']}")
        said += [
            f"  {row['head']:<7} {interval(row['score'], row['low'], row['high'])}"
            + (f"  q = {number(row['q'])}" if row["q"] == row["q"] else "")
            for row in one["heads"]
        ]
        said += ["  No head has a score."] if not one["heads"] else []
        said += [f"  {note}" for note in one["notes"]]
    if found["missing"]:
        said += ["", "Missing:"]
        for one in found["missing"]:
            prompt = f" [prompt {one['prompt']}]" if one.get("prompt") else ""
            said.append(
                f"  {one.get('title', one.get('unit', ''))}: {one.get('error') or 'not done'}{prompt}"
            )
    return [*said, *found["problems"]]


def record(opened: Opened, top: int = 5) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    manifest = opened.manifest
    if opened.is_job:
        state, then = in_words(manifest, opened.folder)
    else:
        state, then = str(manifest.get("state", "done")), ""
    return {
        "name": opened.name,
        "folder": opened.folder,
        "what": "job" if opened.is_job else "run",
        "state": state,
        "then": then,
        "units": manifest.get("units"),
        "command": manifest.get("command"),
        "started": manifest.get("started"),
        "seconds": manifest.get("seconds"),
        "scores": [_score(run, top) for run in latest(opened.runs)],
        "missing": listed_in(manifest, "missing"),
        "problems": opened.problems,
    }


def _score(run: Run, top: int) -> dict[str, Any]:
    scores, check = run.scores, run.verification
    table = scores.table().dropna(subset=["score"]).head(top)
    return {
        "method": scores.method,
        "options": {key: getattr(value, "__name__", value) for key, value in scores.options.items()},
        "model": scores.model.name,
        "data": scores.data.name,
        "n_prompts": len(run.prompts),
        "seed": scores.seed,
        "folder": run.folder,
        "standing": "Each score is itself an intervention."
        if scores.causal
        else "From attention alone, not checked causally.",
        "verdict": check.verdict if check is not None else "",
        "heads": [
            {"head": str(Head(int(row["layer"]), int(row["head"])))}
            | {name: row[name] for name in ("score", "low", "high", "p", "q", "n")}
            for row in table.to_dict("records")
        ],
        "notes": [
            note for note in scores.notes if note != FROM_ATTENTION and not note.startswith("Causal check: ")
        ],
    }
