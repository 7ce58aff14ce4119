"""Heads of an image tower and pictures of all kinds on the command line, as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import headscope.cli

SCENE, OTHER = "scene:1:red-circle@0,blue-star@4", "scene:2:green-ring@8"


def run(*arguments):
    return CliRunner().invoke(headscope.cli.app, [str(one) for one in arguments], prog_name="headscope")


@pytest.fixture(scope="module")
def folder(model_folder):
    return model_folder("llava")


def test_heads_of_a_tower_are_changed_by_name(folder):
    given = ("-p", "the cat saw", "--image", SCENE, "--max-new-tokens", 6, "--json")
    whole = run("generate", "-m", folder, *given)
    part = run(
        "generate", "-m", f"{folder}#tower", *given, "--ablate", "L0H0,L0H1,L0H2,L0H3", "--how", "zero"
    )
    assert whole.exit_code == part.exit_code == 0, part.output
    (text,) = json.loads(part.stdout)["texts"]
    assert text["clean"] == json.loads(whole.stdout)["texts"][0]["clean"] != text["changed"]
    missing = run("generate", "-m", f"{folder}#tower", *given, "--ablate", "L1H0")
    assert missing.exit_code == 2 and "tiny-llava#tower has layers 0-0" in missing.output


def test_a_tower_is_scored_and_verified(folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"text": "the cat", "answer": " red", "image": one} for one in (SCENE, OTHER)]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    given = ("-m", f"{folder}#tower", "--data", prompts)
    done = run("score", "leave-one-out", *given, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    (scored,) = [path for path in (tmp_path / "run").iterdir() if path.is_dir()] or [tmp_path / "run"]
    checked = run("verify", scored, "--data", prompts, "--how", "zero", "--k", 1, "--draws", 1)
    assert checked.exit_code == 0, checked.output
    assert "tiny-llava#tower" in checked.output
    refused = run("score", "induction", *given)
    assert refused.exit_code == 2 and "read pieces of images, not tokens" in refused.output


def test_a_prompt_about_several_pictures(folder):
    given = ("generate", "-m", folder, "--max-new-tokens", 3, "--json")
    both = run(*given, "-p", "<image> the cat and <image> the dog", "--image", SCENE, "--image", OTHER)
    same = run(*given, "-p", "<image> the cat and <image> the dog", "--image", SCENE, "--image", SCENE)
    assert both.exit_code == same.exit_code == 0, both.output
    refused = run(*given, "-p", "<image> the cat", "--image", SCENE, "--image", OTHER)
    assert refused.exit_code == 2 and "says <image> once, and the prompt has 2 images" in refused.output
    at_the_end = run(*given, "-p", "the cat <image>", "--image", SCENE)
    assert at_the_end.exit_code == 2 and "prompt 0 ends with its image" in at_the_end.output


@pytest.mark.parametrize(
    "kind, words",
    [
        ("cut short", "damaged or cut short"),
        ("huge", "at most 40,000,000 pixels"),
        ("floating point", "floating-point numbers"),
        ("no image", "not an image that can be read"),
        ("absent", "no image file"),
        ("long name", "no image file"),
        ("no scene", "is no scene"),
    ],
)
def test_a_bad_picture_is_one_clear_error(folder, tmp_path, kind, words):
    path = tmp_path / "picture.png"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))
    if kind == "cut short":
        noise.save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "huge":
        Image.new("1", (8000, 6000)).save(path)
    elif kind == "floating point":
        path = path.with_suffix(".tiff")
        Image.new("F", (8, 8), 0.5).save(path)
    elif kind == "no image":
        path.write_text("hello")
    given = {"long name": "a" * 5000, "no scene": "scene:bad"}.get(kind, path)
    done = run("generate", "-m", folder, "-p", "the cat", "--image", given, "--max-new-tokens", 1)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    _, error = [
        line for line in done.output.splitlines() if line.strip()
    ]  # the first line says what is running
    assert words in error and "BadImage" in error and len(error) < 600
