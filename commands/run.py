"""The command `headscope run`: a job file, or the folder of a job that was begun."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import say, show, typed_command, working
from .options import Device, DryRun, Json, Out, Trust


def run(
    job: Annotated[
        Path, typer.Argument(metavar="JOB.yaml|FOLDER", help="A job file, or a job's folder to go on with.")
    ],
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PLACE=VALUE", help="Replace what the file says; repeatable."),
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, or Ray actors; each loads the model.")
    ] = 1,
    shard: Annotated[
        str, typer.Option(metavar="i/n", help="Compute every n-th unit, from the i-th: for job arrays.")
    ] = "",
    out: Out = Path("runs"),
    device: Device = None,
    trust_remote_code: Trust = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run a batch job; run it again to resume.

    What is done is not computed again, whatever ended the run before. Failed units do not stop the others; they are
    listed, and the exit status is then 1.

    On a cluster with a shared folder:
    sbatch --array=1-16 --wrap 'headscope run JOB.yaml --shard $SLURM_ARRAY_TASK_ID/16 --quiet'

    Example: headscope run job.yaml --workers 2
    """
    with working():
        from ..jobs.progress import display
        from ..jobs.progress import quiet as silent
        from ..jobs.run import run_job, shard_of
        from ..jobs.spec import read_job

        shard_of(shard)
        asked: Any = _folder(job, values) if job.is_dir() else read_job(job, values or ())
    if dry_run:
        return _dry_run(asked, out, as_json, trust_remote_code)
    _end_alike()
    try:
        with working():
            outcome = run_job(
                asked,
                out,
                engine=engine,
                workers=workers,
                shard=shard,
                device=device,
                trust_remote_code=trust_remote_code,
                command=typed_command(),
                display=silent if quiet else display,
            )
    except KeyboardInterrupt:
        again = asked if job.is_dir() else Path(out) / asked.folder_name
        flag = " --trust-remote-code" if trust_remote_code else ""
        say(f"Stopped. What is done stays; go on with: headscope run {again}{flag}", err=True)
        raise typer.Exit(130) from None
    lines = [outcome.words]
    lines += [f"missing: {one['title']}: {one['error']}{_at(one['prompt'])}" for one in outcome.missing[:20]]
    lines += [f"and {len(outcome.missing) - 20} more, see manifest.json"] if len(outcome.missing) > 20 else []
    lines += [f"not put together: {one['title']}: {one['error']}" for one in outcome.refused]
    tables = sorted(path.name for path in outcome.folder.glob("*.parquet"))
    lines += [f"Job: {outcome.folder}", *(f"Table: {outcome.folder / name}" for name in tables)]
    record = {
        "folder": outcome.folder,
        "state": outcome.state,
        "planned": outcome.planned,
        "done": outcome.done,
        "missing": outcome.missing,
        "refused": outcome.refused,
        "tables": tables,
    }
    show(as_json, record, lines)
    if outcome.state == "incomplete" or (outcome.state == "waiting" and not shard):
        raise typer.Exit(1)


def _at(prompt: str) -> str:
    return f" (prompt {prompt})" if prompt else ""


def _folder(folder: Path, values: list[str] | None) -> Path:
    from ..errors import BadOption
    from ..jobs.store import JobStore

    if values:
        raise BadOption("--set belongs to a job file: a folder goes on with the job as it was begun.")
    return JobStore.open(folder).folder


def _end_alike() -> None:
    """Let SIGTERM, which job systems send first, end the run as Ctrl-C does."""
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _dry_run(asked: Any, out: Path, as_json: bool, trusted: bool) -> None:
    """Print the units, what they cost, and what is done."""
    with working():
        from ..jobs.run import plan_job
        from ..jobs.store import JobStore

        store = JobStore(asked) if isinstance(asked, Path) else JobStore(Path(out) / asked.folder_name)
        job = store.job if isinstance(asked, Path) else asked
        plan = plan_job(job, fetch=False, trust_remote_code=trusted)
        done = store.done()
    tasks = [
        {
            "kind": task.step.kind,
            "title": task.title,
            "model": None if task.model is None else task.model.name,
            "units": len(task.units),
            "done": sum(unit.digest in done for unit in task.units),
            "cost": None if not task.costs or None in task.costs else sum(filter(None, task.costs)),
        }
        for task in plan.tasks
    ]
    cost, unknown = plan.cost
    absent = [
        {"kind": step.kind, "name": step.name, "model": step.model, "reason": reason}
        for step, reason in plan.unknown
    ]
    n_done = sum(one["done"] for one in tasks)
    lines = ["Would compute:"]
    for one in tasks:
        about = "not known" if one["cost"] is None else f"{one['cost']:,.0f}"
        model = f" of {one['model']}" if one["model"] else ""
        lines.append(
            f"  {one['kind']} {one['title']}{model}: {one['units']} units, {one['done']} done, cost {about}"
        )
    lines += [
        f"  {one['kind']} {one['name']} of {one['model']}: model not here, units unknown" for one in absent
    ]
    lines += [
        "",
        f"{len(plan.units)} units in {len(tasks)} results, {n_done} done, {len(plan.units) - n_done} to compute.",
        f"Cost: {cost:,.0f} tokens × forward passes"
        + (f"; not known beforehand for {unknown} units" if unknown else "")
        + (f"; not known for {len(absent)} steps whose model is not here." if absent else "."),
        f"Job: {store.folder}",
    ]
    record = {
        "folder": store.folder,
        "tasks": tasks,
        "units": [
            {"unit": unit.digest, "title": unit.title, "cost": unit.cost, "done": unit.digest in done}
            for unit in plan.units
        ],
        "cost": cost,
        "cost_unit": "tokens × forward passes",
        "units_without_cost": unknown,
        "not_here": absent,
    }
    show(as_json, {"plan": record}, lines)
