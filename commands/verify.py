"""The command `headscope verify`: the causal check of a run's scores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .arguments import fresh_prompts, kinds, one_of, prompts_from_file, sizes
from .console import progress_line, show, show_plan, typed_command, working
from .options import Device, DryRun, Dtype, Json, Seed, Trust


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `headscope score` prints it.")],
    k: Annotated[
        str, typer.Option("-k", "--k", metavar="K,K,...", help="Numbers of top heads to change.")
    ] = "1,2,4,8",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.jsonl", help="Prompts; by default fresh ones of the kind that was scored."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=100_000, help="Number of prompts, where they are generated."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What to measure; by default what the method names.")
    ] = None,
    how: Annotated[
        str, typer.Option(metavar="KIND", help="uniform (attention spread evenly) or zero.")
    ] = "uniform",
    phase: Annotated[
        str | None, typer.Option(help="prefill, decode or all; by default what the method names.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Random sets per control and k.")] = 5,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Change a run's top heads, beside random heads.

    The run folder then holds the check too, and a report with both.

    Example: headscope verify runs/previous-token-text-* --k 1,2,4,8
    """
    with working():
        from ..analysis.run import load_run, save_check

        done = load_run(run)
        kind = kinds()[one_of(how, kinds(), "--how")]
        counts = sizes(k)
        prompts = prompts_from_file(data)
    if dry_run:
        plan = {"command": "verify", "run": run, "model": done.model, "k": counts, "how": how, "draws": draws}
        return show_plan(
            as_json, **plan, data=str(prompts or data or "fresh prompts of the kind that was scored")
        )
    with working(f"verify {done.scores.method} of {done.model}"):
        from ..analysis.score import default_prompts
        from ..analysis.verify import verify as check
        from ..hooks.load import load

        bridge = load(
            done.model, device=device, dtype=dtype or done.dtype, trust_remote_code=trust_remote_code
        )
        done.require(bridge)
        begun = time.monotonic()
        if prompts is None:
            prompts = default_prompts(bridge, data, seed, n=n) if data else fresh_prompts(bridge, done, n)
        settings = {"how": kind, "phase": phase, "k": counts, "draws": draws, "seed": seed}
        found = check(bridge, done.scores, prompts, metric, progress=progress_line(), **settings)
        save_check(done, found, model=bridge, command=typed_command(), seconds=time.monotonic() - begun)
    table = found.summary()
    record = {"verdict": found.verdict, "arms": table.to_dict("records"), "notes": found.notes, "run": run}
    shown = table[["arm", "k", "draws", "n", "value", "effect", "low", "high", "p"]]
    lines = [
        shown.to_string(index=False, na_rep="-", float_format="{:.3g}".format),
        "",
        found.verdict,
        *found.notes,
    ]
    show(as_json, record, [*lines, f"Report: {run / 'report.html'}"])
