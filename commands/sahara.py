"""The command `headscope sahara`: find a group of heads, and see what losing it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import one_of, prompts_from_file
from .console import progress_line, say, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust
from .safety_options import (
    Benign,
    Column,
    Data,
    Draws,
    Form,
    HeldOut,
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

_KINDS = ("uniform", "scale", "mean")
_BY = ("harmful", "difference")


def sahara(
    model: Model,
    data: Data = None,
    column: Column = None,
    benign: Benign = None,
    held_out: HeldOut = None,
    neutral: Neutral = None,
    size: Annotated[int, typer.Option(min=1, help="Heads to find.")] = 3,
    kind: Annotated[
        str,
        typer.Option(
            help="uniform (attention spread evenly), scale (by --gain) or mean; several with commas."
        ),
    ] = "uniform",
    gain: Annotated[float, typer.Option(help="Of --kind scale.")] = 1e-5,
    rank: Annotated[int, typer.Option(min=1, help="Directions of the space that are compared.")] = 1,
    by: Annotated[
        str, typer.Option(help="Maximise the harmful score, as the paper does, or the difference to benign.")
    ] = "harmful",
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
    """Find a group of heads whose loss turns harmful requests most; evaluate.

    The same score on benign requests stands beside every step. Stopped with Ctrl-C, the same command goes on where it
    was. The report curve.html draws what is answered against the number of heads.

    Example: headscope sahara --model organism/text --size 3 --kind uniform,scale,mean --stop .
    """
    kinds = tuple(kind.split(","))
    for one in kinds:
        one_of(one, _KINDS, "--kind")
    one_of(by, _BY, "--by")
    with working():
        from ..analysis.safety.settings import Searching

        how = asking(judge, form, temperature, top_k, draws, max_new_tokens, stop)
        searches = tuple(Searching(size, one, gain, rank, by) for one in kinds)  # type: ignore[arg-type]
        prompts, other = read_requests(data, column, benign), prompts_from_file(held_out)
        texts = prompts_from_file(neutral)
    with working("" if dry_run else f"sahara of {model}"):
        from ..analysis.safety.curve import Curve
        from ..analysis.safety.sahara import cost
        from ..analysis.safety.study import folder_name, requests, study

        if dry_run:
            from ..hooks.outline import outline

            bridge = outline(model, trust_remote_code=trust_remote_code)
        else:
            from ..hooks.load import load

            bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        searched, asked, note = requests(bridge, prompts, other, n=n, seed=seed)
        costs = {one.kind: str(cost(bridge, searched, size=size)) for one in searches}
        for name, text in costs.items():
            say(f"{name}: {text}", err=True)
        if not dry_run:
            folder = out / folder_name(bridge, searched, searches)
            studies = [
                study(
                    bridge,
                    searched,
                    asked,
                    one,
                    how,
                    neutral=texts,
                    seed=seed,
                    state=folder / f"search-{one.kind}.json",
                    progress=progress_line(),
                )
                for one in searches
            ]
            found = Curve(tuple(studies), note)
            found.save(folder)
    if dry_run:
        plan = {"size": size, "kind": kind, "gain": gain, "rank": rank, "by": by, "cost": costs}
        return show_plan(
            as_json,
            command="sahara",
            model=model,
            searched=str(searched),
            asked=str(asked),
            **plan,
            out=out,
        )
    style = {"index": False, "na_rep": "-", "float_format": "{:.3g}".format}
    first = found.studies[0].search
    lines = [
        f"sahara of {first.model} on {first.harmful}; {first.unit}",
        note,
        "",
        found.steps().to_string(**style),
        "",
        found.shown().to_string(**style),
        "",
        *found.words(),
        "",
        *found.conclusions(),
        *found.notes(),
        f"Folder: {folder}",
        f"Report: {folder / 'curve.html'}",
    ]
    show(as_json, {**found.record(), "folder": folder}, lines)
