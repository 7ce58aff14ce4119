"""What the command line prints: nothing in it is obeyed by a terminal, whatever tokens, names and files hold."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hostile_input import HIDDEN, NAME, TOKENS

from headscope.cli import app
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.jobs.progress import display, table
from headscope.jobs.status import Watch
from headscope.jobs.store import JobStore
from headscope.printable import printable, printable_json

MODEL = ("-m", "organism/planted")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, so that nothing is taken out on the way to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def headscope(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command in a terminal: its exit status, and what it wrote to both streams."""

    def run(*arguments: object) -> tuple[int, str, str]:
        out, err = Terminal(), Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", err)
            try:
                app([str(one) for one in arguments], prog_name="headscope")
            except SystemExit as end:
                return int(end.code or 0), out.getvalue(), err.getvalue()
        raise AssertionError("the command did not end by its status")

    return run


def harmless(*texts: str) -> None:
    """Hold that no letter is there that a terminal obeys or does not show; progress may go back to the line's start."""
    for text in texts:
        found = {letter for letter in HIDDEN if letter in text}
        assert not found, f"{found} in {text[:2000]!r}"
        assert "Traceback" not in text


@pytest.mark.parametrize("token", TOKENS)
def test_what_a_terminal_would_obey_is_written_out_and_nothing_else_changes(token):
    shown = printable(token)
    harmless(shown)
    assert printable(shown) == shown
    if not HIDDEN & set(token):
        assert shown == token
    assert json.loads(printable_json(json.dumps(token, ensure_ascii=False))) == token


@pytest.mark.parametrize(
    "text", ["a\tb\nc", "naïve 東京 مرحبا שלום", "👩\u200d👧", "می\u200cخواهم", "e\u0301"]
)
def test_what_people_write_stays_as_it_is(text):
    assert printable(text) == text == printable_json(text)


def test_tokens_and_names_of_a_model_and_its_prompts(headscope, hostile_model, hostile_prompts, tmp_path):
    code, out, err = headscope(
        "score", "previous-token", "-m", hostile_model, "--data", hostile_prompts, "--out", tmp_path
    )
    assert code == 0, err
    harmless(out, err)
    (run,) = tmp_path.iterdir()
    assert set(run.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
    for command in (
        ["runs", "list", "--runs", tmp_path],
        ["runs", "show", run],
        ["runs", "show", run, "--json"],
    ):
        code, out, err = headscope(*command)
        assert code == 0, err
        harmless(out, err)
        assert "\\u001b[31m" in out if "--json" in command else "\\x1b[31m" in out


@pytest.mark.parametrize("as_json", [False, True])
def test_looks_and_generated_text(headscope, hostile_model, hostile_text, as_json):
    more = ["--json"] if as_json else []
    code, out, err = headscope(
        "pattern", "-m", hostile_model, "--prompt", hostile_text, "--head", "L1H0", *more
    )
    assert code == 0, err
    harmless(out, err)
    written = ["--prompt", hostile_text, "--ablate", "L1H0", "--max-new-tokens", "4"]
    code, out, err = headscope("generate", "-m", hostile_model, *written, *more)
    assert code == 0, err
    harmless(out, err)
    if as_json:
        assert json.loads(out)


@pytest.mark.parametrize(
    "call",
    [
        ["score", NAME, *MODEL],
        ["score", "previous-token", "-m", NAME],
        ["score", "previous-token", "-m", f"./{NAME}"],
        ["score", "previous-token", *MODEL, "--data", f"{NAME}.jsonl"],
        ["score", "previous-token", *MODEL, "--option", NAME],
        ["pattern", *MODEL, "--prompt", "Mary", "--head", NAME],
        ["generate", *MODEL, "--prompt", "Mary", "--ablate", NAME],
        ["generate", *MODEL, "--prompt", "Mary", "--image", NAME],
        ["runs", "show", NAME],
        ["runs", "list", "--runs", NAME],
        ["runs", "export", NAME, "--to", NAME],
        ["run", f"{NAME}.yaml"],
        ["run", "--set", NAME, NAME],
        ["verify", NAME],
        ["circuit", "find", NAME],
        [NAME],
        ["score", f"--{NAME}"],
        ["score", "previous-token", *MODEL, "-n", NAME],
    ],
    ids=lambda call: " ".join(call[:2]).replace(NAME, "NAME"),
)
def test_a_wrong_call_repeats_what_was_typed_without_obeying_it(headscope, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    code, out, err = headscope(*call)
    assert code == 2
    assert err
    harmless(out, err)


def test_mistakes_in_files_are_told_without_obeying_them(headscope, tmp_path):
    prompts = tmp_path / f"{NAME}.jsonl"
    prompts.write_text(
        json.dumps({"text": "x", NAME: 1}) + "\n" + json.dumps({"text": "x", "spans": {NAME: 3}})
    )
    job = tmp_path / f"{NAME}.yaml"
    wrong = {"name": "x", NAME: 1, "steps": [{"kind": NAME}, {"kind": "score", "method": NAME}]}
    job.write_text(yaml.safe_dump(wrong, allow_unicode=True), encoding="utf-8")
    for call in (["score", "previous-token", *MODEL, "--data", prompts], ["run", job, "--dry-run"]):
        code, out, err = headscope(*call)
        assert code == 2
        assert "img src" in err
        harmless(out, err)


def test_a_model_folder_says_its_faults_without_being_obeyed(headscope, hostile_model, tmp_path):
    folder = tmp_path / NAME
    shutil.copytree(hostile_model, folder)
    config = json.loads((folder / "config.json").read_text())
    for change in ({"model_type": NAME}, {"architectures": [NAME]}, {"hidden_act": NAME}, {"n_heads": NAME}):
        (folder / "config.json").write_text(json.dumps(config | change))
        _, out, err = headscope("pattern", "-m", folder, "--prompt", "Mary", "--head", "L0H0")
        harmless(out, err)


def test_progress_shows_names_and_errors_of_a_job_as_they_are(tmp_path):
    """rich would read [red] as a colour and [link=...] as a link, and lets escape sequences through."""
    store = JobStore(tmp_path / NAME)
    (store.folder / "events").mkdir(parents=True)
    (store.folder / "manifest.json").write_text(json.dumps({"format": "headscope-job/1", "state": NAME}))
    drawn = table(store.folder.name, Watch(store.folder).look(), [f"failed: {' '.join(TOKENS)}"])
    from rich.console import Console

    to = Terminal()
    Console(file=to, width=400, force_terminal=True, color_system=None).print(drawn)
    harmless(to.getvalue().replace("\x1b[0m", ""))
    for kept in (
        "[red]loud[/red]",
        "[link=https://example.org]here[/link]",
        "<img src=x",
        ":material/skull:",
    ):
        assert kept in to.getvalue()
    log = io.StringIO()
    with display(store, to=log):
        pass
    harmless(log.getvalue())


def test_a_file_keeps_what_was_in_the_text(headscope, tmp_path, hostile_text):
    """Only what is shown is written out: data stays data."""
    path = PromptSet("x", (Prompt(hostile_text),)).to_jsonl(tmp_path / "x.jsonl")
    assert PromptSet.from_jsonl(path)[0].text == hostile_text
    assert Path(path).read_text(encoding="utf-8").count("\x1b") == 0  # JSON escapes it
