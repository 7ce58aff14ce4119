"""The command `headscope demo`: the main job on the shipped models."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from ..printable import printable
from .console import show, show_plan, working
from .options import DryRun, Json, Out, Seed


def demo(
    out: Out = Path("runs/demo"),
    seed: Seed = 0,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score the shipped models, check causally, write a report.

    Example: headscope demo --out runs/demo
    """
    if dry_run:
        return show_plan(
            as_json, command="demo", models=["organism/text", "organism/planted"], seed=seed, out=out
        )
    summary: list[str] = []
    answers = sys.stderr if as_json else sys.stdout

    def say(line: str) -> None:
        summary.append(line)
        typer.echo(printable(line), file=answers)

    with working("demo"):
        from ..analysis.demo import demo as run

        report = run(out, seed=seed, progress=say)
    show(as_json, {"report": report, "summary": summary}, [f"Report: {report}"])
