"""What killed processes and changed plans leave in a folder of runs, found by name and age, and removed when asked.

Results, prompts, tables and events are never leftovers. Nothing is looked at or removed outside the folder, and links
are neither followed nor removed.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BadRun, CannotWrite, HeadscopeError
from .listing import job_folders
from .store import units_in

# Names that only `files.write_atomically`, `files.publish_folder`, `PromptSet.to_jsonl` and claims give, for a moment.
_TEMPORARY = re.compile(
    r"\.(?:.+\.[0-9a-f]{12}\.tmp|[0-9a-f]{32}\.(?:tmp|dead)|.+\.jsonl\.[A-Za-z0-9_]{8})", re.DOTALL
)
_DEPTH = 6


@dataclass(frozen=True)
class Leftover:
    """One file or folder that can go.

    Attributes:
        path: Where it stands, below the folder of runs.
        why: Why nobody needs it.
        size: In bytes, with what is in it.
    """

    path: Path
    why: str
    size: int


def leftovers(root: str | Path, *, older_seconds: float = 3600.0) -> tuple[list[Leftover], list[str]]:
    """Find what can go from a folder of runs.

    - Temporary files and folders of writers that were killed.
    - Units that were found damaged and set aside.
    - Units that their job did not ask for when it was last run, for example because it was split into other shards;
      notes of failures of such units, or of units that are done; claims that nobody keeps alive.
    - Units in a folder that is no job.

    A job of which anything was claimed in the last `older_seconds` is running, and keeps its units.

    Args:
        root: The folder of runs.
        older_seconds: Only what has not been touched for so long.

    Returns:
        The leftovers by path, and notes on what could not be judged.

    Raises:
        BadRun: There is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise BadRun(f"{root}: no such folder. Give the folder that holds the runs, such as --runs runs.")
    before = time.time() - older_seconds
    found: dict[Path, Leftover] = {}
    notes: list[str] = []

    def add(path: Path, why: str) -> None:
        if not any(parent in found for parent in path.parents):
            found[path] = Leftover(path, why, _size(path))

    for path in _walk(root, _DEPTH):
        if _TEMPORARY.fullmatch(path.name) and _touched(path) < before:
            add(path, "a temporary file of a writer that did not finish")
    jobs = job_folders(root)
    for job in jobs:
        try:
            for path, why in _of_job(job, before):
                add(path, why)
        except (HeadscopeError, OSError) as error:
            notes.append(f"{job.relative_to(root)}: its units were left alone ({error})")
    for path in _walk(root, _DEPTH):
        if path.parent.name != "units" or any(job in path.parents for job in jobs):
            continue
        alone = not os.path.lexists(path.parent.parent / "manifest.json")
        if alone and _touched(path) < before and _is_unit(path):
            add(path, "a unit of no job: its folder has no manifest")
    return sorted(found.values(), key=lambda one: one.path), notes


def remove(root: str | Path, found: Iterable[Leftover]) -> None:
    """Remove leftovers.

    Raises:
        CannotWrite: The system refused, or one of them is not below the folder any more.
    """
    top = Path(root).resolve()
    for one in found:
        # A link that has taken the place of a folder on the way would lead out.
        place = one.path.parent.resolve() / one.path.name
        if one.path.is_symlink() or not place.is_relative_to(top) or place == top:
            raise CannotWrite(
                f"{one.path}: it is not in {root} any more, or a link. Nothing more was removed."
            )
        try:
            if one.path.is_dir():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(f"{one.path}: {error.strerror or error}. It was not removed.") from error


def _of_job(job: Path, before: float) -> Iterator[tuple[Path, str]]:
    claims = [path for path in _files(job / "claims") if path.suffix == ".json"]
    running = any(_touched(path) >= before for path in claims)
    for path in claims:
        if _touched(path) < before:
            yield path, "a claim that nobody keeps alive"
    units = _files(job / "units")
    for path in units:
        if path.suffix == ".damaged" and _touched(path) < before:
            yield path, "a damaged unit that was set aside"
    if running or not units:
        return
    wanted = planned(job)
    done = {path.stem for path in units if path.suffix == ".parquet"}
    for path in units:
        if (
            path.suffix == ".parquet"
            and path.stem not in wanted
            and _touched(path) < before
            and _is_unit(path)
        ):
            yield path, "a unit that the job does not ask for"
    for path in _files(job / "failed"):
        if path.suffix == ".json" and _touched(path) < before:
            if path.stem in done:
                yield path, "a failure of a unit that is done since"
            elif path.stem not in wanted:
                yield path, "a failure of a unit that the job does not ask for"


def planned(job: Path) -> set[str]:
    """Return the digests of all units that a job asked for when it was last run.

    Raises:
        BadRun: It does not say.
    """
    return set(units_in(job / "units.json"))


def _is_unit(path: Path) -> bool:
    """Whether a file is what a job writes for a unit."""
    if path.suffix != ".parquet":
        return False
    try:
        return b"headscope-sha256" in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError, pa.ArrowException):
        return False


def _files(folder: Path) -> list[Path]:
    """Plain files of a folder, hidden ones left out; none where it is a link or not there."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
    )


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Every file and folder below a folder; links are passed over, and a temporary folder is not entered."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink():
            continue
        path = Path(entry.path)
        yield path
        if depth > 1 and entry.is_dir(follow_symlinks=False) and not _TEMPORARY.fullmatch(entry.name):
            yield from _walk(path, depth - 1)


def _touched(path: Path) -> float:
    """When a file, or anything in a folder, was last written."""
    try:
        times = [path.lstat().st_mtime]
        if path.is_dir() and not path.is_symlink():
            times += [one.lstat().st_mtime for one in path.rglob("*")]
    except OSError:  # it is in use: something in it has gone since, or it may not be entered
        return math.inf
    return max(times)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(one.lstat().st_size for one in path.rglob("*") if not one.is_dir())
    return path.lstat().st_size
