"""The command `headscope generate`: clean and changed text side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from .arguments import interventions, marked_prompts, one_of, steered_by
from .console import show, show_plan, side_by_side, working
from .options import Device, DryRun, Dtype, Json, Model, Seed, Trust


def generate(
    model: Model,
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", metavar="TEXT", help="What to continue; repeatable.")
    ],
    ablate: Annotated[
        str | None, typer.Option(metavar="HEADS", help="Heads to change, such as L5H1,L6H0.")
    ] = None,
    how: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="How: uniform (attention spread evenly), zero, mean (over these prompts), or resample.",
        ),
    ] = "uniform",
    scale: Annotated[
        list[str] | None, typer.Option(metavar="HEADS=g", help="Multiply head outputs by g; repeatable.")
    ] = None,
    steer: Annotated[
        str | None,
        typer.Option(metavar="METHOD=STRENGTH", help="A method of steering, such as juice=1 or act=0.6."),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(metavar="HEADS", help="What --steer boosts or changes.")
    ] = None,
    suppress: Annotated[str | None, typer.Option(metavar="HEADS", help="What --steer holds down.")] = None,
    keys: Annotated[
        str | None,
        typer.Option(metavar="I,I,...|SPAN", help="What --steer turns attention to: tokens, or a --span."),
    ] = None,
    directions: Annotated[
        str | None, typer.Option(metavar="FILE.safetensors", help="Directions for --steer add or focus.")
    ] = None,
    phase: Annotated[str, typer.Option(help="Where to intervene: prefill, decode or all.")] = "all",
    positions: Annotated[
        str | None,
        typer.Option(
            metavar="I,I,...|SPAN",
            help="Tokens to intervene at: 0 is the first, -1 the prompt's last; or the name of a --span.",
        ),
    ] = None,
    flow: Annotated[
        str,
        typer.Option(help="total: all that comes later feels the change; direct: the logits only."),
    ] = "total",
    corrupted: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="What resample takes the heads' output from; once for each prompt."
        ),
    ] = None,
    span: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=START:STOP", help="Letters of the prompt that have a name; repeatable."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|scene:...", help="A picture that every prompt is about; repeatable."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 20,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Continue a text, clean and with changed heads.

    Example: headscope generate -m organism/planted -p "apple banana orange apple" --ablate L2H1

    Heads of the part of a model that sees are changed under its name with `#tower`: -m organism/vision#tower.

    With --how resample a head writes what it writes on the prompt's --corrupted text, which has as many tokens.
    """
    with working():
        from ..analysis.changes import read_positions
        from ..analysis.direct import FLOWS, flowing

        prompts = marked_prompts(prompt, corrupted or (), span or (), "\n".join(image or ()))
        where = read_positions(positions or "")
        changes = interventions(ablate, how, scale or (), phase, prompts, where)
        one_of(flow, FLOWS, "--flow")
        steering = steered_by(steer, heads, suppress, keys, directions, phase, where)
        said = [str(change) for change in (*changes, *((steering,) if steering else ()))]
    if dry_run:
        plan = {
            "command": "generate",
            "model": model,
            "prompts": prompt,
            "interventions": said,
            "flow": flow,
        }
        return show_plan(as_json, **plan, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    with working(f"generate with {model}"):
        from ..analysis.steering.steered import Steered
        from ..datasets.prompts import PromptSet
        from ..hooks.generate import generate as run
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        clean = changed = run(bridge, prompts, **settings)
        if said:
            data = PromptSet("prompts", tuple(prompts))
            steered = steering.steered(bridge, data) if steering else Steered()
            with flowing(flow, bridge, [*changes, *steered.interventions]):
                texts = steered.prompts(bridge, data)
                changed = run(bridge, texts, decoding=steered.decoding, **settings)
    rows, lines = [], []
    for index, text in enumerate(prompt):
        row = {"prompt": text, "clean": clean[index].text}
        if said:
            row["changed"] = changed[index].text
        rows.append(row)
        lines += [f"prompt: {text}", *side_by_side(row), ""]
    show(as_json, {"interventions": said, "texts": rows}, lines[:-1])
