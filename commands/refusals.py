"""The command `headscope refusals`: what is refused when heads are made stronger or weaker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import numbers, prompts_from_file
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust
from .safety_options import (
    Benign,
    Column,
    Data,
    Draws,
    Form,
    JudgeName,
    MaxNew,
    Neutral,
    Number,
    Stop,
    Temperature,
    TopK,
    asking,
    read_requests,
)


def refusals(
    heads: Annotated[str, typer.Argument(metavar="HEADS", help="Such as L0H5,L1H2.")],
    model: Model,
    gains: Annotated[
        str, typer.Option(help="Factors of the heads' output, with commas.")
    ] = "0,0.5,1,1.5,2,3,5",
    data: Data = None,
    column: Column = None,
    benign: Benign = None,
    neutral: Neutral = None,
    judge: JudgeName = "corrected",
    form: Form = "direct",
    temperature: Temperature = None,
    top_k: TopK = None,
    draws: Draws = 5,
    n: Number = 120,
    max_new_tokens: MaxNew = 128,
    stop: Stop = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Scale heads up and down; count refusals of harmful and benign requests.

    Random heads of the same layers get the same gains. The report dose.html draws the dose and the response.

    Example: headscope refusals L1H0 --model organism/planted
    """
    with working():
        how = asking(judge, form, temperature, top_k, draws, max_new_tokens, stop)
        factors = numbers(gains, "--gains", "0,1,2")
        prompts, texts = read_requests(data, column, benign), prompts_from_file(neutral)
    if dry_run:
        sets = 2 * (1 + (len(set(factors) - {1.0})) * (1 + draws))
        return show_plan(
            as_json,
            command="refusals",
            model=model,
            heads=heads,
            gains=list(factors),
            data=str(prompts or "the model's own"),
            cost=f"at most {sets} sets of requests are answered, a form and temperature",
            out=out,
        )
    with working(f"refusals of {model}"):
        from ..analysis.safety.dose import dose
        from ..analysis.safety.study import requests
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if prompts is None:
            _, prompts, _ = requests(bridge, None, None, n=n, seed=seed)
        found = dose(bridge, prompts, heads, factors, how, neutral=texts, seed=seed, progress=progress_line())
        name = "-".join(str(head) for head in found.heads[:4])
        folder = found.save(out / f"refusals-{found.evaluations[0].model.name.rsplit('/', 1)[-1]}-{name}")
    style = {"index": False, "na_rep": "-", "float_format": "{:.3g}".format}
    table = found.table()
    lines = [
        f"refusals of {found.evaluations[0].model} on {found.evaluations[0].data}",
        "",
        table.dropna(axis=1, how="all").to_string(**style),
        "",
        *found.sentences(),
        "",
        found.conclusion(),
        *found.notes,
        f"Folder: {folder}",
        f"Report: {folder / 'dose.html'}",
    ]
    show(as_json, {**found.record(), "folder": folder}, lines)
