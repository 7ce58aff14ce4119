"""`headscope runs`: what it prints, where it writes, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import headscope.cli
from headscope.analysis.run import save_run
from headscope.analysis.score import default_prompts, score

SUBCOMMANDS = ("list", "show", "compare", "export", "gc")


def call(*arguments: str, status: int = 0):
    """Run one command in this process."""
    result = CliRunner().invoke(headscope.cli.app, ["runs", *arguments], prog_name="headscope")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, planted) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        prompts = default_prompts(planted, "repeated", seed, n=6)
        scores = score(planted, "induction", prompts, seed=seed)
        save_run(root, scores, model=planted, prompts=prompts, command="headscope score induction")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs; the working folder is beside it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path / "runs")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_every_subcommand_has_help_with_an_example():
    listed = call("--help").stdout
    for name in SUBCOMMANDS:
        assert f"  {name} " in listed
        assert f"Example: headscope runs {name}" in " ".join(call(name, "--help").stdout.split())


def test_list_prints_a_table_and_json(root: Path):
    text = call("list").stdout
    assert all(name in text for name in names(root)) and "organism/planted" in text
    rows = json.loads(call("list", "--json").stdout)
    assert {row["name"] for row in rows} == set(names(root))
    assert call("list", "--match", "nothing-like-this").stdout.strip() == "runs: no run and no job."
    assert "no such folder" in call("list", "--runs", "nowhere", status=2).stderr


def test_show_takes_a_path_or_a_name(root: Path):
    name = names(root)[0]
    for given in (name, f"runs/{name}"):
        text = call("show", given, "--top", "1").stdout
        assert "L2H1" in text and "From attention alone" in text and "L2H0" not in text
    found = json.loads(call("show", name, "--json").stdout)
    assert found["scores"][0]["heads"][0]["head"] == "L2H1"
    assert "Nearest" in call("show", name[:-2] + "zz", status=2).stderr


def test_compare_says_how_far_two_runs_agree_and_writes_a_page(root: Path):
    one, two = names(root)
    text = call("compare", one, two, "--out", "pages/compare.html").stdout
    assert "Rank agreement (Spearman's ρ)" in text and "chance gives" in text
    assert re.search(r"Other seeds: [01] and [01]\.", text)
    page = Path("pages/compare.html").read_text()
    assert "Do these runs agree?" in page and "headscope" in page
    found = json.loads(call("compare", one, two, "--json", "--k", "1,2").stdout)
    assert [row["k"] for row in found["pairs"][0]["overlap"]] == [1, 2]
    assert "whole numbers" in call("compare", one, two, "--k", "x", status=2).stderr
    assert "no two with the same heads" in call("compare", one, status=2).stderr


def test_export_writes_tables_and_the_tree(root: Path):
    one, two = names(root)
    call("export", one, two, "--to", "csv", "--out", "both.csv")
    assert set(pd.read_csv("both.csv")["run"]) == {one, two}
    written = json.loads(call("export", one, "--to", "parquet", "--json").stdout)["written"]
    assert written == [f"{one}-scores.parquet"] and len(pd.read_parquet(written[0])) == 12
    call("export", one, "--to", "json", "--table", "samples", "--out", "samples.json")
    assert len(json.loads(Path("samples.json").read_text())) == 6 * 12
    call("export", one, two, "--to", "headvis", "--out", "trees")
    trees = sorted(path.parent for path in Path("trees").rglob("scatter_data.json"))
    assert len(trees) == 2 and all((tree / "heads" / "L2H3.json").is_file() for tree in trees)
    assert "already there" in call("export", one, two, "--to", "headvis", "--out", "trees", status=1).stderr
    assert "no such choice" in call("export", one, "--to", "xlsx", status=2).stderr
    assert "no table" in call("export", one, "--to", "csv", "--table", "verify", status=2).stderr


def test_gc_only_says_what_it_would_do_until_told(root: Path):
    rest = root / f".scores.parquet.{'a' * 12}.tmp"
    rest.write_text("x")
    os.utime(rest, (0, 0))
    assert "Would remove 1 leftovers" in call("gc").stdout and rest.exists()
    found = json.loads(call("gc", "--yes", "--json").stdout)
    assert found["removed"] and len(found["leftovers"]) == 1 and not rest.exists()
    assert len(names(root)) == 2
