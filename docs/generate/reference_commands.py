"""The pages of the command line: every command with its help, and the errors that may end one."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from reference_parts import first_line, is_ours


@cache
def commands() -> tuple[tuple[tuple[str, ...], str], ...]:
    """Every command, as its words, with its help."""
    import typer
    from typer.testing import CliRunner

    from headscope.cli import app

    found: list[tuple[tuple[str, ...], str]] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        done = CliRunner().invoke(app, [*words[1:], "--help"], prog_name="headscope", env={"COLUMNS": "80"})
        found.append((words, done.stdout.strip("\n")))
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))

    walk(typer.main.get_command(app), ("headscope",))
    return tuple(found)


def command_line_page() -> str:
    """Every command with its help."""
    parts = ["# Command line", ""]
    for words, text in commands():
        level = "##" if len(words) < 3 else "###"
        parts += [f"{level} {' '.join(words)} {{#{'-'.join(words)}}}", "", "```text", text, "```", ""]
    return "\n".join(parts)


def user_errors() -> dict[str, type]:
    """Every error that is meant for a user."""
    from headscope import errors

    return {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and is_ours(kind)}


def errors_page() -> str:
    """Every error with its first line, and the kind that it belongs to."""
    parts = [
        "# Errors",
        "",
        "All are in `headscope.errors`. A `CallError` ends a command with exit status 2, a `RunError` with 1.",
        "[Troubleshooting](../how-to/troubleshooting.md) says what to do.",
        "",
    ]
    for name, kind in user_errors().items():
        (base,) = kind.__bases__
        line = first_line(inspect.getdoc(kind) or "")
        parts += [f"## {name} {{#{name}}}", "", line, "", f"A kind of `{base.__name__}`.", ""]
    return "\n".join(parts)
