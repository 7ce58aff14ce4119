"""Bad input, from end to end: one message that names the thing, the right exit status, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import headscope
import headscope.cli
import headscope.errors as errors
from headscope.datasets.prompts import Prompt, PromptSet

PLANTED = "organism/planted"
SHIPPED = Path(headscope.__file__).parent / "organisms" / "planted"


@pytest.fixture(scope="module")
def planted():
    return headscope.load(PLANTED)


def score(model: str | Path, data: Path, out: Path) -> tuple[int, str]:
    arguments = ["score", "induction", "--model", str(model), "--data", str(data), "--out", str(out)]
    result = CliRunner().invoke(headscope.cli.app, arguments, prog_name="headscope")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert not out.exists()
    return result.exit_code, result.stderr


def public_errors() -> list[type]:
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.HeadscopeError)
    ]


@pytest.mark.parametrize("error", public_errors(), ids=lambda one: one.__name__)
def test_every_error_is_a_wrong_call_or_a_failed_run_and_says_what_it_is(error):
    if error is not errors.HeadscopeError:
        assert issubclass(error, errors.CallError) != issubclass(error, errors.RunError)
    assert error.__doc__


def test_a_prompt_longer_than_the_context_names_the_prompt_and_both_lengths(tmp_path):
    data = PromptSet("long", (Prompt("apple"), Prompt("apple " * 400))).to_jsonl(tmp_path / "long.jsonl")
    status, message = score(PLANTED, data, tmp_path / "runs")
    assert status == 2
    assert "PromptTooLong: " in message and "256" in message and "40" in message


def test_a_span_outside_the_text_names_the_line(tmp_path):
    data = tmp_path / "span.jsonl"
    data.write_text('{"text": "apple", "spans": {"gold": [[2, 9]]}}\n')
    status, message = score(PLANTED, data, tmp_path / "runs")
    assert status == 2 and "span.jsonl:1: spans.gold[0]: ends at 9, expected at most 5" in message


@pytest.mark.parametrize(
    "use", [headscope.encode, headscope.generate, lambda m, p: headscope.score(m, "induction", p)]
)
def test_an_empty_prompt_set_is_refused_everywhere(planted, use):
    with pytest.raises(errors.EmptyPromptSet):
        use(planted, PromptSet("none", ()))


def test_a_head_that_is_not_there_names_what_is(planted):
    with pytest.raises(errors.UnknownHead, match=r"L99H0: organism/planted has layers 0-2 and heads 0-3\."):
        headscope.generate(planted, "apple", interventions=headscope.zero("L99H0"))


def test_nan_weights_name_the_tensor(tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(SHIPPED, folder)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.attn.c_proj.weight"].view(-1)[3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    data = PromptSet("one", (Prompt("apple banana apple"),)).to_jsonl(tmp_path / "one.jsonl")
    status, message = score(folder, data, tmp_path / "runs")
    assert status == 1
    assert "NonFinite: broken: 1 of 65536 weights of transformer.h.1.attn.o.weight are NaN" in message


def test_a_folder_without_a_tokenizer_names_the_file(tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(SHIPPED, folder)
    (folder / "tokenizer.json").unlink()
    data = PromptSet("one", (Prompt("apple"),)).to_jsonl(tmp_path / "one.jsonl")
    status, message = score(folder, data, tmp_path / "runs")
    assert status == 2 and "BadModelFolder: " in message and "tokenizer.json" in message
