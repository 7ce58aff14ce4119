"""The commands `headscope runs ...`: what a folder of runs holds, shown, compared, exported, cleared of leftovers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BadOption
from .arguments import one_of, sizes
from .console import progress_line, show, typed_command, working
from .options import Device, Dtype, Json, Trust

runs = typer.Typer(
    help="List, show, compare and export runs and jobs, and remove leftovers.",
    epilog="Example: headscope runs list",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Root = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
Folder = Annotated[
    str, typer.Argument(metavar="RUN", help="A run or job: its folder, or its name in --runs.")
]


@runs.command("list")
def list_(
    root: Root = Path("runs"),
    results: Annotated[bool, typer.Option("--results", help="Also the single results of jobs.")] = False,
    words: Annotated[str, typer.Option("--match", help="Only what holds these words.")] = "",
    as_json: Json = False,
) -> None:
    """List runs and jobs, newest first.

    Example: headscope runs list --match induction
    """
    with working():
        from ..jobs.listing import entries

        found = [
            entry.record()
            for entry in entries(root, results=results)
            if all(word in str(entry.record()).lower() for word in words.lower().split())
        ]
    columns = ["name", "what", "model", "methods", "data", "state", "when"]
    lines = _columns([columns, *map(_row, found)]) if found else [f"{root}: no run and no job."]
    broken = [f"{one['name']}: {one['problem']}" for one in found if one["problem"]]
    show(as_json, found, [*lines, *([""] if broken else []), *broken])


@runs.command("show")
def show_(
    run: Folder,
    root: Root = Path("runs"),
    top: Annotated[int, typer.Option(min=1, help="Heads of each score.")] = 5,
    as_json: Json = False,
) -> None:
    """Show the first heads of a run or job with their intervals, and what is missing.

    Example: headscope runs show runs/induction-text-1086c73476
    """
    with working():
        from ..jobs.listing import find, open_folder
        from ..jobs.show import lines, record

        opened = open_folder(find(run, root))
        found = record(opened, top)
    show(as_json, found, lines(opened, top))


@runs.command("compare")
def compare_(
    one: Folder,
    two: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Another; without it, the scores of one job are compared."),
    ] = None,
    root: Root = Path("runs"),
    k: Annotated[str, typer.Option(help="Numbers of first heads whose overlap is counted.")] = "1,2,4,8,16",
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File for the report, such as compare.html.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs or jobs: rank agreement with its interval, and the first heads beside chance.

    Example: headscope runs compare runs/first runs/second --out compare.html
    """
    wanted = sizes(k)
    with working():
        from ..jobs.compare import compare_folders, compare_within
        from ..jobs.listing import find, open_folder
        from ..jobs.reports_compare import write_comparison

        first = open_folder(find(one, root))
        if two is None:
            compared = compare_within(first, k=wanted, seed=seed)
        else:
            compared = compare_folders(first, open_folder(find(two, root)), k=wanted, seed=seed)
        if out is not None:
            write_comparison(out, compared, command=typed_command())
    lines: list[str] = []
    for pair in compared.pairs:
        lines += [pair.title, f"  {pair.answer}", *([f"  {pair.overlap}"] if pair.overlap else [])]
        lines += [f"  {text}" for text in pair.differs] + [""]
    lines += [*compared.alone, *([f"Report: {out}"] if out else [])]
    record = {
        "names": compared.names,
        "pairs": [pair.record() for pair in compared.pairs],
        "not_compared": compared.alone,
        "report": out,
    }
    show(as_json, record, lines)


@runs.command("export")
def export_(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs or jobs: folders, or names in --runs.")
    ],
    to: Annotated[str, typer.Option(help="csv, parquet, json or headvis.")],
    out: Annotated[
        Path | None, typer.Option(help="File or folder to write; by default named after the run.")
    ] = None,
    table: Annotated[
        str, typer.Option(help="Which table: scores, or another of the folder, such as verify or samples.")
    ] = "scores",
    intervals: Annotated[int, typer.Option(min=1, help="headvis: intervals that examples come from.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="headvis: of the examples drawn.")] = 0,
    root: Root = Path("runs"),
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Write the scores of runs and jobs as one table, or a run as the tree of files that HeadVis opens.

    Example: headscope runs export runs/first runs/second --to csv --out both.csv
    """
    one_of(to, ("csv", "parquet", "json", "headvis"), "--to")
    with working():
        from ..jobs.listing import find, open_folder

        opened = [open_folder(find(one, root)) for one in run]
        if to == "headvis":
            written = _headvis(opened, out, intervals, seed, device, dtype, trust_remote_code)
        else:
            from ..jobs.export import other_table, scores_table, write_as

            if table != "scores" and len(opened) > 1:
                raise BadOption(f"--table {table}: of one run at a time.")
            found = scores_table(opened) if table == "scores" else other_table(opened[0], table)
            written = [write_as(out or Path(f"{opened[0].name}-{table}.{to}"), found, to)]
    show(as_json, {"written": written}, [f"Written: {path}" for path in written])


@runs.command("gc")
def gc_(
    root: Root = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only listed.")] = False,
    older: Annotated[
        float, typer.Option(min=0, help="Only what nobody has touched for so many hours.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Remove what killed processes left: temporary files, units that no job asks for, claims of the dead.

    Results are never removed. Nothing outside the folder is touched, and links are not followed.

    Example: headscope runs gc --yes
    """
    with working():
        from ..jobs.leftovers import leftovers, remove

        found, notes = leftovers(root, older_seconds=3600 * older)
        size = sum(one.size for one in found)
        if yes:
            remove(root, found)
    lines = [f"{one.path.relative_to(root)}: {one.why}" for one in found]
    word = "Removed" if yes else "Would remove"
    end = f"{word} {len(found)} leftovers, {size / 1e6:.1f} MB." + (
        "" if yes or not found else " Do it: --yes"
    )
    record = {
        "removed": yes,
        "bytes": size,
        "leftovers": [{"path": one.path, "why": one.why, "size": one.size} for one in found],
        "notes": notes,
    }
    show(as_json, record, [*lines, *notes, end])


def _headvis(
    opened: list[Any],
    out: Path | None,
    intervals: int,
    seed: int,
    device: str | None,
    dtype: str | None,
    trust_remote_code: bool,
) -> list[Path]:
    from ..hooks.load import load
    from ..jobs.export import trees
    from ..jobs.export_headvis import export_headvis

    written = []
    target = out or Path(f"{opened[0].name}-headvis")
    for folder, group in trees(opened, target):
        first = group[0]
        bridge = load(
            first.model, device=device, dtype=dtype or first.dtype, trust_remote_code=trust_remote_code
        )
        first.require(bridge)
        written.append(
            export_headvis(
                folder,
                bridge,
                first.prompts,
                scores=[run.scores for run in group],
                n_intervals=intervals,
                seed=seed,
                progress=progress_line(),
            )
        )
    return written


def _row(entry: dict[str, Any]) -> list[str]:
    units = f" {entry['done']}/{entry['planned']}" if entry["what"] == "job" else ""
    return [
        entry["name"],
        entry["what"],
        _some(entry["models"]),
        _some(entry["methods"]),
        _some(entry["data"]),
        f"{entry['state']}{units}",
        entry["started"][:16].replace("T", " "),
    ]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
