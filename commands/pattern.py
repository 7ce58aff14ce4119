"""The command `headscope pattern`: where one head looks on one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BadOption
from .arguments import one_of
from .console import show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Trust

_FORMS = (".html", ".csv", ".json")


def pattern(
    model: Model,
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="What the head reads.")],
    head: Annotated[str, typer.Option(metavar="HEAD", help="One head, such as L5H1.")],
    weighted: Annotated[
        bool, typer.Option("--weighted", help="Weight attention by what is written of each key, ‖v·W_O‖.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Keys to print for each token.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the whole pattern: a page (.html), or a table (.csv, .json)."
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Show where one head looks on one prompt.

    Example: headscope pattern -m organism/planted -p "apple banana orange apple" --head L2H1
    """
    if out is not None:
        one_of(out.suffix, _FORMS, f"--out {out}: the ending")
    plan = {"command": "pattern", "model": model, "prompt": prompt, "head": head, "weighted": weighted}
    if dry_run:
        return show_plan(as_json, **plan, out=out)
    with working(f"pattern of {head} in {model}"):
        from ..analysis.csv_text import csv_text
        from ..analysis.files import write_atomically, write_json
        from ..analysis.look_figures import head_figure
        from ..analysis.looks import look
        from ..hooks.heads import parse_heads
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        heads = parse_heads(head, bridge)
        if len(heads) != 1:
            raise BadOption(f"--head {head}: {len(heads)} heads; name one, such as --head L0H1.")
        looks, one = look(bridge, prompt), heads[0]
        keys = looks.top_keys(one, top, weighted=weighted)
        record = {
            "model": model,
            "prompt": prompt,
            "head": str(one),
            "weighted": weighted,
            "tokens": looks.tokens,
        }
        if out is not None and out.suffix == ".html":
            write_atomically(out, head_figure(looks, one, weighted=weighted).to_html(include_plotlyjs=True))
        elif out is not None and out.suffix == ".csv":
            write_atomically(out, csv_text(looks.table(one, weighted=weighted)))
        elif out is not None:
            whole = looks.table(one, weighted=weighted).to_dict("records")
            write_json(out, {**record, "pattern": whole})
    lines = [f"{one} of {model}: {'attention × ‖v·W_O‖' if weighted else 'attention'}", ""]
    for (query, token), rows in keys.groupby(["query", "query_token"], sort=False):
        looked = "   ".join(f"{row.weight:.3f} {row.key} {row.key_token!r}" for row in rows.itertuples())
        lines.append(f"{query:>4} {token!r:<16} {looked}")
    lines += [] if out is None else ["", f"File: {out}"]
    show(as_json, {**record, "keys": keys.to_dict("records"), "file": out}, lines)
