"""README and docs/ as material for tests: their blocks of code, run in order, and their headings and links.

The blocks of a page are run from top to bottom in an empty folder. Python blocks share one namespace; lines of `sh`
blocks go to the command line; `json` and `yaml` blocks are written to a file and checked. What stands on the fence or
in an HTML comment just above it says what else is meant:

- ```` ```yaml title="job.yaml" ````: the name of the file. A `python` block with a title is written, not run.
- `<!-- fails: UnknownHead -->`: the block ends in this error. Only its last line may.
- `<!-- prints -->` above a `text` block: what the block before it has printed; `...` stands for anything.
- `<!-- not run: why -->`: not run here. Its commands and options must exist all the same, its Python must parse.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from glob import glob
from itertools import takewhile
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "json", "yaml", "text"}

# Command lines that no test can run, wherever they stand, with the reason.
UNRUNNABLE = {
    r"^headscope app\b": "a server that does not end",
    r"\bowner/name\b": "a model of a hub that no test asks",
}

_FENCE = re.compile(r"^( *)```([\w-]*)([^\n`]*)\n(.*?)^\1```[ ]*$", flags=re.M | re.S)
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", flags=re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    title: str = ""
    fails: str = ""
    prints: bool = False
    not_run: str = ""

    @property
    def where(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, with what the comments above them say."""
    text, found = page.read_text(encoding="utf-8"), []
    for fence in _FENCE.finditer(text):
        indent, language, info, code = fence.groups()
        said = _said_above(text[: fence.start()])
        title = re.search(r'title="([^"]+)"', info)
        found.append(
            Block(
                page,
                text.count("\n", 0, fence.start()) + 1,
                language,
                "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)),
                title[1] if title else "",
                said.get("fails", ""),
                "prints" in said,
                said.get("not run", ""),
            )
        )
    return found


def _said_above(before: str) -> dict[str, str]:
    said: dict[str, str] = {}
    while before.rstrip().endswith("-->"):
        start = before.rindex("<!--")
        comment = _COMMENT.fullmatch(before[start:].strip())
        if comment is None:
            break
        key, _, value = comment[1].partition(":")
        said[key.strip()] = " ".join(value.split())
        before = before[:start]
    return said


def command_lines(block: Block) -> list[str]:
    """The lines of an `sh` block, those continued with a backslash put together, without comments."""
    joined = re.sub(r"\\\n\s*", " ", block.code)
    lines = (re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def why_not(line: str) -> str:
    """Why a command line cannot be run in a test, or nothing."""
    return next((reason for pattern, reason in UNRUNNABLE.items() if re.search(pattern, line)), "")


def check_exists(line: str) -> None:
    """Check that the commands and options of `headscope` in a command line exist, without running it."""
    words = shlex.split(line)
    for inner in [
        word for word in words if "headscope " in word
    ]:  # handed to another program, as in --wrap '...'
        check_exists(inner)
    if "headscope" not in words:
        return
    call = words[words.index("headscope") + 1 :]
    asked = list(takewhile(lambda word: not word.startswith("-"), call[:2]))
    done = _invoke([*asked, "--help"])
    assert done.exit_code == 0, f"{line}: {done.stderr}"
    assert done.stdout.startswith(" ".join(["Usage: headscope", *asked[:1]])), f"{line}: no such command"
    for option in [word.split("=")[0] for word in call if re.match(r"--?[A-Za-z]", word)]:
        assert re.search(rf"^ +(\S+, )?{option}\b", done.stdout, flags=re.M), f"{line}: no option {option}"


def _invoke(arguments: list[str], env: dict[str, str] | None = None) -> Any:
    import headscope.cli

    return CliRunner().invoke(headscope.cli.app, arguments, prog_name="headscope", env=env)


class Page:
    """The blocks of one page, run in order in the current folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.printed: dict[int, str] = {}  # by the block's place on the page
        self.ran = 0
        self.skipped: list[tuple[str, str]] = []
        self._last = ""

    def run(self) -> Page:
        shutil.copytree(
            ROOT / "organisms" / "planted", "path/to/folder"
        )  # what the pages call a model of one's own
        with _import_from_here():
            for index, block in enumerate(blocks(self.path)):
                assert block.language in LANGUAGES, f"{block.where}: language {block.language!r}"
                if block.not_run:
                    self._only_look(block)
                elif block.language == "text":
                    if block.prints:
                        self._compare(block)
                else:
                    getattr(self, f"_{block.language}")(block)
                    self.printed[index] = self._last
                    self.ran += 1
        return self

    def _only_look(self, block: Block) -> None:
        self.skipped.append((block.where, block.not_run))
        if block.language == "python":
            ast.parse(block.code)
        elif block.language == "sh":
            for line in command_lines(block):
                check_exists(line)

    def _compare(self, block: Block) -> None:
        same = OutputChecker().check_output(block.code, self._last, ELLIPSIS | NORMALIZE_WHITESPACE)
        assert same, f"{block.where}: the page says\n{block.code}\nbut this was printed:\n{self._last}"

    def _python(self, block: Block) -> None:
        if block.title:
            self._write(block, block.title)
            return
        out = io.StringIO()
        code = compile("\n" * block.line + block.code, str(self.path), "exec", dont_inherit=True)
        error: BaseException | None = None
        with contextlib.redirect_stdout(out):
            try:
                exec(code, self.namespace)
            except Exception as raised:
                if not block.fails:
                    raise
                error = raised
        self._last = out.getvalue() + (f"{type(error).__name__}: {error}\n" if error else "")
        if block.fails:
            assert type(error).__name__ == block.fails, f"{block.where}: ended in {error!r}"

    def _sh(self, block: Block) -> None:
        lines = command_lines(block)
        self._last = ""
        for line in lines:
            failing = block.fails if line == lines[-1] else ""
            reason = why_not(line)
            if reason:
                self.skipped.append((f"{block.where}: {line}", reason))
                check_exists(line)
            else:
                self._call(line, block, failing)

    def _call(self, line: str, block: Block, fails: str) -> None:
        words = shlex.split(line)
        env = {}
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, value = words.pop(0).split("=", 1)
            env[name] = value
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
            assert set(words[1:]) <= set(targets), f"{block.where}: {line}"
            return
        if words[:2] == ["pip", "install"]:
            self._installs(words[2:], block)
            return
        assert words[0] == "headscope", f"{block.where}: {line}: run it, or say why it is not run"
        arguments = [found for word in words[1:] for found in sorted(glob(word)) or [word]]
        done = _invoke(arguments, env)
        self._last += done.stdout
        if fails:
            assert done.exit_code in (1, 2), f"{block.where}: {line}: ended well"
            assert f"{fails}: " in done.stderr or fails in done.stderr.split("\n", 1)[0], done.stderr
            self._last = done.stderr
        else:
            assert done.exit_code == 0, f"{block.where}: {line}\n{done.stderr}\n{done.exception!r}"

    def _installs(self, words: list[str], block: Block) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for word in words:
            own = re.fullmatch(r"(?:headscope|\.)(?:\[([\w,]+)\])?", word)
            if own and own[1]:
                assert set(own[1].split(",")) <= set(project["optional-dependencies"]), (
                    f"{block.where}: {word}"
                )
            elif not own and not word.startswith("-"):
                assert (ROOT / word).exists(), f"{block.where}: {word}"

    def _json(self, block: Block) -> None:
        import json

        lines = [block.code] if _is_json(block.code) else block.code.splitlines()
        values = [json.loads(line) for line in lines if line.strip()]
        self._write(block, block.title or "prompts.jsonl")
        if all(isinstance(value, dict) and "text" in value for value in values):
            from headscope.datasets.prompts import Prompt

            for value in values:
                Prompt(**value)

    def _yaml(self, block: Block) -> None:
        import yaml

        from headscope.jobs import read_job

        content = yaml.safe_load(block.code)
        if "steps" in content:
            path = self._write(block, block.title or "job.yaml")
            if not block.fails:  # else the next block shows how
                read_job(path)
            return
        whole = {
            "name": "a part",
            "model": "organism/planted",
            "data": {"name": "repeated", "n": 2},
            "steps": [{"kind": "score", "method": "induction"}],
        }
        part = self._write(block, block.title or "part.yaml")
        part.with_suffix(".whole.yaml").write_text(yaml.safe_dump({**whole, **content}))
        read_job(part.with_suffix(".whole.yaml"))

    def _write(self, block: Block, name: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
        return path


def _is_json(code: str) -> bool:
    import json

    try:
        json.loads(code)
    except json.JSONDecodeError:
        return False
    return True


@contextlib.contextmanager
def _import_from_here() -> Iterator[None]:
    """Let a block import a file that another block wrote, and forget it afterwards."""
    before, here = set(sys.modules), os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(here):
                del sys.modules[name]
