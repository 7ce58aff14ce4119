"""The command `headscope selective`: do heads that score high matter for seeing, and for seeing only?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import kinds, one_of, pairs, sizes
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust


def selective(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="What ranks the heads, such as vhd.")],
    model: Model,
    k: Annotated[
        str, typer.Option("-k", "--k", metavar="K,K,...", help="Numbers of heads.")
    ] = "1,2,3,4,5,6,7,8",
    n: Annotated[int, typer.Option("-n", min=4, max=100_000, help="Held-out prompts a task.")] = 200,
    how: Annotated[
        str, typer.Option(metavar="KIND", help="zero or uniform (attention spread evenly).")
    ] = "zero",
    rank_on: Annotated[
        str, typer.Option(metavar="TASK", help="One visual task to rank heads on; by default all in turn.")
    ] = "all",
    layers: Annotated[
        str | None,
        typer.Option(metavar="L,L,...", help="Rank the heads of these layers only; by default of all."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="KEY=VALUE", help="Of the method; repeatable."),
    ] = None,
    at_least: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="What visual tasks should lose on average in training: chooses k."
        ),
    ] = 0.3,
    at_most: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="What each text-only task may lose less than.")
    ] = 0.05,
    draws: Annotated[int, typer.Option(min=1, help="Random sets of heads at each k.")] = 3,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Take heads away; see what questions about images lose, and what tasks without one.

    Heads are ranked, and their number is chosen, on scenes of the training split: the fewest that cost the visual tasks
    --at-least on average. What is printed is measured on held-out scenes that break the prior.

    Example: headscope selective vhd --model organism/vision
    """  # fmt: skip
    with working():
        from ..analysis.registry import get

        options = get(method).resolve(pairs(option or (), "--option"))
        kind, counts = kinds()[one_of(how, kinds(), "--how")], sizes(k)
        among = None if layers is None else sizes(layers, "--layers", "0,1", least=0)
    if dry_run:
        plan = {
            "command": "selective",
            "method": method,
            "options": options,
            "model": model,
            "k": counts,
            "how": how,
            "layers": among,
        }
        return show_plan(as_json, **plan, rank_on=rank_on, n=n, draws=draws, seed=seed, out=out)
    with working(f"selective {method} of {model}"):
        from ..analysis.vision.selective import selective_heads
        from ..hooks.info import describe
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        found = selective_heads(
            bridge, method, n=n, seed=seed, rank_on=rank_on, layers=among, options=options, how=kind, k=counts,
            at_least=at_least, at_most=at_most, draws=draws, progress=progress_line(),
        )  # fmt: skip
        short = describe(bridge).name.rsplit("/", 1)[-1]
        place = "" if among is None else f"-layers{'.'.join(map(str, among))}"
        folder = found.save(out / f"selective-{method}-{rank_on}{place}-{short}-{how}-{n}-{seed}")
    tables = [
        ("Points lost in training, by number of heads", "train", "top"),
        ("Points lost on fresh prompts", "test", "top"),
        ("Points lost on fresh prompts without as many random heads of the same layers", "test", "same-layers"),
    ]  # fmt: skip
    lines = []
    for title, split, arm in tables:
        shown = (100 * found.curve(split, arm)).to_string(float_format="{:.1f}".format, na_rep="-")
        lines += [f"{title}:", shown, ""]
    lines += [found.conclusion(), *found.notes, f"Folder: {folder}"]
    record = {"table": found.table().to_dict("records"), "k": found.k, "heads": list(map(str, found.heads)),
              "conclusion": found.conclusion(), "notes": found.notes, "folder": folder}  # fmt: skip
    show(as_json, record, lines)
