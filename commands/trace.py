"""The command `headscope trace`: where in a model an image brings its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import prompts_from_file
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust


def trace(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE.jsonl",
            help="Prompts with an image, an answer, the box `object` and the span `word`.",
        ),
    ] = "scene-exists",
    n: Annotated[
        int, typer.Option("-n", min=1, max=100_000, help="Number of prompts, where they are generated.")
    ] = 32,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise on the image.")] = 2.0,
    min_gap: Annotated[
        float, typer.Option(help="Prompts whose answer loses less probability under noise are dropped.")
    ] = 0.1,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Restore parts of a run in a run on a noised image; see what returns.

    Example: headscope trace --model organism/vision
    """
    with working():
        prompts = prompts_from_file(data)
    if dry_run:
        plan = {
            "command": "trace",
            "model": model,
            "data": str(prompts or data),
            "sigma": sigma,
            "min_gap": min_gap,
        }
        return show_plan(as_json, **plan, seed=seed, out=out)
    with working(f"trace {model}"):
        from ..analysis.vision.tracing import about_objects
        from ..analysis.vision.tracing import trace as run
        from ..hooks.info import describe
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if prompts is None:
            prompts = about_objects(bridge, data, n, seed)
        found = run(bridge, prompts, sigma=sigma, min_gap=min_gap, seed=seed, progress=progress_line())
        short = describe(bridge).name.rsplit("/", 1)[-1]
        folder = found.save(out / f"trace-{short}-{prompts.digest[:8]}-{sigma:g}-{seed}")
    table = found.table()
    last = table[table.group == "last token"].pivot(index="layer", columns="component", values="recovery")
    best = table.loc[table.groupby("component").recovery.idxmax().dropna()]
    lines = [
        "Recovery rate at the last token, by layer:",
        last.to_string(float_format="{:.2f}".format, na_rep="-"),
        "",
        *(
            f"{row.component}: most at layer {row.layer}, {row.group}: {row.recovery:.2f} "
            f"[{row.low:.2f}, {row.high:.2f}], n={row.n}"
            for row in best.itertuples(index=False)
        ),
        *found.notes,
        f"Folder: {folder}",
    ]
    record = {
        "table": table.to_dict("records"),
        "dropped": found.dropped,
        "notes": found.notes,
        "folder": folder,
    }
    show(as_json, record, lines)
