"""The command line: every command is a Python function of the same name, with the answer on standard output.

Progress and whatever libraries print go to standard error. Torch is imported when a command needs it, so that
``headscope --help`` answers at once.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .arguments import fresh_prompts, interventions, kinds, one_of, pairs, places, prompts_from_file, sizes
from .console import (
    progress_line,
    score_lines,
    score_record,
    show,
    show_plan,
    side_by_side,
    typed_command,
    working,
)
from .errors import CallError, HeadscopeError
from .options import Device, DryRun, Json, Model, Out, Seed
from .pattern_command import pattern
from .safety_command import sahara


class _Commands(TyperGroup):
    """Turns errors that are meant for the user into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadscopeError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, CallError) else 1) from None
        except KeyboardInterrupt:
            # An interrupt that passed through code run from a string, as dataclasses are made, leaves CPython's mark of
            # an unhandled one, and the process would end by the signal. Running such code again takes the mark away.
            exec("")
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
        return show_plan(
            as_json, command="demo", models=["organism/text", "organism/planted"], seed=seed, out=out
        )
    summary: list[str] = []
    answers = sys.stderr if as_json else sys.stdout

    def say(line: str) -> None:
        summary.append(line)
        typer.echo(line, file=answers)

    with working("demo"):
        from .analysis.demo import demo as run

        report = run(out, seed=seed, progress=say)
    show(as_json, {"report": report, "summary": summary}, [f"Report: {report}"])


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
        with working():
            from .hooks.load import available

            cards = available()
        rows = [{"name": card.name, "summary": card.summary, "folder": card.folder} for card in cards]
        lines = [f"{row['name']:<20} {row['summary']}" for row in rows]
        return show(
            as_json, rows, [*lines, "Any folder in Hugging Face form and any hub id can be loaded too."]
        )
    with working(f"check {check}"):
        from .analysis.check import check as run

        found = run(check, n=n, seed=seed)
    rows = [one.record() for one in found]
    show(as_json, {"model": check, "seed": seed, "checks": rows}, [str(one) for one in found])
    if not all(one.passed for one in found):
        raise typer.Exit(1)


@app.command()
def methods(as_json: Json = False) -> None:
    """List what heads can be scored by.

    With the data each method needs, its options and its paper.

    Example: headscope methods --json
    """
    with working():
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
    show(as_json, rows, lines)


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
    with working():
        from .analysis.registry import get

        chosen = get(method)
        options = chosen.resolve(pairs(option or (), "--set"))
        prompts = prompts_from_file(data)
    if dry_run:
        plan = {
            "command": "score",
            "method": method,
            "model": model,
            "options": options,
            "seed": seed,
            "out": out,
        }
        return show_plan(as_json, **plan, data=str(prompts or data or chosen.data))
    started, begun = datetime.now(UTC), time.monotonic()
    with working(f"score {method} of {model}"):
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
            out,
            scores,
            model=bridge,
            prompts=prompts,
            command=typed_command(),
            started=started,
            seconds=seconds,
        )
    lines = [*score_lines(scores, top), f"Run: {folder}", f"Report: {folder / 'report.html'}"]
    show(as_json, {**score_record(scores), "run": folder}, lines)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `headscope score` prints it.")],
    k: Annotated[
        str, typer.Option("-k", "--k", metavar="K,K,...", help="Numbers of top heads to change.")
    ] = "1,2,4,8",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.jsonl", help="Prompts; by default fresh ones of the kind that was scored."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Number of prompts, where they are generated.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What to measure; by default what the method names.")
    ] = None,
    how: Annotated[
        str, typer.Option(metavar="KIND", help="uniform (attention spread evenly) or zero.")
    ] = "uniform",
    phase: Annotated[
        str | None, typer.Option(help="prefill, decode or all; by default what the method names.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Random sets per control and k.")] = 5,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Change a run's top heads, beside random heads.

    The run folder then holds the check too, and a report with both.

    Example: headscope verify runs/previous-token-text-* --k 1,2,4,8
    """
    with working():
        from .analysis.run import load_run, save_check

        done = load_run(run)
        kind = kinds()[one_of(how, kinds(), "--how")]
        counts = sizes(k)
        prompts = prompts_from_file(data)
    if dry_run:
        plan = {"command": "verify", "run": run, "model": done.model, "k": counts, "how": how, "draws": draws}
        return show_plan(
            as_json, **plan, data=str(prompts or data or "fresh prompts of the kind that was scored")
        )
    with working(f"verify {done.scores.method} of {done.model}"):
        from .analysis.score import default_prompts
        from .analysis.verify import verify as check
        from .hooks.load import load

        bridge = load(done.model, device=device)
        done.require(bridge)
        begun = time.monotonic()
        if prompts is None:
            prompts = default_prompts(bridge, data, seed, n=n) if data else fresh_prompts(bridge, done, n)
        settings = {"how": kind, "phase": phase, "k": counts, "draws": draws, "seed": seed}
        found = check(bridge, done.scores, prompts, metric, progress=progress_line(), **settings)
        save_check(done, found, model=bridge, command=typed_command(), seconds=time.monotonic() - begun)
    table = found.summary()
    record = {"verdict": found.verdict, "arms": table.to_dict("records"), "notes": found.notes, "run": run}
    shown = table[["arm", "k", "draws", "n", "value", "effect", "low", "high", "p"]]
    lines = [
        shown.to_string(index=False, na_rep="-", float_format="{:.3g}".format),
        "",
        found.verdict,
        *found.notes,
    ]
    show(as_json, record, [*lines, f"Report: {run / 'report.html'}"])


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
    positions: Annotated[
        str | None,
        typer.Option(metavar="I,I,...", help="Tokens to intervene at: 0 is the first, -1 the prompt's last."),
    ] = None,
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
    with working():
        changes = interventions(ablate, how, scale or (), phase, prompt, places(positions))
    if dry_run:
        plan = {
            "command": "generate",
            "model": model,
            "prompts": prompt,
            "interventions": [str(c) for c in changes],
        }
        return show_plan(as_json, **plan, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    with working(f"generate with {model}"):
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
        lines += [f"prompt: {text}", *side_by_side(row), ""]
    show(as_json, {"interventions": [str(change) for change in changes], "texts": rows}, lines[:-1])


app.command()(pattern)
app.command()(sahara)


@app.command("app")
def workbench(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS]", help="Folder of runs to browse.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = 8501,
    address: Annotated[
        str,
        typer.Option(help="127.0.0.1 serves this machine only; whoever reaches another address can use it."),
    ] = "127.0.0.1",
    keep: Annotated[
        int, typer.Option("--models", min=1, help="Models in memory at a time; the oldest is freed.")
    ] = 1,
) -> None:
    """Open the workbench: see every head, change heads, compare.

    Example: headscope app runs --port 8501
    """
    from .app.launch import launch

    launch(runs, port=port, address=address, models=keep)
