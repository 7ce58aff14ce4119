"""The command `headscope circuit`: find a task's circuit, or compare all methods that find one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import BadOption
from .arguments import one_of, pairs, prompts_from_file
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Seed, Trust

if TYPE_CHECKING:
    from ..analysis.circuits import Circuit, Task

_PLANTED = "planted/"
_FORMS = (".json", ".html")
_QUICK = {"n": 8, "seeds": 2}

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="Such as ioi, or a name for the prompts of --data.")
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="organism/NAME, a folder, a hub id, or planted/TASK, which is built here."
    ),
]
Prompts = Annotated[
    str | None, typer.Option(metavar="FILE.jsonl", help="Prompts with answer, foil and corrupted text.")
]


class _Group(TyperGroup):
    """Reads `circuit ioi` as `circuit find ioi`, since nearly every call is one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["find", *args])


circuit = typer.Typer(
    cls=_Group,
    help="Find the circuit of a task: `headscope circuit ioi`. Compare all methods: `headscope circuit compare ioi`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@circuit.command()
def find(
    task: TaskName,
    model: ModelName = "organism/text",
    method: Annotated[str, typer.Option(help="A name from `headscope circuit methods`.")] = "eap-ig",
    data: Prompts = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=100_000, help="Number of prompts, where they are generated.")
    ] = 16,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the method; repeatable."),
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="Heads to keep and print.")] = 8,
    edges: Annotated[int, typer.Option(min=1, help="Edges to keep and print.")] = 20,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the circuit (.json), or a picture of it (.html)."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find the circuit of one task, and measure how much of the task it does alone.

    Example: headscope circuit ioi --method atp
    """
    if out is not None:
        one_of(out.suffix, _FORMS, f"--out {out}: the ending")
    options = pairs(option or (), "--set")
    with working():
        from ..analysis.circuits.discover import get_discovery

        get_discovery(method)
    if dry_run:
        return show_plan(
            as_json,
            command="circuit",
            task=task,
            model=model,
            method=method,
            options=options,
            n=n,
            seed=seed,
            out=out,
        )
    with (
        working(f"circuit of {task} in {model} by {method}"),
        _asked(task, model, data, n, [seed], device, dtype, trust_remote_code) as asked,
    ):
        from ..analysis.circuits.agreement import compare_with
        from ..analysis.circuits.discover import discover
        from ..analysis.circuits.faithfulness import faithfulness

        bridge, (one,), truth = asked
        found = discover(bridge, one, method, seed=seed, progress=progress_line(), **options)
        whole = found
        found = found.top(nodes=min(heads, int((found.node_scores == found.node_scores).sum())))
        if found.edge_scores is not None:
            found = found.top(edges=min(edges, int((found.edge_scores == found.edge_scores).sum())))
        does = faithfulness(bridge, one, found, of="nodes")
        kinds = "all" if whole.scores_all_edges else "heads"
        agreement = None if truth is None else compare_with(whole, truth, edges=kinds)
        if out is not None and out.suffix == ".json":
            found.save(out)
        elif out is not None:
            from ..analysis.files import write_atomically

            figure = found.figure(title=f"{task} in {model} by {method}", truth=truth)
            write_atomically(out, figure.to_html(include_plotlyjs=True))
    record = {
        "task": task,
        "model": model,
        "method": method,
        "options": found.options,
        "heads": found.table().query("inside").drop(columns="inside").to_dict("records"),
        "edges": found.edge_table().query("inside").drop(columns="inside").to_dict("records"),
        "faithful": does.faithful,
        "complete": does.complete,
        "cost": found.cost,
        "auc": None if agreement is None else agreement["auc"].to_dict(),
        "truth": None if truth is None else truth.reference,
        "file": out,
    }
    show(as_json, record, _found_lines(found, record, does.n_kept))


@circuit.command()
def compare(
    task: TaskName,
    model: ModelName = "organism/text",
    method: Annotated[
        str | None, typer.Option("--methods", help="Names with commas between; by default all.")
    ] = None,
    data: Prompts = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FILE.json", help="The true circuit, where it is not known here."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=100_000, help="Number of prompts a seed.")] = _QUICK["n"],
    seeds: Annotated[int, typer.Option(min=1, help="Sets of prompts.")] = _QUICK["seeds"],
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.KEY=VALUE", help="An option of one method; repeatable."),
    ] = None,
    curves: Annotated[bool, typer.Option(help="Measure CPR and CMD over sizes too.")] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the runs (.json), or the figure (.html).")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run all methods on one task and hold them against the circuit that is known.

    Example: headscope circuit compare ioi --methods atp,eap-ig --seeds 3
    """
    if out is not None:
        one_of(out.suffix, _FORMS, f"--out {out}: the ending")
    listed = None if method is None else [name.strip() for name in method.split(",")]
    options = _by_method(option or ())
    with working():
        from ..analysis.circuits.discover import get_discovery

        for name in listed or ():
            get_discovery(name)
    if dry_run:
        return show_plan(
            as_json,
            command="circuit compare",
            task=task,
            model=model,
            methods=listed or "all",
            n=n,
            seeds=seeds,
            out=out,
        )
    with (
        working(f"methods on {task} in {model}"),
        _asked(task, model, data, n, range(seeds), device, dtype, trust_remote_code) as (
            bridge,
            tasks,
            known,
        ),
    ):
        from ..analysis.circuits.circuit import Circuit
        from ..analysis.circuits.comparison import compare_methods

        right = known if truth is None else Circuit.load(truth)
        if right is None:
            raise BadOption(
                f"compare {task}: no circuit is known for it in {model}; give one with --truth FILE.json."
            )
        found = compare_methods(
            bridge, tasks, right, methods=listed, options=options, curves=curves, progress=progress_line()
        )
        if out is not None:
            from ..analysis.files import write_atomically, write_json

            if out.suffix == ".json":
                write_json(out, {"task": task, "model": model, "runs": found.runs.to_dict("records")})
            else:
                title = f"{task} in {model}, against the known circuit ({right.reference})"
                write_atomically(out, found.figure(title=title).to_html(include_plotlyjs=True))
    table = found.table()
    record = {
        "task": task,
        "model": model,
        "truth": {"reference": right.reference, "heads": right.heads, "edges": len(right.edges)},
        "methods": table.to_dict("records"),
        "failed": dict(found.failed),
        "file": out,
    }
    show(as_json, record, _compared_lines(task, model, right, table, found.failed, out))


@circuit.command()
def methods(as_json: Json = False) -> None:
    """List the methods that find circuits, with their options and papers."""
    with working():
        from ..analysis.circuits.discover import discoveries

        known = discoveries()
    lines, record = [], []
    for name, one in known.items():
        record.append(
            {
                "name": name,
                "summary": one.summary,
                "edges": one.edges,
                "exact": one.exact,
                "options": {key: str(option) for key, option in one.options.items()},
                "reference": one.reference,
            }
        )
        kind = f"{'heads and edges' if one.edges else 'heads'}, {'measured' if one.exact else 'estimated'}"
        lines += [f"{name}  ({kind})", f"  {one.summary}"]
        lines += [f"  options: {', '.join(map(str, one.options.values()))}"] if one.options else []
        lines += [f"  {one.reference}", ""]
    show(as_json, record, lines)


@contextmanager
def _asked(
    task: str,
    model: str,
    data: str | None,
    n: int,
    seeds: Any,
    device: str | None,
    dtype: str | None,
    trust_remote_code: bool,
) -> Iterator[tuple[Any, list[Task], Circuit | None]]:
    """Load or build the model, make the task once a seed, and look up what is known of its circuit."""
    from ..analysis.circuits import truth
    from ..analysis.circuits.task import task as make
    from ..hooks.load import load

    prompts = prompts_from_file(data)
    with tempfile.TemporaryDirectory() as folder:
        if model.startswith(_PLANTED):
            from ..organisms import planted_circuits

            name = model.removeprefix(_PLANTED)
            planted_circuits.plan(name)
            if task != name and prompts is None:
                raise BadOption(f"{model} has one task: headscope circuit {name} --model {model}.")
            bridge, _, right = truth.planted(name, Path(folder), n=1)
            made = [
                make(name, prompts=prompts or planted_circuits.prompts(name, n, seed=seed)) for seed in seeds
            ]
            yield bridge, made, right
            return
        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        made = [make(task, bridge, n=n, seed=seed, prompts=prompts) for seed in seeds]
        yield bridge, made, truth.known(bridge, task)


def _by_method(items: Any) -> dict[str, dict[str, str]]:
    """Read `method.key=value` items."""
    found: dict[str, dict[str, str]] = {}
    for key, value in pairs(items, "--set").items():
        name, dot, option = key.partition(".")
        if not (dot and option):
            raise BadOption(f"--set {key}={value}: expected METHOD.KEY=VALUE, such as --set eap-ig.steps=10")
        found.setdefault(name, {})[option] = value
    return found


def _found_lines(found: Circuit, record: dict[str, Any], n_kept: int) -> list[str]:
    lines = [f"{found.method} of {found.task} in {found.model}", "", "head    score"]
    lines += [
        f"{'L{layer}H{head}'.format(**row):<7} {row['score']:<9.3g}{row['role']}".rstrip()
        for row in record["heads"]
    ]
    if record["edges"]:
        lines += ["", "edge               score"]
    for row in record["edges"]:
        slot = f".{row['slot']}" if row["slot"] else ""
        lines.append(f"{row['writer'] + '→' + row['reader'] + slot:<18} {row['score']:.3g}")
    cost = found.cost
    lines += [
        "",
        f"These {n_kept} heads alone do {record['faithful']:.0%} of the task; without them {record['complete']:.0%} is "
        "lost (heads that are taken away write what they write on the corrupted text).",
        f"{cost['seconds']:.1f} s, {cost['forward']} sequences forward, {cost['backward']} back.",
    ]
    if record["auc"] is not None:
        auc = ", ".join(f"{what} {value:.3f}" for what, value in record["auc"].items() if value == value)
        lines.append(f"ROC AUC against the known circuit ({record['truth']}): {auc}.")
    return [*lines, *found.notes, *([f"File: {record['file']}"] if record["file"] else [])]


def _compared_lines(
    task: str, model: str, right: Circuit, table: Any, failed: Any, out: Path | None
) -> list[str]:
    lines = [
        f"{task} in {model}, against {len(right.heads)} heads and {len(right.edges)} edges: {right.reference}",
        *right.notes,
        "",
        "method              AUC heads            AUC edges            head→head  CPR    CMD    seconds  forward  back",
    ]

    def spread(row: Any, name: str) -> str:
        value = row[name]
        return "-" if value != value else f"{value:.3f} [{row[name + '_low']:.3f}, {row[name + '_high']:.3f}]"

    def short(value: float) -> str:
        return "-" if value != value else f"{value:.2f}"

    for row in table.to_dict("records"):
        auc = f"{spread(row, 'node_auc'):<20} {spread(row, 'edge_auc'):<20} {short(row['head_edge_auc']):<10}"
        cost = f"{row['seconds']:<8.1f} {row['forward']:<8.0f} {row['backward']:.0f}"
        lines.append(f"{row['method']:<19} {auc} {short(row['cpr']):<6} {short(row['cmd']):<6} {cost}")
    lines += [
        "",
        f"Means over {int(table['seeds'].max()) if len(table) else 0} sets of prompts, with their range.",
    ]
    lines += [f"Not run: {name}: {why}" for name, why in failed.items()]
    return [*lines, *([f"File: {out}"] if out else [])]
