"""The command line in this process: what a terminal would see, and whether it is a result or one clear error."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer.main

from fuzz.judge import Fault, Refused
from headscope import errors
from headscope.cli import app

_COMMAND: list[Any] = []
_ERRORS = {
    name: 2 if issubclass(error, errors.CallError) else 1
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, errors.HeadscopeError)
}
_SAID = re.compile(r"^([A-Z]\w+): ", re.MULTILINE)


def headscope(arguments: Sequence[str]) -> str:
    """Run `headscope …` and return what it printed.

    Raises:
        Refused: It ended with one clear error.
        Fault: It ended in any other way, or with an exit status that does not fit.
        BaseException: What would be a traceback.
    """
    if not _COMMAND:
        _COMMAND.append(typer.main.get_command(app))
    streams = sys.stdout, sys.stderr, sys.argv
    # As Python opens them for a terminal or a pipe in UTF-8.
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
    sys.stdout, sys.stderr, sys.argv = out, said, ["headscope", *arguments]
    status: Any = 0
    try:
        _COMMAND[0].main(args=list(arguments), prog_name="headscope")
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout, sys.stderr, sys.argv = streams
    shown, told = (stream.buffer.getvalue().decode() for stream in (out, said))
    return judged(status, shown, told)


def judged(status: Any, shown: str, told: str) -> str:
    """Say whether a call ended as promised; see `headscope`."""
    if "Traceback (most recent" in told + shown:
        raise Fault(f"a traceback is printed: {(told + shown)[-300:]}")
    named = [name for name in _SAID.findall(told) if name in _ERRORS or name == "Error"]
    if status in (0, None):
        if any(name in _ERRORS for name in named):
            raise Fault(f"exit status 0 beside {named}")
        return shown
    if status not in (1, 2):
        raise Fault(f"exit status {status!r}: {told[-200:]!r}")
    if named == ["Error"]:
        raise Refused("usage") if status == 2 else Fault(f"exit status {status} of a wrong call")
    if told.lstrip().startswith("Usage: ") and not named and status == 2:
        raise Refused("help")
    if not named and status == 1 and shown.strip():
        raise Refused("incomplete")
    if len(named) != 1:
        raise Fault(f"exit status {status} with {len(named)} errors: {told[-300:]!r}")
    if _ERRORS.get(named[0]) != status:
        raise Fault(f"exit status {status} of {named[0]}")
    raise Refused(named[0])
