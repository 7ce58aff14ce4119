"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="organism/NAME, a folder, or a hub id.")]
Out = Annotated[Path, typer.Option(help="Folder that receives the run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; by default a GPU if there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of the weights: float32 (the default), bfloat16 or float16."),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that the model's folder brings, with all your rights. Read it first.",
    ),
]
