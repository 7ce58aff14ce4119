"""The commands `headscope jobs ...`: what job files may say, and how jobs stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import say, show, working
from .options import Json

jobs = typer.Typer(
    name="jobs",
    help="What job files may say, and how jobs stand.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@jobs.command("schema")
def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write it there instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON schema of job files, for editors.

    With a first line `# yaml-language-server: $schema=job.schema.json` an editor completes and checks a job file.

    Example: headscope jobs schema --out job.schema.json
    """
    with working():
        from ..jobs.spec import schema as made

        text = json.dumps(made(), indent=2, ensure_ascii=False) + "\n"
        if out is not None:
            from ..analysis.files import write_atomically

            write_atomically(out, text)
    if out is not None:
        say(f"File: {out}")
    else:
        typer.echo(text, nl=False)


@jobs.command("kinds")
def kinds(as_json: Json = False) -> None:
    """List the kinds of step that a job can have.

    Example: headscope jobs kinds
    """
    with working():
        from ..jobs.steps import kinds as known

        found = {name: (cls.__doc__ or "").strip().splitlines()[0] for name, cls in known().items()}
    show(as_json, found, [f"{name}: {summary}" for name, summary in found.items()])


@jobs.command("status")
def status(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS]", help="Folder of jobs, or one job's.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """Say how far jobs are.

    Example: headscope jobs status runs
    """
    with working():
        from dataclasses import asdict

        from ..jobs.progress import line
        from ..jobs.status import status as look
        from ..jobs.store import list_jobs

        single = (runs / "units.json").is_file()
        found = {str(folder): look(folder) for folder in ((runs,) if single else list_jobs(runs))}
    lines = [
        f"{folder}: {one.state}{'' if one.alive or one.state != 'running' else ', no process'}; {line(one)}"
        for folder, one in found.items()
    ]
    show(as_json, {folder: asdict(one) for folder, one in found.items()}, lines or [f"No job in {runs}."])
