"""The command line: every command is a Python function of the same name, with the answer on standard output.

Progress and whatever libraries print go to standard error. Torch is imported when a command needs it, so that
``headscope --help`` answers at once.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .errors import BadOption, CallError, HeadscopeError, MissingData, nearest

if TYPE_CHECKING:
    from .analysis.scores import HeadScores
    from .datasets.prompts import PromptSet
    from .hooks.interventions import Intervention


class _Commands(TyperGroup):
    """Turns errors that are meant for the user into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadscopeError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, CallError) else 1) from None
        except KeyboardInterrupt:
            typer.echo(
                "Interrupted. What was being written is not there; nothing else has changed.", err=True
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    help="Attention heads: where they look, which matter, whether that is causal. Exit status: 0 done, 1 the run "
    "failed, 2 the call was wrong.",
    epilog="Example: headscope demo --out runs/demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option("--model", "-m", help="organism/NAME, a folder, or a hub id.")]
Out = Annotated[Path, typer.Option(help="Folder that receives the run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Seed = Annotated[int, typer.Option(help="Same seed, same numbers.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; by default a GPU if there is one.")]


def main() -> None:
    """Run the command line."""
    app(prog_name="headscope")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headscope {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Seed = 0,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score the shipped models, check causally, write a report.

    Example: headscope demo --out runs/demo
    """
    if dry_run:
        return _plan(
            as_json, command="demo", models=["organism/text", "organism/planted"], seed=seed, out=out
        )
    with _working("demo"):
        from .analysis.demo import demo as run

        report = run(out, seed=seed)
    _print(as_json, {"report": report}, [f"Report: {report}"])


@app.command()
def models(
    check: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Measure what this shipped model can do.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Held-out prompts per skill, for --check.")] = 200,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """List the shipped models, or check one on held-out prompts.

    Example: headscope models --check organism/text
    """
    if check is None:
        with _working():
            from .hooks.load import available

            cards = available()
        rows = [{"name": card.name, "summary": card.summary, "folder": card.folder} for card in cards]
        lines = [f"{row['name']:<20} {row['summary']}" for row in rows]
        return _print(
            as_json, rows, [*lines, "Any folder in Hugging Face form and any hub id can be loaded too."]
        )
    with _working(f"check {check}"):
        from .analysis.check import check as run

        found = run(check, n=n, seed=seed)
    rows = [one.record() for one in found]
    _print(as_json, {"model": check, "seed": seed, "checks": rows}, [str(one) for one in found])
    if not all(one.passed for one in found):
        raise typer.Exit(1)


@app.command()
def methods(as_json: Json = False) -> None:
    """List what heads can be scored by.

    With the data each method needs, its options and its paper.

    Example: headscope methods --json
    """
    with _working():
        from .analysis.registry import methods as known

        found = list(known().values())
    rows = [
        {
            "name": one.name,
            "summary": one.summary,
            "data": one.data,
            "higher": one.higher,
            "options": [str(option) for option in one.options.values()],
            "reference": one.reference,
        }
        for one in found
    ]
    lines = []
    for row in rows:
        options = ", ".join(row["options"]) or "none"
        lines += [f"{row['name']}: {row['summary']}", f"    higher: {row['higher']}"]
        lines += [f"    data: {row['data']}; options: {options}"]
        lines += [f"    {row['reference']}"] if row["reference"] else []
    _print(as_json, rows, lines)


@app.command()
def score(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A name from `headscope methods`.")],
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.jsonl", help="Prompts; by default those the method asks for."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Number of prompts, where they are generated.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the method; repeatable."),
    ] = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    top: Annotated[int, typer.Option(min=1, help="Number of heads to print.")] = 10,
    device: Device = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score every head of a model by one method; save the run.

    Example: headscope score previous-token --model organism/text
    """
    with _working():
        from .analysis.registry import get

        chosen = get(method)
        options = chosen.resolve(_pairs(option or (), "--set"))
        prompts = _from_file(data)
    if dry_run:
        plan = {
            "command": "score",
            "method": method,
            "model": model,
            "options": options,
            "seed": seed,
            "out": out,
        }
        return _plan(as_json, **plan, data=str(prompts or data or chosen.data))
    started, begun = datetime.now(UTC), time.monotonic()
    with _working(f"score {method} of {model}"):
        from .analysis.run import save_run
        from .analysis.score import default_prompts
        from .analysis.score import score as run
        from .hooks.load import load

        bridge = load(model, device=device)
        if prompts is None:
            prompts = default_prompts(bridge, data or chosen.data, seed, n=n)
        scores = run(bridge, method, prompts, seed=seed, **options)
        seconds = time.monotonic() - begun
        folder = save_run(
            out, scores, model=bridge, prompts=prompts, command=_command(), started=started, seconds=seconds
        )
    lines = [*_score_lines(scores, top), f"Run: {folder}", f"Report: {folder / 'report.html'}"]
    _print(as_json, {**_score_record(scores), "run": folder}, lines)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", metavar="TEXT", help="What to continue; repeatable.")
    ],
    ablate: Annotated[
        str | None, typer.Option(metavar="HEADS", help="Heads to change, such as L5H1,L6H0.")
    ] = None,
    how: Annotated[
        str, typer.Option(metavar="KIND", help="How: uniform (attention spread evenly), zero, or mean.")
    ] = "uniform",
    scale: Annotated[
        list[str] | None, typer.Option(metavar="HEADS=g", help="Multiply head outputs by g; repeatable.")
    ] = None,
    phase: Annotated[str, typer.Option(help="Where to intervene: prefill, decode or all.")] = "all",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 20,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Continue a text, clean and with changed heads.

    Example: headscope generate -m organism/planted -p "apple banana orange apple" --ablate L2H1
    """
    with _working():
        changes = _interventions(ablate, how, scale or (), phase, prompt)
    if dry_run:
        plan = {
            "command": "generate",
            "model": model,
            "prompts": prompt,
            "interventions": [str(c) for c in changes],
        }
        return _plan(as_json, **plan, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    with _working(f"generate with {model}"):
        from .hooks.generate import generate as run
        from .hooks.load import load

        bridge = load(model, device=device)
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        clean = run(bridge, prompt, **settings)
        changed = run(bridge, prompt, interventions=changes, **settings) if changes else ()
    rows, lines = [], []
    for index, text in enumerate(prompt):
        row = {"prompt": text, "clean": clean[index].text}
        if changes:
            row["changed"] = changed[index].text
        rows.append(row)
        lines += [f"prompt: {text}", *_side_by_side(row), ""]
    _print(as_json, {"interventions": [str(change) for change in changes], "texts": rows}, lines[:-1])


@contextmanager
def _working(what: str = "") -> Iterator[None]:
    """Send what libraries print to standard error, and say there what is being done and how long it took."""
    begun = time.monotonic()
    if what:
        typer.echo(f"{what} ...", err=True)
    with redirect_stdout(sys.stderr):
        yield
    if what:
        typer.echo(f"{what}: {time.monotonic() - begun:.1f} s", err=True)


def _print(as_json: bool, record: Any, lines: Iterable[str]) -> None:
    if as_json:
        from .analysis.files import jsonable

        text = json.dumps(jsonable(record), indent=2, ensure_ascii=False, allow_nan=False)
    else:
        text = "\n".join(lines)
    typer.echo(text)


def _plan(as_json: bool, **plan: Any) -> None:
    plan = {key: str(value) if isinstance(value, Path) else value for key, value in plan.items()}
    lines = [f"{key}: {value}" for key, value in plan.items()]
    _print(as_json, {"plan": plan}, ["Would run:", *(f"  {line}" for line in lines)])


def _command() -> str:
    """Return the command line that was typed, as it can be typed again."""
    return shlex.join(["headscope", *sys.argv[1:]])


def _pairs(items: Sequence[str], where: str) -> dict[str, str]:
    """Read `key=value` items."""
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise BadOption(f"{where} {item!r}: expected key=value, such as {where} threshold=0.1")
        if key in pairs:
            raise BadOption(f"{where} {item!r}: {key} stands twice; give it once")
        pairs[key] = value
    return pairs


def _from_file(data: str | None) -> PromptSet | None:
    """Read a prompt file; None where `data` is no file but a name, or not given."""
    if data is None:
        return None
    path = Path(data).expanduser()
    if path.suffix == ".jsonl" or path.exists() or len(path.parts) > 1:
        from .datasets.prompts import PromptSet

        if path.exists() and path.suffix != ".jsonl" and path.is_file():
            raise MissingData(f"{data}: expected a file that ends in .jsonl, one prompt a line")
        return PromptSet.from_jsonl(path)
    return None


def _interventions(
    ablate: str | None, how: str, scales: Sequence[str], phase: str, prompts: Sequence[str]
) -> list[Intervention]:
    from functools import partial

    from .hooks.interventions import mean, scale, uniform, zero

    kinds = {"uniform": uniform, "zero": zero, "mean": partial(mean, reference=prompts)}
    if how not in kinds:
        raise BadOption(f"--how {how}: no such kind.{nearest(how, kinds)}")
    changes: list[Intervention] = [] if ablate is None else [kinds[how](ablate, phase=phase)]
    for item in scales:
        heads, _, gain = item.rpartition("=")
        try:
            number = float(gain)
        except ValueError:
            heads = ""
        if not heads:
            raise BadOption(f"--scale {item}: expected heads=gain, such as --scale L5H1=2")
        changes.append(scale(heads, number, phase=phase))
    return changes


def _score_lines(scores: HeadScores, top: int) -> list[str]:
    table = scores.table().dropna(subset=["score"]).head(top)
    lines = [f"{scores.method} of {scores.model} on {scores.data}; higher = {scores.higher}", ""]
    lines += ["head    score    low      high     q        n"]
    for row in table.itertuples(index=False):
        numbers = (
            f"{value:<8.3g}" if value == value else "-       "
            for value in (row.score, row.low, row.high, row.q)
        )
        lines.append(f"{f'L{row.layer}H{row.head}':<7} {' '.join(numbers)} {row.n}")
    return [*lines, "", *scores.notes]


def _score_record(scores: HeadScores) -> dict[str, Any]:
    return {
        "method": scores.method,
        "options": {key: getattr(value, "__name__", value) for key, value in scores.options.items()},
        "model": scores.model._asdict(),
        "data": scores.data._asdict(),
        "seed": scores.seed,
        "higher": scores.higher,
        "causal": scores.causal,
        "notes": list(scores.notes),
        "heads": scores.table().to_dict("records"),
    }


def _side_by_side(row: dict[str, str]) -> list[str]:
    names = [name for name in ("clean", "changed") if name in row]
    width = max(20, min(shutil.get_terminal_size((100, 20)).columns, 160) // len(names) - 3)
    columns = [[name, "-" * len(name), *_wrapped(row[name], width)] for name in names]
    height = max(map(len, columns))
    cells = [[*column, *[""] * (height - len(column))] for column in columns]
    return [" | ".join(cell.ljust(width) for cell in line).rstrip(" |") for line in zip(*cells, strict=True)]


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() or [""] for part in textwrap.wrap(line, width) or [""]]
