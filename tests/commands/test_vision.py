"""The commands about models that see, as they are typed: `trace`, `mitigate`, `selective`, `concept`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import headscope.cli


def run(*arguments):
    return CliRunner().invoke(headscope.cli.app, [str(one) for one in arguments], prog_name="headscope")


@pytest.fixture(scope="module")
def llava(model_folder):
    return model_folder("llava")


def test_trace_writes_a_folder_and_prints_rates(llava, tmp_path):
    done = run("trace", "-m", llava, "-n", 3, "--min-gap", 0.0001, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert len(record["table"]) == 3 * 3 * 7 and {"recovery", "low", "high", "n"} <= set(record["table"][0])
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"tracing.parquet", "tracing.json", "tracing.html"}


def test_mitigate_writes_a_folder_and_a_conclusion(llava, tmp_path):
    given = ("-n", 3, "--draws", 1, "--strengths", "1,2", "--max-new-tokens", 5)
    done = run("mitigate", "vhr", "-m", llava, *given, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "as many random heads of the same layers" in done.stdout and "points" in done.stdout


def test_dry_runs_write_nothing_and_load_nothing(tmp_path):
    for arguments in (("trace",), ("mitigate", "vhr"), ("selective", "vhd"), ("concept", "red,blue")):
        done = run(*arguments, "-m", "nowhere/model", "--dry-run", "--out", tmp_path)
        assert done.exit_code == 0 and "Would run" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("mitigate", "vhs", "-m", "organism/text"), "vhs: no such choice"),
        (("mitigate", "vhr", "-m", "organism/text"), "takes text only"),
        (("mitigate", "vhr", "-m", "organism/text", "--strengths", "a,b"), "expected numbers with commas"),
        (("mitigate", "vhr", "-m", "organism/text", "--images", "x"), "belong to --annotations"),
        (
            ("mitigate", "vhr", "-m", "organism/text", "--annotations", "x.json"),
            "--annotations needs --images",
        ),
        (("selective", "vhd", "-m", "organism/text"), "takes text only"),
        (("selective", "vhf", "-m", "organism/text"), "vhf: no such method"),
        (("selective", "vhd", "-m", "organism/vision", "--rank-on", "shape"), "shape: no visual task"),
        (
            ("selective", "vhd", "-m", "organism/vision", "--layers", "a"),
            "--layers a: expected whole numbers",
        ),
        (("concept", "red", "-m", "organism/text"), "takes text only; give prompts"),
        (("concept", "red", "-m", "organism/text", "--gains", "a"), "expected numbers with commas"),
        (("concept", "red", "-m", "organism/text", "--data", "mine"), "a file that ends in .jsonl"),
        (("trace", "-m", "organism/text"), "takes text only"),
        (("trace", "-m", "organism/text", "--data", "nowhere.jsonl"), "no such file"),
    ],
)
def test_a_wrong_call_gets_one_clear_line(arguments, words, tmp_path):
    done = run(*arguments, "--out", tmp_path / "runs")
    assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.output
    assert not (tmp_path / "runs").exists()


def test_generate_continues_a_text_about_a_picture(llava):
    texts = []
    for image in ("scene:1:red-circle@0,blue-star@4", "scene:2:green-ring@8"):
        done = run("generate", "-m", llava, "-p", "the cat saw", "--image", image, "--json")
        assert done.exit_code == 0, done.output
        texts.append(json.loads(done.stdout)["texts"][0]["clean"])
    assert texts[0] != texts[1]
    done = run("generate", "-m", llava, "-p", "the cat", "--image", "nowhere.png")
    assert done.exit_code == 2 and "BadImage: prompt 0: there is no image file 'nowhere.png'" in done.stderr


def test_mitigate_tells_that_nothing_is_a_sink_at_the_published_threshold(tmp_path):
    given = ("-n", 3, "--draws", 1, "--strengths", "0.6", "--max-new-tokens", 5)
    done = run("mitigate", "var", "-m", "organism/vision", *given, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    rows = {(row["arm"], row["strength"]): row for row in record["table"]}
    assert set(rows) == {("chosen", 0), ("chosen", 0.6), ("lower threshold", 0.6), ("random", 0.6)}
    shown = ("CHAIR_S", "recall", "words", "right")
    assert [rows["chosen", 0][name] for name in shown] == [rows["chosen", 0.6][name] for name in shown]
    assert "at the published threshold no token is a sink" in record["conclusion"]
    assert "exploratory, ours" in record["notes"][0]


def test_selective_prints_visual_and_text_only_tasks_side_by_side(llava, tmp_path):
    done = run("selective", "vhd", "-m", llava, "-n", 4, "-k", "1", "--draws", 1, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    tasks = {(row["role"], row["task"]) for row in record["table"]}
    assert {task for role, task in tasks if role == "asked"} == {"exists", "color", "where", "count"}
    assert {task for role, task in tasks if role == "spared"} == {"repeated", "ioi"}
    (folder,) = tmp_path.iterdir()
    assert (folder / "selectivity.parquet").exists() and len(record["heads"]) == 1


def test_concept_counts_words_of_texts_about_pictures(llava, tmp_path):
    given = (
        "-n",
        12,
        "-k",
        "1",
        "--draws",
        1,
        "--atoms",
        1,
        "--max-new-tokens",
        4,
        "--out",
        tmp_path,
        "--json",
    )
    done = run("concept", "the,cat,dog,saw,three,six,fox", "-m", llava, *given)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [row["arm"] for row in record["table"]].count("top") == 2 and record["examples"]
    (folder,) = tmp_path.iterdir()
    assert (folder / "concept.json").exists()
