"""The command `headscope concept`: turn the heads of a concept around, and see whether its words go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BadOption
from .arguments import numbers, prompts_from_file, sizes
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust


def concept(
    words: Annotated[str, typer.Argument(metavar="WORD,WORD,...", help="Words of the concept.")],
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Prompts to continue, every second one to find the heads on; by default scenes to describe.",
        ),
    ] = None,
    gains: Annotated[str, typer.Option(metavar="G,G,...", help="Factors on what heads write.")] = "-1,5",
    k: Annotated[str, typer.Option("-k", "--k", metavar="K,K,...", help="Numbers of heads.")] = "1,2,4,8",
    atoms: Annotated[int, typer.Option(min=1, help="Tokens that may explain a head's output.")] = 8,
    n: Annotated[int, typer.Option("-n", min=4, max=100_000, help="Scenes, where they are drawn.")] = 100,
    draws: Annotated[int, typer.Option(min=1, help="Random sets of heads at each gain and k.")] = 3,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    stop: Annotated[str | None, typer.Option(help="Text that ends a continuation.")] = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find a concept's heads by Head Pursuit, scale them, count its words.

    Example: headscope concept red,green,blue,yellow,purple,orange --model organism/vision
    """
    with working():
        listed, given = words.split(","), prompts_from_file(data)
        factors, counts = numbers(gains, "--gains", "-1,5"), sizes(k)
        if data is not None and given is None:
            raise BadOption(f"--data {data}: expected a file that ends in .jsonl, one prompt a line.")
    if dry_run:
        plan = {"command": "concept", "words": listed, "model": model, "gains": factors, "k": counts}
        return show_plan(
            as_json, **plan, data=str(data or "scenes to describe"), n=n, draws=draws, seed=seed, out=out
        )
    with working(f"concept {words} of {model}"):
        from ..analysis.concept import concept_study
        from ..analysis.steering.methods import halves
        from ..analysis.vision.skills import to_describe
        from ..hooks.info import describe
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        train, test = halves(given) if given is not None else to_describe(bridge, n, seed)
        found = concept_study(
            bridge, listed, train, test, gains=factors, k=counts, atoms=atoms, draws=draws,
            max_new_tokens=max_new_tokens, stop=stop if given is not None or stop else " .", seed=seed,
            progress=progress_line(),
        )  # fmt: skip
        short = describe(bridge).name.rsplit("/", 1)[-1]
        folder = found.save(out / f"concept-{listed[0]}-{short}-{test.digest[:8]}-{seed}")
    table = found.table()
    shown = ["arm", "gain", "k", "draw", "n", "mentions", "mentions_low", "mentions_high", "kept", "words"]
    lines = [
        table[shown].to_string(index=False, float_format="{:.3g}".format, na_rep="-"),
        "",
        found.conclusion(),
    ]
    for before, after in found.examples:
        lines += [f"  {before.strip()}", f"  -> {after.strip()}"]
    record = {
        "table": table.to_dict("records"),
        "conclusion": found.conclusion(),
        "heads": list(map(str, found.scores.top(counts[-1]))),
        "examples": [list(pair) for pair in found.examples],
        "notes": found.notes,
        "folder": folder,
    }
    show(as_json, record, [*lines, *found.notes, f"Folder: {folder}"])
