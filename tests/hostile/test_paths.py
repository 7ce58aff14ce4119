"""Names and folders that lead elsewhere: nothing outside the folder that was named is read, written or removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner, Result

from headscope.analysis.browse import direction_files, inside, list_runs, open_run, report_of
from headscope.analysis.files import publish_folder, write_atomically
from headscope.analysis.run import load_run
from headscope.cli import app
from headscope.errors import BadRun, CannotWrite
from headscope.jobs.export import other_table
from headscope.jobs.listing import entries, open_folder
from headscope.jobs.spec import job_of
from headscope.jobs.store import JobStore

OUT = [
    "..",
    "../x",
    "../../etc",
    "/etc",
    "a/../../x",
    ".",
    "",
    "x\0y",
    "~",
    "~root",
    "C:\\x",
    "..\\x",
    "a\nb",
    "x/" * 9000,
]


def headscope(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert "Traceback" not in done.output
    assert done.exit_code in (0, 1, 2)
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a run and a job in it."""
    root = tmp_path_factory.mktemp("made") / "runs"
    scored = headscope("score", "previous-token", "-m", "organism/planted", "-n", 4, "--out", root)
    assert scored.exit_code == 0
    job = root.parent / "job.yaml"
    step = {"kind": "score", "method": "previous-token", "data": {"name": "repeated", "n": 4}}
    job.write_text(json.dumps({"name": "../../evil", "model": "organism/planted", "steps": [step]}))
    assert headscope("run", job, "--out", root, "--quiet").exit_code == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil, beside a folder with a secret."""
    shutil.copytree(made, tmp_path / "runs")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "keep.txt").write_text("keep")
    return tmp_path / "runs"


def folders(root: Path) -> tuple[Path, Path]:
    """The run and the job."""
    job = next(path for path in root.iterdir() if (path / "units.json").is_file())
    return next(path for path in root.iterdir() if path.is_dir() and path != job), job


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_job_called_out_of_the_folder_stays_in_it(made):
    assert {path.name for path in made.parent.iterdir()} == {"runs", "job.yaml"}
    assert all("/" not in path.name and ".." not in path.name for path in made.iterdir())


@pytest.mark.parametrize("name", OUT)
def test_no_name_of_a_job_step_or_result_leaves_the_folder(name, tmp_path):
    name = name[:80] or "x"
    step = {"kind": "score", "method": "previous-token", "name": name}
    job = job_of({"name": name, "model": "organism/planted", "steps": [step]})
    place = (tmp_path / job.folder_name).resolve()
    assert place.parent == tmp_path.resolve()
    assert len(job.folder_name) < 120
    JobStore.create(tmp_path, job)
    assert [path.name for path in tmp_path.iterdir()] == [job.folder_name]


@pytest.mark.parametrize("name", OUT)
def test_a_run_is_found_by_no_name_that_leads_out(root, name):
    with pytest.raises(BadRun):
        inside(root, name)
    for read in (open_run, report_of):
        with pytest.raises(BadRun):
            read(root, name)


@pytest.mark.parametrize(
    "name", ["../secret", "scores/../../secret/keep", "/etc/passwd", "..", "*", "scores.parquet"]
)
def test_no_table_is_exported_from_elsewhere(root, tmp_path, name):
    run, _ = folders(root)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "secret" / "keep.parquet")
    with pytest.raises(BadRun, match="no table"):
        other_table(open_folder(run), name)
    done = headscope("runs", "export", run, "--to", "csv", "--table", name, "--out", tmp_path / "out.csv")
    assert done.exit_code == 2
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "file", ["scores.parquet", "prompts.jsonl", "manifest.json", "report.html", "new.parquet"]
)
def test_a_run_with_a_link_in_it_is_refused_by_every_command(root, tmp_path, file):
    run, _ = folders(root)
    outside = tmp_path / "secret" / file
    if (run / file).exists():
        shutil.move(run / file, outside)
    else:
        pd.DataFrame({"secret": ["keep"]}).to_parquet(outside)
    (run / file).symlink_to(outside)
    before = tree(tmp_path / "secret")
    calls = (
        ["show", run],
        ["compare", run, run],
        ["export", run, "--to", "csv", "--out", tmp_path / "out.csv"],
        ["export", run, "--to", "csv", "--table", Path(file).stem, "--out", tmp_path / "out.csv"],
    )
    for call in calls:
        done = headscope("runs", *call)
        assert done.exit_code == 2
        assert "is a link" in done.stderr
    assert headscope("verify", run, "--k", "1").exit_code == 2
    assert not (tmp_path / "out.csv").exists()
    assert tree(tmp_path / "secret") == before


def test_a_folder_that_is_a_link_is_listed_with_its_problem_and_not_opened_by_name(root, tmp_path):
    run, _ = folders(root)
    shutil.move(run, tmp_path / "secret" / "run")
    (root / "linked").symlink_to(tmp_path / "secret" / "run")
    (listed,) = [one for one in list_runs(root) if one.name == "linked"]
    assert "link" in listed.problem
    assert [one.state for one in entries(root) if one.name == "linked"] == ["broken"]
    with pytest.raises(BadRun):
        open_run(root, "linked")


@pytest.mark.parametrize("part", ["units", "claims", "events", "prompts", "rows", "results", "failed"])
def test_a_job_writes_through_no_link(root, tmp_path, part):
    _, job = folders(root)
    shutil.rmtree(job / part, ignore_errors=True)
    (job / part).symlink_to(tmp_path / "secret")
    before = tree(tmp_path / "secret")
    for call in (["run", job, "--quiet"], ["runs", "show", job], ["run", job, "--dry-run"]):
        done = headscope(*call)
        assert done.exit_code == 2, done.output
        assert f"{part} is a link" in done.stderr
    assert tree(tmp_path / "secret") == before


def test_a_manifest_that_names_results_elsewhere_shows_none_of_them(root, tmp_path):
    run, job = folders(root)
    shutil.copytree(run, tmp_path / "secret" / "run")
    manifest = json.loads((job / "manifest.json").read_text())
    wild = [
        "../../secret/run",
        str(tmp_path / "secret" / "run"),
        "results/../../../secret/run",
        "..",
        "/",
        "\0",
    ]
    manifest["results"] = [{"folder": place} for place in wild]
    (job / "manifest.json").write_text(json.dumps(manifest))
    done = headscope("runs", "show", job)
    assert done.exit_code in (0, 2)
    assert not open_folder(job).runs if done.exit_code == 0 else True


def test_a_manifest_that_claims_files_elsewhere_makes_nothing_go(root, tmp_path):
    run, _ = folders(root)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"] = ["../../secret/keep.txt", "/etc/passwd", *manifest["files"]]
    (run / "manifest.json").write_text(json.dumps(manifest))
    with publish_folder(run) as fresh:
        (fresh / "manifest.json").write_text(json.dumps(manifest))
    assert (tmp_path / "secret" / "keep.txt").read_text() == "keep"
    assert Path("/etc/passwd").exists()


def test_clearing_removes_nothing_behind_a_link(root, tmp_path):
    secret = tmp_path / "secret"
    old = ".x.jsonl.0123456789ab.tmp"  # what a killed writer leaves
    for place in (secret, root):
        (place / old).write_text("x")
    (root / "linked").symlink_to(secret)
    (root / ".y.0123456789ab.tmp").symlink_to(secret)
    (root / ".z.0123456789ab.tmp").symlink_to(secret / "keep.txt")
    _, job = folders(root)
    shutil.rmtree(job / "claims", ignore_errors=True)
    (job / "claims").symlink_to(secret)
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1))
    os.utime(secret / old, (1, 1))
    done = headscope("runs", "gc", "--runs", root, "--older", 0, "--yes")
    assert done.exit_code == 0, done.output
    assert not (root / old).exists()
    assert (secret / old).exists() and (secret / "keep.txt").read_text() == "keep"
    assert (root / "linked").is_symlink()


def test_a_file_is_written_in_place_of_a_link_and_not_through_it(tmp_path):
    (tmp_path / "secret.csv").write_text("keep")
    (tmp_path / "out.csv").symlink_to(tmp_path / "secret.csv")
    write_atomically(tmp_path / "out.csv", "new")
    assert (tmp_path / "secret.csv").read_text() == "keep"
    assert (tmp_path / "out.csv").read_text() == "new" and not (tmp_path / "out.csv").is_symlink()


def test_a_run_is_not_written_over_a_folder_of_somebody_else(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("keep")
    with (
        pytest.raises(CannotWrite, match=r"holds thesis\.tex and is no run"),
        publish_folder(tmp_path / "home"),
    ):
        pass
    assert (tmp_path / "home" / "thesis.tex").read_text() == "keep"


def test_directions_are_offered_from_the_folder_alone(root, tmp_path):
    (tmp_path / "secret" / "d.safetensors").write_bytes(b"")
    (root / "d.safetensors").symlink_to(tmp_path / "secret" / "d.safetensors")
    (root / "more").symlink_to(tmp_path / "secret")
    assert direction_files(root) == {}


@pytest.fixture
def open_at(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., AppTest]:
    """Open a page of the app, which shows `root`, at an address."""
    monkeypatch.setenv("HEADSCOPE_APP_RUNS", str(root))

    def opened(module: str, **address: str) -> AppTest:
        script = tmp_path / "page.py"
        script.write_text(
            "import importlib\nfrom headscope.app import state, widgets\nstate.settle()\n"
            f"widgets.framed(importlib.import_module('headscope.app.{module}').page)\n"
        )
        at = AppTest.from_file(str(script), default_timeout=300)
        for name, value in ({"model": "organism/planted"} | address).items():
            at.query_params[name] = value
        return at.run()

    return opened


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("runs", {"run": "../secret"}),
        ("runs", {"run": "/etc"}),
        ("patterns", {"model": "../../../etc"}),
        ("patterns", {"model": "/etc/passwd"}),
        ("patterns", {"model": "organism/../../etc"}),
        ("patterns", {"layer": "../x", "head": "1e9", "token": "-1", "view": "../Text"}),
        ("vision", {"model": "organism/vision", "picture": "/etc/passwd"}),
        ("intervene", {"change": "../../x", "directions": "../secret/d.safetensors"}),
    ],
)
def test_an_address_that_leads_out_is_one_sentence_on_a_whole_page(open_at, page, address):
    at = open_at(page, **address)
    assert not at.exception
    assert at.title


def test_an_address_fetches_no_model(open_at, monkeypatch):
    """Whoever can make somebody click a link must not make their machine fetch gigabytes."""
    fetched = []

    def fetch(name: str, *, local_files_only: bool = False, **_: object) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if not local_files_only:
            fetched.append(name)
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    at = open_at("patterns", model="somebody/huge-model")
    assert not at.exception and fetched == []
    assert any("An address fetches nothing" in one.value for one in at.warning)
    at.text_input(key="sidebar_another").set_value("somebody/huge-model").run()
    assert fetched == ["somebody/huge-model"]
    assert not at.exception


def test_a_folder_reached_through_a_link_by_its_user_is_theirs_to_name(root, tmp_path):
    run, _ = folders(root)
    (tmp_path / "link").symlink_to(run)
    assert load_run(tmp_path / "link").manifest["format"] == "headscope-run/1"
