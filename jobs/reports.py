"""The page of a job: what came out, what is missing, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..analysis.figures import interval
from ..analysis.figures.agreement import agreement_matrix
from ..analysis.files import write_atomically
from ..analysis.pages import render
from ..analysis.report import Part
from ..analysis.run import Run
from ..analysis.sections import add_figure, section
from ..errors import BadRun
from ..hooks.heads import Head
from .listing import Opened, count_of, latest, open_folder, result_folders, settings

_MOST_PARTS, _MOST_ROWS, _MOST_MISSING, _MOST_IN_MATRIX = 24, 500, 100, 16


def write_job_report(folder: str | Path) -> Path:
    """Write `report.html` into the folder of a job, from what the folder holds; the job may still be going on.

    Args:
        folder: The job's folder.

    Returns:
        The file.

    Raises:
        BadRun: The folder is no job.
        CannotWrite: The system refused; an older report is still there.
    """
    folder = Path(folder)
    return write_atomically(folder / "report.html", job_page(open_folder(folder)))


def job_page(job: Opened) -> str:
    """Return the page as HTML.

    Raises:
        BadRun: It is no job.
    """
    if not job.is_job:
        raise BadRun(f"{job.folder}: a run, not a job; its report is {job.folder / 'report.html'}.")
    manifest, figures = job.manifest, {}
    runs = latest(job.runs)
    parts = [Part(run.scores, verification=run.verification) for run in runs[:_MOST_PARTS]]
    sections = [section(part, f"part{i}", figures) for i, part in enumerate(parts)]
    state, then = in_words(manifest, job.folder)
    missing = [one for one in manifest.get("missing") or () if isinstance(one, dict)]
    return render(
        "jobs/job.html",
        title=str(manifest.get("name") or job.name),
        state=state,
        counted=_counted(runs),
        next=then,
        missing=[
            {name: str(one.get(name) or "") for name in ("title", "error", "prompt")}
            for one in missing[:_MOST_MISSING]
        ],
        more_missing=max(0, len(missing) - _MOST_MISSING),
        results=[_row(run, i) for i, run in enumerate(runs[:_MOST_ROWS])],
        several=_several(runs),
        unchecked=any(run.verification is None and not run.scores.causal for run in runs),
        matrices=_matrices(runs, figures),
        others=[*_others(job), *job.problems],
        sections=sections,
        hidden=max(0, len(runs) - _MOST_PARTS),
        job=_yaml(manifest.get("job")),
        command=str(manifest.get("command", "")),
        facts=[_facts(manifest)],
        versions=manifest.get("versions") or {},
        figures=figures,
    )


def in_words(manifest: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """Say how far a job is, and what to do about it."""
    done, planned = (count_of(manifest.get("units"), name) for name in ("done", "planned"))
    again = f"To go on: headscope run {folder}"
    state = str(manifest.get("state", ""))
    if state == "done" and done >= planned:
        return f"Done: all {planned} units.", ""
    if state == "incomplete":
        lost = planned - done
        return (
            f"Incomplete: {lost} of {planned} units are missing, and what they would have given is in no table.",
            f"{again} (it tries what is missing again).",
        )
    return f"Not finished: {done} of {planned} units are done.", f"{again}."


def first_heads(run: Run, k: int = 3) -> str:
    """`L2H1 0.98 [0.97, 0.99], …`: the first heads of a run with their intervals."""
    table = run.scores.table().dropna(subset=["score"]).head(k)
    rows = (
        f"{Head(int(row['layer']), int(row['head']))} {interval(row['score'], row['low'], row['high'])}"
        for row in table.to_dict("records")
    )
    return ", ".join(rows) or "no head has a score"


def _counted(runs: Sequence[Run]) -> str:
    """Say how many scores there are, and how many of them a causal check confirmed."""
    if not runs:
        return ""
    models = len({run.scores.model for run in runs})
    checked = [run.verification.judgement for run in runs if run.verification is not None]
    text = f"{len(runs)} score{'s' if len(runs) > 1 else ''} of {models} model{'s' if models > 1 else ''}"
    if checked:
        return f"{text}; {len(checked)} checked causally, {checked.count('causal')} of them causal."
    return f"{text}; none was checked causally." if any(not run.scores.causal for run in runs) else f"{text}."


def _row(run: Run, index: int) -> dict[str, Any]:
    scores, check = run.scores, run.verification
    counted = scores.table().dropna(subset=["score"])
    return {
        "link": f"part{index}" if index < _MOST_PARTS else "",
        "method": scores.method,
        "model": scores.model.name,
        "data": scores.data.name,
        "settings": ", ".join([settings(run), f"seed={scores.seed}"]).strip(", "),
        "first": first_heads(run),
        "check": check.judgement if check is not None else "it is one" if scores.causal else "not checked",
        "n": int(counted["n"].iloc[0]) if len(counted) else 0,
    }


def _several(runs: Sequence[Run]) -> dict[str, bool]:
    """Which columns tell results apart; the others would say the same in every row."""
    same = {(run.scores.model, run.scores.method, run.scores.data) for run in runs}
    return {
        "model": len({run.scores.model for run in runs}) > 1,
        "data": len({run.scores.data for run in runs}) > 1,
        "settings": len(same) < len(runs),
    }


def _matrices(runs: Sequence[Run], figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank agreement of the scores of every model that has several."""
    found = []
    for model in dict.fromkeys(run.scores.model for run in runs):
        own = [run for run in runs if run.scores.model == model][:_MOST_IN_MATRIX]
        if len(own) < 2:
            continue
        several = _several(own)
        names = [
            " · ".join(
                [
                    run.scores.method,
                    *([run.scores.data.name] if several["data"] else []),
                    *([_row(run, 0)["settings"]] if several["settings"] else []),
                ]
            )
            for run in own
        ]
        values = np.array([[_rho(a.scores.values, b.scores.values) for b in own] for a in own])
        figure = add_figure(
            figures,
            f"matrix{len(found)}",
            lambda dark, values=values, names=names: agreement_matrix(values, names, dark=dark),
        )
        found.append({"title": model.name, "figure": figure})
    return found


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(a[both]), stats.rankdata(b[both]))[0, 1])


def _others(job: Opened) -> list[str]:
    """Results that are no scores: their titles and folders."""
    shown = {run.folder for run in job.runs}
    titles = {
        str(one.get("folder")): one for one in job.manifest.get("results") or () if isinstance(one, dict)
    }
    found = []
    for path in result_folders(job.folder, job.manifest):
        if path not in shown:
            name = path.relative_to(job.folder).as_posix()
            found.append(f"{titles.get(name, {}).get('kind', 'result')}: {name}")
    return found


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    units = manifest.get("units") or {}
    facts = [
        ("units", ", ".join(f"{count} {name}" for name, count in units.items())),
        ("started", str(manifest.get("started", ""))),
    ]
    if manifest.get("seconds") is not None:
        facts.append(("seconds", f"{float(manifest['seconds']):.1f}"))
    return [*facts, ("digest", str(manifest.get("digest", "")))]


def _yaml(job: Any) -> str:
    import yaml

    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=100) if job else ""
