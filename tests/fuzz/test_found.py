"""What mutated input has found: each is one clear error now."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from fuzz.arguments import small_sae
from fuzz.judge import Refused
from fuzz.terminal import headscope
from headscope.analysis.circuits.sae.checkpoint import load_checkpoint
from headscope.analysis.circuits.sae.files import load_sae, save_sae
from headscope.analysis.files import read_json, write_json
from headscope.analysis.run import load_run
from headscope.analysis.scores import HeadScores, Source
from headscope.analysis.verification import Verification
from headscope.datasets.annotated import from_coco
from headscope.datasets.prompts import PromptSet
from headscope.errors import (
    BadJob,
    BadModelFolder,
    BadOption,
    BadPrompts,
    BadRun,
    MissingData,
    UnknownHead,
    UnknownModel,
)
from headscope.hooks.directions import FORMAT, Directions
from headscope.hooks.find import check_folder, find_model
from headscope.hooks.heads import parse_heads
from headscope.jobs.leftovers import leftovers
from headscope.jobs.listing import entries
from headscope.jobs.spec import job_of, read_job
from headscope.jobs.status import status
from headscope.jobs.store import JobStore

_JOB: dict[str, Any] = {
    "name": "a",
    "model": "organism/planted",
    "steps": [{"kind": "score", "method": "self"}],
}


def test_a_head_of_5000_digits() -> None:
    with pytest.raises(UnknownHead, match="is not a head"):
        parse_heads(f"L0H{'9' * 5000}")


@pytest.mark.parametrize("kind", [["score"], {"score": 1}, None, 3])
def test_a_kind_that_is_no_word(kind: Any) -> None:
    with pytest.raises(BadJob, match="no kind of step"):
        job_of({**_JOB, "steps": [{"kind": kind}]})


@pytest.mark.parametrize("text", ['name: "a\\ud800"', '"a\\udcff": 1', 'name: a\nmodel: ["\\udfff"]'])
def test_half_of_a_surrogate_pair_in_a_job(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{text}\nsteps: [{{kind: score, method: self}}]\n")
    with pytest.raises(BadJob, match=r"job.yaml:\d: .*half of a surrogate pair"):
        read_job(path)


def test_bytes_of_the_command_line_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(_JOB))
    with pytest.raises(BadJob, match="not UTF-8"):
        read_job(path, ["name=\udcff"])


def test_more_sets_of_prompts_than_can_be_planned() -> None:
    with pytest.raises(BadJob, match="seeds"):
        job_of({**_JOB, "steps": [{"kind": "circuit", "task": "ioi", "methods": ["atp"], "seeds": 10**12}]})


@pytest.mark.parametrize("kind", ["circuit", "steer", "safety", "mitigate"])
def test_more_prompts_in_a_job_than_can_be_made(kind: str) -> None:
    with pytest.raises(BadJob, match="less than or equal to 100000"):
        job_of({**_JOB, "steps": [{"kind": kind, "n": 10**9}]})


def test_a_model_whose_name_no_disk_can_hold() -> None:
    with pytest.raises(UnknownModel, match="no path that can be looked up"):
        find_model("a" * 5000)


def test_a_device_where_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match="bytes"):
        read_job("/dev/zero")
    for name in ("a.jsonl", "a.json"):
        os.symlink("/dev/zero", tmp_path / name)
    with pytest.raises(MissingData, match="no plain file"):
        PromptSet.from_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(BadRun, match="no plain file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("part", ["spans", "boxes", "variants"])
def test_half_of_a_surrogate_pair_in_a_name(part: str, tmp_path: Path) -> None:
    inside: Any = {"spans": [[0, 1]], "boxes": [[0, 0, 1, 1]], "variants": "b"}[part]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "abc", part: {"\ud926": inside}}))
    with pytest.raises(BadPrompts, match=f"{part}: has half of a surrogate pair"):
        PromptSet.from_jsonl(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_an_image_whose_name_is_no_path(name: str, tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": name}]
    annotations = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]
    whole = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}
    (tmp_path / "a.json").write_text(json.dumps(whole))
    with pytest.raises(BadPrompts, match="is no path"):
        from_coco(tmp_path / "a.json", tmp_path)


def test_a_number_of_5000_digits_in_annotations(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("9" * 5000)
    with pytest.raises(BadPrompts, match="not a JSON file"):
        from_coco(tmp_path / "a.json", tmp_path)


def test_json_nested_deeper_than_python_reads(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(BadRun, match="not readable as JSON"):
        read_json(tmp_path / "a.json")


def test_levels_of_chance_that_are_not_one_a_sample() -> None:
    with pytest.raises(BadRun, match="3 samples and 2 levels"):
        HeadScores(np.ones((1, 2)), np.ones((3, 1, 2)), "self", chance=np.ones(2))


@pytest.mark.parametrize("digest", [{"a": 1}, ["b"], 16])
def test_a_digest_that_is_no_text(digest: Any, tmp_path: Path) -> None:
    HeadScores(np.ones((1, 2)), None, "self", model=Source("m", "d")).save(tmp_path)
    said = read_json(tmp_path / "scores.json")
    write_json(tmp_path / "scores.json", {**said, "model": {"name": "m", "digest": digest}})
    with pytest.raises(BadRun, match="expected a name and a digest"):
        HeadScores.load(tmp_path)


@pytest.mark.parametrize(
    "part", [{"model": 1.5}, {"model": None}, {"data": []}, {"data": {"name": 1, "digest": "a"}}]
)
def test_a_manifest_whose_parts_are_no_mappings(part: dict[str, Any], tmp_path: Path) -> None:
    whole = {
        "format": "headscope-run/1",
        "model": {"load": "a", "digest": "b"},
        "data": {"name": "a", "digest": "b"},
    }
    write_json(tmp_path / "manifest.json", {**whole, **part})
    with pytest.raises(BadRun, match=f"{next(iter(part))} does not say"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "metadata", "error"),
    [
        ("layer.x", {"format": FORMAT, "at": "resid"}, UnknownHead),
        ("layer.", {"format": FORMAT, "at": "resid"}, UnknownHead),
        (f"layer.{'9' * 5000}", {"format": FORMAT, "at": "resid"}, UnknownHead),
        ("L0H1", {"format": FORMAT}, BadOption),
        ("L0H1", {"at": "z"}, BadRun),
    ],
)
def test_directions_of_nowhere(
    tensor: str, metadata: dict[str, str], error: type[Exception], tmp_path: Path
) -> None:
    save_file({tensor: torch.ones(4)}, tmp_path / "d.safetensors", metadata=metadata)
    with pytest.raises(error):
        Directions.load(tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"d_in": "gpt2"}, BadModelFolder),
        ({"d_sae": [4]}, BadModelFolder),
        ({"d_sae": 1e999}, BadModelFolder),
        ({"k": [None]}, BadModelFolder),
        ({"metadata": ["a"]}, BadModelFolder),
        ({"d_sae": -8}, BadOption),
        ({"d_sae": 10**15, "k": 1}, BadOption),
    ],
)
def test_sizes_of_an_sae_that_are_none(
    change: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    save_sae(small_sae(), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(error):
        load_sae(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_configuration_nested_deeper_than_python_reads(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for other in ("model.safetensors", "tokenizer.json"):
        (tmp_path / other).write_text("{}")
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(BadModelFolder, match="is not"):
        check_folder(tmp_path, "x")


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_training_that_cannot_be_gone_on_with(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "training.safetensors").write_bytes(content)
    with pytest.raises(BadRun, match="not a training"):
        load_checkpoint(tmp_path, "a")


@pytest.mark.parametrize("seed", [-1, -(2**70)])
def test_seeds_below_0(seed: int, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="seed"):
        HeadScores(np.ones((1, 2)), None, "self", seed=seed)
    with pytest.raises(BadJob, match="seed"):
        job_of({**_JOB, "seed": seed})
    with pytest.raises(Refused, match="usage"):
        headscope(
            ("score", "self", "-m", "organism/planted", "--seed", str(seed), "--out", str(tmp_path / "runs"))
        )
    assert not (tmp_path / "runs").exists()


def test_numbers_of_a_check_that_are_none(tmp_path: Path) -> None:
    arm = {"arm": "top", "draw": 0, "heads": ["L0H0"], "k": -math.inf}
    said = {"format": "headscope-verification/1", "arms": [arm]}
    (tmp_path / "verification.json").write_text(json.dumps(said))
    rows = {"arm": ["clean", "top"], "k": [0, 1], "draw": [0, 0], "prompt": [0, 0], "value": [0.0, 0.1]}
    pd.DataFrame(rows).to_parquet(tmp_path / "verification.parquet")
    with pytest.raises(BadRun, match="damaged"):
        Verification.load(tmp_path)


def _job_folder(root: Path) -> Path:
    return JobStore.create(root, job_of(_JOB), started="2026").folder


def _edit(path: Path, **values: Any) -> None:
    write_json(path, {**(read_json(path) if path.is_file() else {}), **values})


@pytest.mark.parametrize("units", [63, {"done": []}, {"done": "x", "planned": None}, []])
def test_a_job_whose_units_are_no_numbers_is_listed(units: Any, tmp_path: Path) -> None:
    _edit(_job_folder(tmp_path) / "manifest.json", units=units, seconds="long")
    [entry] = entries(tmp_path)
    assert (entry.what, entry.done, entry.planned, entry.seconds) == ("job", 0, 0, None)


@pytest.mark.parametrize(
    "part", [{"units": "all"}, {"units": {"done": "x"}}, {"missing": 3}, {"missing": [1, "a"]}]
)
def test_a_job_whose_manifest_is_odd_is_shown(part: dict[str, Any], tmp_path: Path) -> None:
    folder = _job_folder(tmp_path)
    _edit(folder / "manifest.json", **part)
    assert "0 of 0 units" in headscope(("runs", "show", str(folder)))


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not hold for root, under whom tests may run: the system's refusal is played."""
    _job_folder(tmp_path / "fine")
    (tmp_path / "locked").mkdir()
    (tmp_path / "away").symlink_to(tmp_path / "locked" / "far")
    looked = os.stat

    def refuse(path: Any, *rest: Any, **named: Any) -> os.stat_result:
        if ("locked" in str(path) and Path(path).name != "locked") or str(path).endswith("away"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path, *rest, **named)

    monkeypatch.setattr(os, "stat", refuse)
    assert [entry.name for entry in entries(tmp_path)] == [f"fine/{next((tmp_path / 'fine').iterdir()).name}"]
    assert leftovers(tmp_path) == ([], [])


def test_units_that_are_no_list(tmp_path: Path) -> None:
    folder = _job_folder(tmp_path)
    _edit(folder / "units.json", units=63)
    with pytest.raises(BadRun, match="units is no list"):
        status(folder)
    (folder / "units").mkdir()
    (folder / "units" / "0.parquet").write_bytes(b"")
    found, notes = leftovers(tmp_path, older_seconds=-1)
    assert not found and "left alone" in notes[0]


def test_notes_and_events_that_say_nothing(tmp_path: Path) -> None:
    folder = _job_folder(tmp_path)
    _edit(folder / "failed" / "0.json", error="x")
    (folder / "events").mkdir()
    (folder / "events" / "a.jsonl").write_text(f'{{"at": 1.0}}\n{"[" * 100_000}\n')
    os.symlink("/dev/zero", folder / "events" / "b.jsonl")
    assert status(folder).failed == 0


@pytest.mark.parametrize(
    "job", [None, [], {}, {"cells": 3}, {"cells": [{"point": {}, "steps": [{"kind": "x"}]}]}]
)
def test_a_job_that_its_manifest_does_not_hold(job: Any, tmp_path: Path) -> None:
    folder = _job_folder(tmp_path)
    _edit(folder / "manifest.json", job=job)
    with pytest.raises((BadRun, BadOption)):
        assert JobStore(folder).job


def test_a_home_that_nobody_has() -> None:
    with pytest.raises(Refused, match="CannotRead"):
        headscope(("sae", "show", "~nobody-of-this-name/sae", "--model", "organism/planted", "--dry-run"))


def test_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    shown = headscope(("jobs", "schema", "--out", str(tmp_path / "a\udcff.json")))
    assert (tmp_path / "a\udcff.json").is_file() and shown.startswith("File: ")


@pytest.mark.parametrize(
    "arguments",
    [("runs", "list", "--runs", "(" * 5000), ("run", "i" * 5000), ("jobs", "status", "a/" * 5000)],
)
def test_a_path_that_the_system_refuses_to_look_up(arguments: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="CannotRead"):
        headscope(arguments)


@pytest.mark.parametrize(
    "command", ["score self", "sahara", "steer act", "trace", "selective vhd", "concept red", "mitigate vhr"]
)
def test_more_prompts_than_can_be_made(command: str) -> None:
    with pytest.raises(Refused, match="usage"):
        headscope((*command.split(), "-m", "organism/planted", "--dry-run", "-n", "100000000"))
