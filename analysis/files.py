"""Write results so that a reader finds a whole file, or none.

A run may end at any moment: the disk fills up, the user presses Ctrl-C, the machine goes down. Everything is
therefore written to a hidden name in the same folder, flushed to the disk, and renamed; a rename inside one
folder is atomic on every system we run on.
"""

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ..datasets.plain import plain
from ..errors import BadRun, CannotWrite

MAX_CELLS = 200_000_000  # of a table that is read
_REMEDY = {
    errno.ENOSPC: "Free some space there, or write to a folder on another disk.",
    errno.EDQUOT: "Your quota there is used up: free some space, or write to a folder on another disk.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "That disk is mounted read-only: choose a folder on another one.",
    errno.ENOTDIR: "A part of that path is a file: choose another folder.",
    errno.EEXIST: "A part of that path is a file: choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def write_atomically(path: str | Path, data: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """Write one file whole, or leave what was there before.

    Missing parent folders are made. The temporary file is removed whatever ends the writing, Ctrl-C included.

    Args:
        path: Where the file shall stand. An existing file is replaced.
        data: The content (text is written as UTF-8), or a function that writes it to an open binary file.

    Returns:
        The path.

    Raises:
        CannotWrite: The system refused: full disk, no permission, read-only disk.
    """
    path = Path(path)
    temporary = path.with_name(_hidden(path.name))
    with _refusals_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            # Gone after a successful rename; after anything else this is the part that must not stay behind.
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    return path


@contextmanager
def publish_folder(path: str | Path) -> Iterator[Path]:
    """Give a hidden folder to fill, and show it under its name only once it is complete.

    An older folder of that name is replaced as a whole. If the block raises, the old one stays and the new
    one is removed.

    Args:
        path: Where the folder shall stand.

    Yields:
        The hidden folder beside it.

    Raises:
        CannotWrite: The system refused, while filling or while publishing; or the path is a folder with other
            files.
    """
    path = Path(path)
    others = _files_of_others(path)
    fresh, old = path.with_name(_hidden(path.name)), path.with_name(_hidden(path.name))
    with _refusals_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.mkdir()
            yield fresh
            for name in others:
                if (path / name).is_dir():
                    shutil.copytree(path / name, fresh / name, symlinks=True)
                else:
                    shutil.copy2(path / name, fresh / name, follow_symlinks=False)
            _sync_folder(fresh)
            if path.exists():
                os.replace(path, old)
            os.replace(fresh, path)
        except CannotWrite as error:  # from a file inside: name it as the user will know it
            raise CannotWrite(str(error).replace(fresh.name, path.name)) from error
        finally:
            if old.exists() and not path.exists():
                os.replace(old, path)
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        _sync_folder(path.parent)


def write_json(path: str | Path, value: object) -> Path:
    """Write JSON with sorted keys, so that equal content gives equal bytes. NaN and infinity become null.

    Raises:
        CannotWrite: As for `write_atomically`.
        TypeError: A value that has no JSON form.
    """
    text = json.dumps(jsonable(value), sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    return write_atomically(path, text + "\n")


def read_json(path: str | Path) -> dict:
    """Read one JSON object.

    Raises:
        BadRun: No such file, or not a JSON object.
    """
    path = Path(path)
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path}: not readable as JSON ({error}). Make the run again.") from error
    if not isinstance(value, dict):
        raise BadRun(f"{path}: holds a {type(value).__name__}, expected a JSON object. Make the run again.")
    return value


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a long table as parquet, without its index.

    Raises:
        CannotWrite: As for `write_atomically`.
    """
    return write_atomically(path, table.to_parquet(None, engine="pyarrow", index=False))


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet table.

    Raises:
        BadRun: No such file, not parquet, or far too large.
    """
    path = Path(path)
    if not path.is_file():
        raise BadRun(f"{path}: no such file. Give a run folder that Headscope has written.")
    try:
        # A few kilobytes can say that one value stands a billion times.
        told = pq.read_metadata(path)
        if told.num_rows * told.num_columns > MAX_CELLS:
            raise BadRun(
                f"{path}: {told.num_rows:,} rows of {told.num_columns} columns; at most {MAX_CELLS:,} cells are read."
            )
        return pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
        raise BadRun(f"{path}: not readable as parquet ({error}). Make the run again.") from error


def _files_of_others(path: Path) -> list[str]:
    """List what stands in a published folder beside its own files.

    Raises:
        CannotWrite: The folder was not published here.
    """
    found = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if not found:
        return []
    try:
        manifest = read_json(path / "manifest.json")
    except BadRun:
        manifest = {}
    if not str(manifest.get("format", "")).startswith("headscope-"):
        raise CannotWrite(
            f"{path}: the folder holds {found[0]} and is no run of Headscope. Choose a new folder."
        )
    return [name for name in found if name not in manifest.get("files", found)]


def jsonable(value: object) -> object:
    """Turn dataclasses, paths, numpy values and tuples into what JSON knows; NaN and infinity into None."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item) for item in value), key=str)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def _hidden(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex[:12]}.tmp"


def _read(path: Path) -> str:
    try:
        return plain(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadRun(f"{path}: no such file. Give a run folder that Headscope has written.") from error
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror}).") from error


@contextmanager
def _refusals_name(path: Path) -> Iterator[None]:
    """Turn the system's refusals into one error that names the path and says what to do."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, "Choose another folder.")
        raise CannotWrite(
            f"{path}: {error.strerror or error}. {remedy} No part of it was left behind."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename itself survive a power cut, where the system can."""
    with suppress(OSError):  # Windows cannot open a folder, some network disks cannot sync one
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
