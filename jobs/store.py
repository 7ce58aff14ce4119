"""A job on disk: its units, what failed, and the tables made of them.

```
<name>-<digest>/
  manifest.json            the job, versions, state, what is missing
  plan.json                what planning found out: weight digests
  prompts/<digest>.jsonl   every prompt set that is read
  units/<digest>.parquet   one per unit: its table, and JSON beside it in the file
  failed/<digest>.json     the last error of a unit
  claims/<digest>.json     who computes a unit now
  events/<process>.jsonl   what happened, one writer each
  units.json               the units that are planned
  rows/<digest>.parquet    what each result adds to the tables
  results/<title>-<digest>/  one run for every score and every check
  scores.parquet, …        the rows of all results
```
Only whole files appear under these names. A unit's file carries a checksum of its content, so that a damaged one is
found when it is read, set aside, and computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..analysis.files import jsonable, read_json, write_atomically, write_json
from ..analysis.links import refuse_links
from ..datasets.plain import plain
from ..datasets.prompts import PromptSet
from ..errors import BadRun
from .spec import Job
from .steps import Found, Task, Unit

FORMAT = "headscope-job/1"
_META, _SUM = b"headscope", b"headscope-sha256"


class DamagedUnit(BadRun):
    """A unit's file cannot be read, or is not what was written."""


class JobStore:
    """The folder of one job. Any number of processes may use it at the same time. No link in it is followed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        refuse_links(self.folder)

    @classmethod
    def open(cls, folder: str | Path) -> JobStore:
        """Open a job's folder.

        Raises:
            BadRun: It is none.
        """
        store = cls(folder)
        form = store.manifest.get("format")
        if form != FORMAT:
            raise BadRun(f"{folder}: not a job of this version (format {form!r}). Run the job file again.")
        return store

    @classmethod
    def create(cls, root: str | Path, job: Job, **facts: Any) -> JobStore:
        """Open the folder that belongs to a job, and make it where it does not exist.

        Raises:
            CannotWrite: The system refused.
        """
        store = cls(Path(root) / job.folder_name)
        if not store._manifest_path.is_file():
            first = {"format": FORMAT, "name": job.name, "digest": job.digest, "job": job.record(), **facts}
            write_json(store._manifest_path, {**first, "state": "running"})
        return store

    @property
    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` says now."""
        return read_json(self._manifest_path)

    @property
    def job(self) -> Job:
        """The job, as it was first run here."""
        try:
            return Job.from_record(self.manifest["job"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRun(
                f"{self._manifest_path}: what it says of the job cannot be read ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}). Run the job file again, into another folder."
            ) from error

    def update(self, **facts: Any) -> None:
        """Change entries of the manifest; one that stays equal is not written."""
        before = self.manifest
        after = {**before, **json.loads(json.dumps(jsonable(facts)))}
        if after != before:
            write_json(self._manifest_path, after)

    # units

    def path(self, unit: str) -> Path:
        """Where a unit's file stands, or would."""
        return self.folder / "units" / f"{unit}.parquet"

    def done(self) -> set[str]:
        """Digests of the units whose file is there."""
        return _stems(self.folder / "units", ".parquet")

    def write(self, unit: Unit, found: Found) -> Path:
        """Keep what a unit gave: whole or not at all. An earlier failure is forgotten.

        Raises:
            CannotWrite: The system refused.
        """
        about = {
            "unit": unit.digest,
            "task": unit.task.digest,
            "kind": unit.task.step.kind,
            "title": unit.title,
            "part": dict(unit.part),
        }
        path = write_atomically(self.path(unit.digest), _pack(found, about))
        self._failure(unit.digest).unlink(missing_ok=True)
        return path

    def read(self, unit: str) -> Found:
        """Read what a unit gave.

        Raises:
            DamagedUnit: The file is not what was written.
            BadRun: There is no such file.
        """
        path = self.path(unit)
        try:
            data = plain(path).read_bytes()
        except OSError as error:
            raise BadRun(f"{path}: {error.strerror or error}. Run the job again.") from error
        return _unpack(data, unit, path)

    def set_aside(self, unit: str) -> None:
        """Take a damaged file out of the way; the unit then counts as not done."""
        path = self.path(unit)
        path.replace(path.with_suffix(".damaged"))

    # failures

    def fail(
        self, unit: Unit, error: str, *, prompt: str, tries: int, spent: bool, session: str, at: float
    ) -> None:
        """Note a unit's last error: how often it was tried in this run, and whether that was the last time."""
        record = {"unit": unit.digest, "title": unit.title, "error": error, "prompt": prompt}
        record |= {"tries": tries, "spent": spent, "session": session, "at": at}
        write_json(self._failure(unit.digest), record)

    def failure(self, unit: str) -> dict[str, Any] | None:
        """Return the note of a failed unit, None where there is none."""
        try:
            note = read_json(self._failure(unit))
        except BadRun:
            return None
        return note if isinstance(note.get("unit"), str) else None

    def failures(self) -> list[dict[str, Any]]:
        """Return all notes of failed units that are not done since."""
        wanted = sorted(_stems(self.folder / "failed", ".json") - self.done())
        return [note for note in map(self.failure, wanted) if note is not None]

    # prompts, plan, results

    def keep_prompts(self, sets: Mapping[str, PromptSet]) -> None:
        """Write the prompt sets that are not there yet."""
        for digest, prompts in sets.items():
            path = self.folder / "prompts" / f"{digest}.jsonl"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                prompts.to_jsonl(path)

    def prompts(self, digest: str, name: str = "") -> PromptSet:
        """Read a prompt set.

        Raises:
            BadRun: It was changed since it was written.
        """
        path = self.folder / "prompts" / f"{digest}.jsonl"
        found = PromptSet.from_jsonl(path, name=name or "prompts")
        if found.digest != digest:
            raise BadRun(
                f"{path}: the prompts have the digest {found.digest}. Delete the file and run again."
            )
        return found

    def keep_rows(self, task: Task, rows: pd.DataFrame, made_of: str) -> None:
        """Keep the rows that a task adds to the job's table, with a digest of what they were made of."""
        found = Found(rows, {"made_of": made_of})
        write_atomically(self._rows(task), _pack(found, {"unit": task.digest, "title": task.title}))

    def rows(self, task: Task) -> Found | None:
        """Return the rows of a task; None where they are not there, or damaged, and have to be made again."""
        try:
            return _unpack(plain(self._rows(task)).read_bytes(), task.digest, self._rows(task))
        except (OSError, DamagedUnit):
            return None

    @property
    def planned(self) -> list[str]:
        """Digests of all units of the last plan, in order; empty where none was made."""
        path = self.folder / "units.json"
        return units_in(path) if path.is_file() else []

    @planned.setter
    def planned(self, units: Iterable[str]) -> None:
        listed = list(units)
        if listed != self.planned:
            write_json(self.folder / "units.json", {"units": listed})

    @property
    def known(self) -> dict[str, Any]:
        """What earlier planning found out."""
        path = self.folder / "plan.json"
        return read_json(path) if path.is_file() else {}

    @known.setter
    def known(self, value: Mapping[str, Any]) -> None:
        if value != self.known:
            write_json(self.folder / "plan.json", value)

    def results(self) -> list[Path]:
        """Folders of the results, by name."""
        room = self.folder / "results"
        return sorted(path for path in room.glob("*") if path.is_dir() and not path.name.startswith("."))

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def _rows(self, task: Task) -> Path:
        return self.folder / "rows" / f"{task.digest}.parquet"

    def _failure(self, unit: str) -> Path:
        return self.folder / "failed" / f"{unit}.json"


def units_in(path: Path) -> list[str]:
    """Read the digests in a `units.json`.

    Raises:
        BadRun: It holds something else.
    """
    units = read_json(path).get("units")
    if not isinstance(units, list):
        raise BadRun(f"{path}: units is no list. Run the job again, which writes it anew.")
    return list(map(str, units))


def list_jobs(root: str | Path) -> tuple[Path, ...]:
    """List the job folders in a folder, newest first."""
    found = []
    for path in Path(root).glob("*/manifest.json"):
        try:
            manifest = read_json(path)
        except BadRun:
            continue
        if manifest.get("format") == FORMAT:
            found.append((str(manifest.get("started", "")), path.parent.name, path.parent))
    return tuple(path for _, _, path in sorted(found, reverse=True))


def _pack(found: Found, about: Mapping[str, Any]) -> bytes:
    table = pa.Table.from_pandas(found.table, preserve_index=False)
    meta = json.dumps(
        jsonable({**found.meta, **about}), sort_keys=True, ensure_ascii=False, allow_nan=False
    ).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _META: meta})
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _SUM: _digest(table)})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _unpack(data: bytes, unit: str, path: Path) -> Found:
    try:
        table = pq.read_table(
            io.BytesIO(data), page_checksum_verification=True, use_threads=False, pre_buffer=False
        )
        if _digest(table) != table.schema.metadata[_SUM]:
            raise ValueError("the checksum differs")
        about = json.loads(table.schema.metadata[_META])
        if about["unit"] != unit:
            raise ValueError(f"it holds the unit {about['unit']}")
        return Found(table.to_pandas(use_threads=False), about)
    except (KeyError, TypeError, ValueError, OSError, MemoryError, pa.ArrowException) as error:
        text = " ".join(str(error).split())[:200]
        raise DamagedUnit(f"{path}: damaged ({type(error).__name__}: {text}). Run the job again.") from error


def _digest(table: pa.Table) -> bytes:
    """Checksum of names, types, values and what is said beside them, whatever the chunks and the compression.

    Which values are missing and the values that are not are counted apart: what lies under a missing value is not kept
    by the file.
    """
    total = hashlib.sha256()
    for key, value in sorted((table.schema.metadata or {}).items()):
        if key != _SUM:
            total.update(key + b"=" + value + b"\n")
    for name, column in zip(table.column_names, table.columns, strict=True):
        total.update(f"{name} {column.type} {len(column)}\n".encode())
        present = column.drop_null()
        if pa.types.is_boolean(present.type):  # packed bits may end in anything
            present = present.cast(pa.uint8())
        for part in (column.is_null().cast(pa.uint8()), present):
            sink = io.BytesIO()
            plain = pa.table({"part": part}).combine_chunks()
            with pa.ipc.new_stream(sink, plain.schema) as writer:
                writer.write_table(plain)
            total.update(sink.getvalue())
    return total.hexdigest().encode()


def _stems(folder: Path, suffix: str) -> set[str]:
    try:
        entries: Iterable[os.DirEntry[str]] = list(os.scandir(folder))
    except FileNotFoundError:
        return set()
    return {
        entry.name.removesuffix(suffix)
        for entry in entries
        if entry.name.endswith(suffix) and not entry.name.startswith(".")
    }


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of the same columns."""
    listed = list(tables)
    return pd.concat(listed, ignore_index=True) if listed else pd.DataFrame()
