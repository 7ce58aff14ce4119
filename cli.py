"""The command line: every command is a function of the same name in `commands/`, with the answer on standard output.

Progress and whatever libraries print go to standard error. Torch is imported when a command needs it, so that
``headscope --help`` answers at once.
"""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.app import workbench
from .commands.circuit import circuit
from .commands.concept import concept
from .commands.console import say
from .commands.demo import demo
from .commands.generate import generate
from .commands.jobs import jobs
from .commands.methods import methods
from .commands.mitigate import mitigate
from .commands.models import models
from .commands.pattern import pattern
from .commands.refusals import refusals
from .commands.run import run
from .commands.runs import runs
from .commands.sae import sae
from .commands.sahara import sahara
from .commands.score import score
from .commands.selective import selective
from .commands.steer import steer
from .commands.trace import trace
from .commands.verify import verify
from .errors import CallError, CannotRead, HeadscopeError
from .printable import printable

# ClickException: of click, or of the copy that newer Typers bring.
_USAGE = typer.BadParameter.__mro__[2]

# In the order of the help text.
_IN_ORDER = (
    demo,
    models,
    methods,
    score,
    verify,
    sahara,
    refusals,
    pattern,
    steer,
    trace,
    mitigate,
    selective,
    concept,
    generate,
)


class _Commands(TyperGroup):
    """Turns errors that are meant for the user into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadscopeError as error:
            say(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, CallError) else 1) from None
        except RuntimeError as error:
            if "home directory" not in str(error):  # what pathlib says of ~name where there is no such user
                raise
            say(f"{CannotRead.__name__}: {error} Write the path out instead of ~.", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # who read the output has gone: Typer ends quietly
                raise
            where = f"{str(error.filename)[:200]}: " if error.filename else ""
            say(f"{CannotRead.__name__}: {where}{error.strerror or error}. Check the path.", err=True)
            raise typer.Exit(1) from None
        except _USAGE as error:  # it repeats what was typed, which may be a file's name
            error.message = printable(error.message)  # type: ignore[attr-defined]
            raise
        except KeyboardInterrupt:
            # An interrupt that passed through code run from a string, as dataclasses are made, leaves CPython's mark of
            # an unhandled one, and the process would end by the signal. Running such code again takes the mark away.
            exec("")
            typer.echo(
                "Interrupted. What was being written is not there; nothing else has changed.", err=True
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    help="Attention heads: where they look, which matter, whether that is causal. Exit status: 0 done, 1 the run "
    "failed, 2 the call was wrong.",
    epilog="Example: headscope demo --out runs/demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app(prog_name="headscope")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headscope {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


for _command in _IN_ORDER:
    app.command()(_command)
app.add_typer(runs, name="runs")
app.command()(run)
app.add_typer(jobs)
app.add_typer(sae)
app.command("app")(workbench)
app.add_typer(circuit, name="circuit")
