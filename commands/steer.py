"""The command `headscope steer`: choose how to steer on some prompts, and see on others what that does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MissingData
from .arguments import numbers, one_of, prompts_from_file, sizes
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust

# As in analysis.steering.methods, which would import torch; a test compares the two.
METHODS = (
    "juice-memory", "juice-context", "june-memory", "june-context", "focus", "split-softmax", "reweight", "act",
    "sorting", "buckets", "add",
)  # fmt: skip


def steer(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=f"One of {', '.join(METHODS)}.")],
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE.jsonl", help="Prompts to choose heads and strength on; made by default."),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl", help="Prompts to report on; by default every second one of --data."
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(metavar="FILE.jsonl", help="For add: prompts labelled positive and negative."),
    ] = None,
    neutral: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl", help="Texts whose perplexity tells damage; organism/text has its own."
        ),
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="Repeatable; by default the method's usual ones.")
    ] = None,
    k: Annotated[str, typer.Option("-k", help="Numbers of heads to try.")] = "1,2,4",
    select: Annotated[
        int, typer.Option(min=1, help="For juice: items that heads are chosen on; its authors take 4.")
    ] = 16,
    tolerance: Annotated[
        str,
        typer.Option(
            help="For juice: probabilities to try that a head may cost in a form; the paper's rule is 0."
        ),
    ] = "0,0.02",
    epochs: Annotated[int, typer.Option(min=1, help="For focus: how often every prompt is seen.")] = 10,
    limit: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Choose nothing that raises the perplexity of neutral text above this many times; 2 for juice.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=0, help="Random sets beside the chosen one.")] = 3,
    n: Annotated[
        int, typer.Option("-n", min=8, max=100_000, help="Held-out prompts, where they are made.")
    ] = 120,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Steer a model: choose on some prompts, report on others, beside random heads or directions.

    Prints the dose-response curve, what the chosen strength does, and what it costs on neutral text.

    Example: headscope steer split-softmax --model organism/text -n 40 --draws 1
    """
    one_of(method, METHODS, "steer")
    counts = sizes(k, "-k", "1,2,4")
    losses = numbers(tolerance, "--tolerance", "0,0.02", least=0)
    with working():
        given, reported, contrasted, texts = map(prompts_from_file, (data, held_out, contrast, neutral))
        named = (
            ("--data", data, given),
            ("--held-out", held_out, reported),
            ("--contrast", contrast, contrasted),
        )
        for option, name, read in (*named, ("--neutral", neutral, texts)):
            if name is not None and read is None:
                raise MissingData(f"{option} {name}: expected a file that ends in .jsonl, one prompt a line.")
        if reported is not None and given is None:
            raise MissingData("--held-out belongs to --data FILE, the prompts to choose on; give both.")
    if dry_run:
        return show_plan(
            as_json,
            command="steer",
            method=method,
            model=model,
            data=given.name if given is not None else "made for the model",
            strengths=strength or "the usual ones",
            k=list(counts),
            draws=draws,
            seed=seed,
            out=out,
        )
    with working(f"steer {method} of {model}"):
        from ..analysis.steering.methods import halves
        from ..analysis.steering.study import folder_name, steering_study
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if given is not None and reported is None:
            given, reported = halves(given)
        options: dict[str, Any] = {"select": select, "tolerance": losses, "epochs": epochs}
        if contrasted is not None:
            options["contrast"] = contrasted
        found = steering_study(
            bridge,
            method,
            train=given,
            test=reported,
            strengths=strength or None,
            k=counts,
            n=n,
            draws=draws,
            limit=limit,
            neutral=texts,
            seed=seed,
            progress=progress_line(),
            **options,
        )
        folder = found.save(out / folder_name(found))
    show(as_json, {**found.record(), "folder": folder}, [*_lines(found), f"Folder: {folder}"])


def _lines(found: Any) -> list[str]:
    form = {"index": False, "na_rep": "-", "float_format": "{:.3g}".format}
    table = found.table()
    curve = (
        table[table["split"] == "test"]
        .groupby(["arm", "strength"], sort=False, as_index=False)
        .agg(
            draws=("draw", "nunique"),
            n=("n", "first"),
            accuracy=("accuracy", "mean"),
            low=("low", "mean"),
            high=("high", "mean"),
            lured=("lured", "mean"),
            perplexity=("perplexity", "mean"),
        )
    )
    lines = [f"steer {found.method} of {found.model} on {found.data}", "", curve.to_string(**form), ""]
    settings = found.settings()
    if len(settings):
        lines += [settings.to_string(**form), ""]
    return [*lines, found.conclusion(), *found.notes]
