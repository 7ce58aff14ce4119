"""Look through a folder of runs without ever leaving it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import BadRun, HeadscopeError
from ..printable import printable
from .files import read_json
from .run import Run, load_run
from .scores import HeadScores

_MARKS = ("manifest.json", "scores.json", "scores.parquet", "prompts.jsonl")
_DEPTH = 3
_MANIFEST_MB = 5
COLUMNS = ["run", "method", "model", "prompts", "n", "seed", "checked", "started", "seconds"]


@dataclass(frozen=True)
class Listed:
    """One folder that is a run, or looks like one.

    Attributes:
        name: Its path below the folder of runs, with `/`.
        manifest: What the run says of itself; empty where it cannot be read.
        problem: Why it cannot be opened, in one sentence; empty where nothing is known against it.
    """

    name: str
    manifest: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def row(self) -> dict[str, Any]:
        """What a table shows of it, see `COLUMNS`."""
        job, data = (self.manifest.get(part) or {} for part in ("job", "data"))
        return {
            "run": self.name,
            "method": str(job.get("method", "")),
            "model": str((self.manifest.get("model") or {}).get("name", "")),
            "prompts": str(data.get("name", "")),
            "n": data.get("n_prompts"),
            "seed": self.manifest.get("seed"),
            "checked": bool(self.manifest.get("causal_check")),
            "started": str(self.manifest.get("started", "")),
            "seconds": self.manifest.get("seconds"),
        }


def list_runs(root: str | Path, *, most: int = 1000) -> tuple[Listed, ...]:
    """List the runs in a folder and in the folders in it, newest first, broken ones last.

    Links are not followed; one that looks like a run is listed with its problem.

    Args:
        root: The folder.
        most: Stop after this many.
    """
    root = Path(root)
    if not root.is_dir():
        return ()
    found: list[Listed] = []
    for folder in _folders(root, _DEPTH):
        if len(found) >= most:
            break
        listed = _look(root, folder)
        if listed is not None:
            found.append(listed)
    return tuple(
        sorted(found, key=lambda one: (not one.problem, one.row()["started"], one.name), reverse=True)
    )


def table(runs: tuple[Listed, ...]) -> pd.DataFrame:
    """Return the runs that can be opened, one row each."""
    return pd.DataFrame([one.row() for one in runs if not one.problem], columns=COLUMNS)


def matching(runs: tuple[Listed, ...], words: str) -> tuple[Listed, ...]:
    """Keep the runs whose row holds every word, in any case."""
    wanted = words.lower().split()
    return tuple(
        one for one in runs if all(word in " ".join(map(str, one.row().values())).lower() for word in wanted)
    )


def joined(one: HeadScores, two: HeadScores, names: Sequence[str]) -> pd.DataFrame:
    """Put two scores of the same heads beside each other.

    Args:
        one: The first scores.
        two: The second ones, of as many layers and heads.
        names: What the two are called.

    Returns:
        One row per head: `layer`, `head`, and for each name its score and `low` and `high`; NaN where it was not run.
    """
    kept = ["layer", "head", "score", "low", "high"]
    parts = [scores.table()[kept] for scores in (one, two)]
    for part, name in zip(parts, names, strict=True):
        part.columns = ["layer", "head", name, f"{name} low", f"{name} high"]
    whole = parts[0].merge(parts[1], on=["layer", "head"], how="outer")
    return whole.sort_values(["layer", "head"], ignore_index=True)


def direction_files(root: str | Path, *, most: int = 200) -> dict[str, Path]:
    """Find the files of directions in a folder and in the folders in it, by their path below it; links are left out."""
    root = Path(root)
    found = {}
    for folder in [root, *(path for path in _folders(root, _DEPTH) if not path.is_symlink())]:
        for path in sorted(folder.glob("*.safetensors")):
            if path.is_symlink() or not path.is_file() or len(found) >= most:
                continue
            found[path.relative_to(root).as_posix()] = path
    return found


def inside(root: str | Path, name: str) -> Path:
    """Return the path of a run, which is a real folder below `root`.

    Raises:
        BadRun: The name leads out of the folder, or to nothing.
    """
    root = Path(root).resolve()
    refusal = BadRun(f"{name!r} is not a run in the folder of runs. Choose one from the list.")
    if not name or "\0" in name or Path(name).is_absolute():
        raise refusal
    try:
        path = (root / name).resolve()
        if path == root or not path.is_relative_to(root) or path != root / name or not path.is_dir():
            raise refusal
    except (OSError, RuntimeError) as error:  # too long a name, or links in a circle
        raise refusal from error
    return path


def open_run(root: str | Path, name: str) -> Run:
    """Read a run of the list.

    Raises:
        BadRun: The name leads out of the folder, a file in it is a link, or it is broken.
    """
    folder = inside(root, name)
    for entry in sorted(folder.rglob("*")):
        if entry.is_symlink():
            raise BadRun(
                f"{name}: {entry.name} is a link, and links are not followed. Copy the file in its place."
            )
    try:
        return load_run(folder)
    except HeadscopeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise BadRun(
            f"{name}: {type(error).__name__}: {error}. The run is damaged: make it again."
        ) from error


def typed_again(command: object) -> str:
    """Return a run's command lines if they are calls of `headscope` and nothing else to a shell; otherwise nothing.

    A run may come from anybody, and what is offered to be copied is pasted into a shell.
    """
    lines = str(command).splitlines()
    for line in lines:
        try:
            words = shlex.split(line)
        except ValueError:
            return ""
        if shlex.join(words) != line or words[:1] != ["headscope"] or printable(line) != line:
            return ""
    return "\n".join(lines)


def report_of(root: str | Path, name: str) -> Path | None:
    """Return the run's report, None where there is none."""
    path = inside(root, name) / "report.html"
    return path if path.is_file() and not path.is_symlink() else None


def _folders(root: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield path
            if depth > 1:
                yield from _folders(path, depth - 1)
        elif entry.is_symlink() and os.path.isdir(path):
            yield path


def _look(root: Path, folder: Path) -> Listed | None:
    """Read what a folder says of itself; None where it is no run at all."""
    name = folder.relative_to(root).as_posix()
    if folder.is_symlink():
        return Listed(name, problem="It is a link, and links are not followed.")
    if not any(os.path.exists(folder / mark) for mark in _MARKS):  # False in a folder that may not be entered
        return None
    path = folder / "manifest.json"
    try:
        if path.is_symlink():
            raise BadRun("manifest.json is a link, and links are not followed.")
        if path.is_file() and path.stat().st_size > _MANIFEST_MB * 1e6:
            raise BadRun(f"manifest.json is larger than {_MANIFEST_MB} MB.")
        manifest = read_json(path)
    except (HeadscopeError, OSError) as error:
        return Listed(name, problem=str(error).replace(f"{folder}{os.sep}", ""))
    form = str(manifest.get("format", ""))
    if form.startswith("headscope-") and not form.startswith("headscope-run/"):
        return None  # a folder of runs with a report of its own
    if not form:
        return Listed(name, problem="manifest.json does not say what it is (no format). Make the run again.")
    if any(not isinstance(manifest.get(part), dict) for part in ("model", "data", "job")):
        return Listed(name, problem="manifest.json lacks model, data or job. Make the run again.")
    missing = [mark for mark in _MARKS if not (folder / mark).is_file()]
    return Listed(
        name, manifest, f"{', '.join(missing)}: no such file. Make the run again." if missing else ""
    )
