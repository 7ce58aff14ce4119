"""The command `headscope score`: every head of a model by one method."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from .arguments import pairs, prompts_from_file
from .console import progress_line, score_lines, score_record, show, show_plan, typed_command, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust


def score(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A name from `headscope methods`.")],
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.jsonl", help="Prompts; by default those the method asks for."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=100_000, help="Number of prompts, where they are generated."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the method; repeatable."),
    ] = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    top: Annotated[int, typer.Option(min=1, help="Number of heads to print.")] = 10,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score every head of a model by one method; save the run.

    Example: headscope score previous-token --model organism/text
    """
    with working():
        from ..analysis.registry import get

        chosen = get(method)
        options = chosen.resolve(pairs(option or (), "--set"))
        prompts = prompts_from_file(data)
    if dry_run:
        plan = {
            "command": "score",
            "method": method,
            "model": model,
            "options": options,
            "seed": seed,
            "out": out,
        }
        return show_plan(as_json, **plan, data=str(prompts or data or chosen.data))
    started, begun = datetime.now(UTC), time.monotonic()
    with working(f"score {method} of {model}"):
        from ..analysis.run import save_run
        from ..analysis.score import default_prompts
        from ..analysis.score import score as run
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if prompts is None:
            prompts = default_prompts(bridge, data or chosen.data, seed, n=n)
        scores = run(bridge, method, prompts, seed=seed, progress=progress_line(), **options)
        seconds = time.monotonic() - begun
        folder = save_run(
            out,
            scores,
            model=bridge,
            prompts=prompts,
            command=typed_command(),
            started=started,
            seconds=seconds,
        )
    lines = [*score_lines(scores, top), f"Run: {folder}", f"Report: {folder / 'report.html'}"]
    show(as_json, {**score_record(scores), "run": folder}, lines)
