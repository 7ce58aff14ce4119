"""A result is on the disk whole, or not at all."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headscope.analysis import files
from headscope.errors import BadRun, CannotWrite


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ctrl_c(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_text_bytes_and_a_writer_all_arrive(tmp_path):
    files.write_atomically(tmp_path / "a" / "text", "naïve\n")
    files.write_atomically(tmp_path / "bytes", b"\x00\xff")
    files.write_atomically(tmp_path / "writer", lambda file: file.write(b"by hand"))
    assert (tmp_path / "a" / "text").read_text(encoding="utf-8") == "naïve\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "writer").read_bytes() == b"by hand"
    assert everything(tmp_path) == ["a", "a/text", "bytes", "writer"]


def test_the_file_has_the_permissions_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    files.write_atomically(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, SystemExit])
def test_a_writer_stopped_half_way_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    path = files.write_atomically(tmp_path / "scores", "old")

    def half(file):
        file.write(b"new, but only ha")
        raise stop

    with pytest.raises(stop):
        files.write_atomically(path, half)
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["scores"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_disk_that_fills_up_is_named_and_nothing_partial_stays(tmp_path, monkeypatch, step, old):
    path = tmp_path / "scores.parquet"
    if old:
        path.write_text(old)
    before = everything(tmp_path)
    if step != "write":
        monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(CannotWrite) as caught:
        files.write_atomically(path, full_disk if step == "write" else "new")
    assert str(path) in str(caught.value)
    assert "No space left" in str(caught.value) and "Free some space" in str(caught.value)
    assert everything(tmp_path) == before
    assert not old or path.read_text() == old


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_ctrl_c_between_the_steps_leaves_nothing(tmp_path, monkeypatch, step):
    monkeypatch.setattr(os, step, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "x", "new")
    assert everything(tmp_path) == []


def test_a_real_full_disk_is_named():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with full.open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        file.write(b"x")
    assert caught.value.errno == errno.ENOSPC  # what `full_disk` imitates is what a disk says


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "runs").write_text("I am a file")
    with pytest.raises(CannotWrite, match=r"runs.*choose another folder"):
        files.write_atomically(tmp_path / "runs" / "x", "new")


def test_a_folder_is_seen_only_when_it_is_complete(tmp_path):
    with files.publish_folder(tmp_path / "runs" / "one") as folder:
        files.write_atomically(folder / "a", "1")
        assert not (tmp_path / "runs" / "one").exists()
    assert everything(tmp_path) == ["runs", "runs/one", "runs/one/a"]


def manifest(folder: Path, *names: str) -> None:
    files.write_json(
        folder / "manifest.json", {"format": "headscope-run/1", "files": ["manifest.json", *names]}
    )


def test_a_folder_is_replaced_as_a_whole_but_keeps_what_others_put_there(tmp_path):
    for name in ("a", "b"):
        with files.publish_folder(tmp_path / "one") as folder:
            files.write_atomically(folder / name, name)
            manifest(folder, name)
        (tmp_path / "one" / "my notes").mkdir(exist_ok=True)
        (tmp_path / "one" / "my notes" / "x").write_text("mine")
        (tmp_path / "one" / "mine").write_text("mine")
    assert everything(tmp_path / "one") == ["b", "manifest.json", "mine", "my notes", "my notes/x"]


@pytest.mark.parametrize("what", ["letters", "manifest.json"])
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path, what):
    (tmp_path / what).write_text("{}")
    with pytest.raises(CannotWrite, match="no run of Headscope"), files.publish_folder(tmp_path):
        pytest.fail("the block must not run")
    assert everything(tmp_path) == [what]
    (tmp_path / "empty").mkdir()
    with files.publish_folder(tmp_path / "empty"):
        pass


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("old", [False, True])
def test_a_folder_stopped_half_way_leaves_the_old_one(tmp_path, stop, old):
    if old:
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "a").write_text("old")
        manifest(tmp_path / "one", "a")
    before = everything(tmp_path)
    with pytest.raises(stop), files.publish_folder(tmp_path / "one") as folder:
        files.write_atomically(folder / "a", "new")
        raise stop
    assert everything(tmp_path) == before


@pytest.mark.parametrize("stop", [full_disk, ctrl_c])
def test_a_failure_while_the_old_folder_is_aside_brings_it_back(tmp_path, monkeypatch, stop):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_text("old")
    manifest(tmp_path / "one", "a")
    real, calls = os.replace, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            stop()
        real(source, target)

    with pytest.raises((CannotWrite, KeyboardInterrupt)), files.publish_folder(tmp_path / "one"):
        monkeypatch.setattr(os, "replace", second_fails)
    assert len(calls) == 3  # aside, the failing one, back again
    assert everything(tmp_path) == ["one", "one/a", "one/manifest.json"]
    assert (tmp_path / "one" / "a").read_text() == "old"


def test_a_full_disk_inside_a_folder_names_the_place_the_user_knows(tmp_path, monkeypatch):
    with pytest.raises(CannotWrite) as caught, files.publish_folder(tmp_path / "one") as folder:
        monkeypatch.setattr(os, "fsync", full_disk)
        files.write_table(folder / "scores.parquet", pd.DataFrame({"layer": [0]}))
    assert str(tmp_path / "one" / "scores.parquet") in str(caught.value)
    assert everything(tmp_path) == []


@dataclass(frozen=True)
class Card:
    name: str
    score: float


def test_json_is_sorted_and_not_a_number_is_null(tmp_path):
    value = {
        "z": np.float32(0.5),
        "a": [np.nan, float("inf"), np.int64(3), np.array([1.0, np.nan])],
        "card": Card("x", float("nan")),
        "where": Path("a/b"),
        "set": {"b", "a"},
        5: True,
        "text": "né",
    }
    path = files.write_json(tmp_path / "x.json", value)
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text and "né" in text
    read = files.read_json(path)
    assert list(read) == sorted(read)
    assert read["a"] == [None, None, 3, [1.0, None]]
    assert read["card"] == {"name": "x", "score": None}
    assert read["where"] == "a/b" and read["set"] == ["a", "b"] and read["5"] is True and read["z"] == 0.5
    assert (
        files.write_json(tmp_path / "y.json", dict(reversed(value.items()))).read_bytes() == path.read_bytes()
    )


def test_json_refuses_what_it_cannot_say(tmp_path):
    with pytest.raises(TypeError, match="object"):
        files.write_json(tmp_path / "x.json", {"a": object()})
    assert everything(tmp_path) == []


def test_a_table_comes_back_with_its_missing_values(tmp_path):
    table = pd.DataFrame({"layer": [0, 1], "score": [0.5, np.nan], "head": ["L0H0", "L1H0"]}, index=[7, 9])
    back = files.read_table(files.write_table(tmp_path / "t.parquet", table))
    pd.testing.assert_frame_equal(back, table.reset_index(drop=True))


@pytest.mark.parametrize("read", [files.read_json, files.read_table])
def test_a_missing_or_broken_file_is_named(tmp_path, read):
    path = tmp_path / "scores"
    with pytest.raises(BadRun, match=r"scores: no such file\. Give a run folder"):
        read(path)
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(BadRun, match=r"scores: not readable.*again"):
        read(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(BadRun, match="scores"):
        read(path)
