"""What a folder of runs holds: single runs, and jobs with a run for each of their results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.browse import list_runs
from ..analysis.files import read_json
from ..analysis.links import refuse_links
from ..analysis.run import Run, load_run
from ..errors import BadRun, HeadscopeError, nearest

JOB_FORMAT = "headscope-job/"
_MANIFEST_MB = 50
_DEPTH = 3


@dataclass(frozen=True)
class Entry:
    """One run or one job of a folder.

    Attributes:
        name: Its path below the folder, with `/`.
        what: `job`, or `run` for what `headscope score` makes and for a job's single results.
        models, methods, data: What was run on what, each name once, in the order they come.
        state: `done`, or what a job says: `running`, `incomplete`, `stopped`. `broken` where it cannot be read.
        done, planned: Units of a job; a run is one.
        started: ISO time, "" where unknown.
        seconds: How long it took; None where unknown.
        problem: Why it cannot be opened; empty where nothing is known against it.
        job: Name of the job that it is a result of; empty otherwise.
    """

    name: str
    what: str
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    state: str = "done"
    done: int = 1
    planned: int = 1
    started: str = ""
    seconds: float | None = None
    problem: str = ""
    job: str = ""

    def record(self) -> dict[str, Any]:
        """All of it, for a table or JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Opened:
    """A run, or a job with its results.

    Attributes:
        folder: Where it stands.
        manifest: What `manifest.json` says.
        runs: The run itself, or a job's results that are scores.
        problems: Results that cannot be read, each with its reason.
    """

    folder: Path
    manifest: dict[str, Any]
    runs: tuple[Run, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def is_job(self) -> bool:
        """Whether it is a job."""
        return is_job(self.manifest)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def is_job(manifest: dict[str, Any]) -> bool:
    """Whether a manifest is a job's."""
    return str(manifest.get("format", "")).startswith(JOB_FORMAT)


def entries(root: str | Path, *, results: bool = False) -> tuple[Entry, ...]:
    """List the runs and jobs in a folder and in the folders in it, newest first, broken ones last.

    Args:
        root: The folder. Links in it are not followed.
        results: Whether the results of jobs are listed too, as runs of their own.
    """
    root = Path(root)
    if not root.is_dir():
        raise BadRun(f"{root}: no such folder. Give the folder that holds the runs, such as --runs runs.")
    jobs = {path.relative_to(root).as_posix(): _job(root, path) for path in job_folders(root)}
    runs = []
    for listed in list_runs(root):
        owner = next((name for name in jobs if listed.name.startswith(f"{name}/")), "")
        if owner and not results:
            continue
        row = listed.row()
        runs.append(
            Entry(
                listed.name,
                "run",
                *((row[column],) if row[column] else () for column in ("model", "method", "prompts")),
                state="broken" if listed.problem else "done",
                done=0 if listed.problem else 1,
                started=row["started"],
                seconds=row["seconds"],
                problem=listed.problem,
                job=owner,
            )
        )
    both = [*jobs.values(), *runs]
    return tuple(sorted(both, key=lambda one: (not one.problem, one.started, one.name), reverse=True))


def job_folders(root: Path, depth: int = _DEPTH) -> list[Path]:
    """Find the jobs below a folder, not following links, and not looking inside a job."""
    found = []
    try:
        inside = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return []
    for entry in inside:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        if os.path.isfile(path / "plan.json") or _says_job(path):
            found.append(path)
        elif depth > 1:
            found += job_folders(path, depth - 1)
    return found


def find(given: str | Path, root: str | Path = "runs") -> Path:
    """Return the folder of a run or job that was named by its path, or by its name below a folder of runs.

    Raises:
        BadRun: There is none; the nearest names are given.
    """
    for path in (Path(given).expanduser(), Path(root) / given):
        if (path / "manifest.json").is_file():
            return path
    names = [entry.name for entry in entries(root, results=True)] if Path(root).is_dir() else []
    raise BadRun(f"{given}: no run and no job has this path or name.{nearest(str(given), names)}")


def open_folder(folder: str | Path) -> Opened:
    """Open a run, or a job with those of its results that are scores.

    Raises:
        BadRun: The folder is neither, or holds a link.
    """
    folder = Path(folder)
    refuse_links(folder)
    manifest = read_json(folder / "manifest.json")
    if not is_job(manifest):
        return Opened(folder, manifest, (load_run(folder),))
    runs, problems = [], []
    for place in result_folders(folder, manifest):
        try:
            if str(read_json(place / "manifest.json").get("format", "")).startswith("headscope-run/"):
                runs.append(load_run(place))
        except HeadscopeError as error:
            problems.append(str(error))
    return Opened(folder, manifest, tuple(runs), tuple(problems))


def result_folders(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """Return the folders of a job's results that are there, in the job's order."""
    root = folder.resolve()
    named = [folder / str(one.get("folder", "")) for one in listed_in(manifest, "results")]
    return [
        path
        for path in named
        if (path / "manifest.json").is_file()
        and path.resolve().is_relative_to(root)
        and path.resolve() != root
    ]


def latest(runs: Sequence[Run]) -> list[Run]:
    """Leave out a score whose causal check holds it too."""
    checked = {_identity(run) for run in runs if run.verification is not None}
    return [run for run in runs if run.verification is not None or _identity(run) not in checked]


def settings(run: Run) -> str:
    """The options of a run's method, in one line."""
    options = run.scores.options
    return ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in options.items())


def _says_job(folder: Path) -> bool:
    path = folder / "manifest.json"
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size > _MANIFEST_MB * 1e6:
            return False
        return is_job(read_json(path))
    except (HeadscopeError, OSError):  # OSError: a folder that may not be entered
        return False


def _job(root: Path, folder: Path) -> Entry:
    """Read what a job says of itself."""
    name = folder.relative_to(root).as_posix()
    try:
        manifest = read_json(folder / "manifest.json")
        if not is_job(manifest):
            raise BadRun(f"{folder}: its manifest is no job's.")
    except HeadscopeError as error:
        problem = str(error).replace(f"{folder}{os.sep}", "")
        return Entry(name, "job", state="broken", done=0, planned=0, problem=problem)
    facts = [fact for place in result_folders(folder, manifest) if (fact := _facts(place))]
    units = manifest.get("units")
    return Entry(
        name,
        "job",
        *(_once(fact[i] for fact in facts) for i in range(3)),
        state=str(manifest.get("state", "")),
        done=count_of(units, "done"),
        planned=count_of(units, "planned"),
        started=str(manifest.get("started", "")),
        seconds=seconds if isinstance(seconds := manifest.get("seconds"), (int, float)) else None,
    )


def count_of(units: Any, name: str) -> int:
    """Return a number of units, 0 where a manifest does not say."""
    count = units.get(name) if isinstance(units, dict) else None
    return count if isinstance(count, int) else 0


def _facts(folder: Path) -> tuple[str, str, str] | None:
    """Model, method and data of a result, from its manifest alone."""
    try:
        manifest = read_json(folder / "manifest.json")
        return (
            str(manifest["model"]["name"]),
            str(manifest["job"]["method"]),
            str(manifest["data"]["name"]),
        )
    except (HeadscopeError, KeyError, TypeError):
        return None


def listed_in(manifest: Mapping[str, Any], name: str) -> Sequence[dict[str, Any]]:
    """Return the entries of a list in a manifest; none where there is no such list."""
    value = manifest.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _identity(run: Run) -> tuple[Any, ...]:
    one = run.scores
    return one.model, one.method, one.data, one.seed, settings(run)
