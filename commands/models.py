"""The command `headscope models`: what is shipped, and what it can do."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import show, working
from .options import Json, Seed


def models(
    check: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Measure what this shipped model can do.")
    ] = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=100_000, help="Held-out prompts per skill, for --check.")
    ] = 200,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """List the shipped models, or check one on held-out prompts.

    Example: headscope models --check organism/text
    """
    if check is None:
        with working():
            from ..hooks.load import available

            cards = available()
        rows = [{"name": card.name, "summary": card.summary, "folder": card.folder} for card in cards]
        lines = [f"{row['name']:<20} {row['summary']}" for row in rows]
        return show(
            as_json, rows, [*lines, "Any folder in Hugging Face form and any hub id can be loaded too."]
        )
    with working(f"check {check}"):
        from ..analysis.check import check as run

        found = run(check, n=n, seed=seed)
    rows = [one.record() for one in found]
    show(as_json, {"model": check, "seed": seed, "checks": rows}, [str(one) for one in found])
    if not all(one.passed for one in found):
        raise typer.Exit(1)
