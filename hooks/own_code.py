"""A model's own code: Python files beside its weights. It runs only where the caller trusts it, and says so.

transformers asks `trust_remote_code` before it imports such a file. TransformerLens does not always: some of its
adapters (4.3.0: Baichuan, InternLM2, OpenELM, Ouro, Dream, RWKV7 and five more) import the modelling file themselves,
so that a folder that only claims such an architecture has its code run. The two functions that every such import goes
through are therefore guarded here while a model is loaded.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..errors import BadModelFolder

_refused: ContextVar[list[str] | None] = ContextVar("headscope_refused_code", default=None)


class OwnCode(Exception):
    """A file of code was asked for that must not run."""


@contextmanager
def own_code(trusted: bool, folder: Path, shown: str) -> Iterator[None]:
    """Refuse code of a model's folder while it is loaded, whoever asks for it; or warn that it runs.

    Args:
        trusted: Whether the caller trusts the folder's code.
        folder: The model's folder.
        shown: The model's name, for messages.

    Raises:
        BadModelFolder: Code was asked for and not trusted. Nothing of it has run, whatever came of the load.
    """
    if trusted:
        files = sorted(path.name for path in folder.glob("*.py"))
        if files:
            warnings.warn(
                f"{shown}: code from {folder} runs with all your rights: {', '.join(files[:5])}"
                f"{f' and {len(files) - 5} more' if len(files) > 5 else ''}.",
                stacklevel=2,
            )
        yield
        return
    _guard()
    asked: list[str] = []
    token = _refused.set(asked)
    try:
        yield
    except Exception as error:
        said = f"{error} {error.__cause__}"  # an error of ours cuts long texts of its cause short
        if asked or "trust_remote_code" in said:
            raise _refusal(shown, folder, asked) from error
        raise
    finally:
        _refused.reset(token)
    if asked:  # the adapter that asked has passed over the refusal
        raise _refusal(shown, folder, asked)


def _refusal(shown: str, folder: Path, asked: list[str]) -> BadModelFolder:
    which = f" ({', '.join(dict.fromkeys(asked))})" if asked else ""
    return BadModelFolder(
        f"{shown}: {folder} brings its own model code{which}, and Headscope runs no code from a model folder. Use a "
        "model whose architecture is part of transformers; or, if you have read that code and trust it, load with "
        "trust_remote_code=True (--trust-remote-code)."
    )


def _guard() -> None:
    """Put the guard in front of the functions that fetch and import such files; outside `own_code` it does nothing."""
    from transformers import dynamic_module_utils as dynamic
    from transformers.generation import utils as generation

    for module in (dynamic, generation):
        for name in ("get_cached_module_file", "get_class_in_module"):
            original = getattr(module, name, None)
            if original is not None and not hasattr(original, "guarded_by_headscope"):
                setattr(module, name, _guarded(original))


def _guarded(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        asked = _refused.get()
        if asked is None:
            return original(*args, **kwargs)
        where, file = (
            str(args[0]) if args else "",
            str(args[1] if len(args) > 1 else kwargs.get("module_file", "")),
        )
        # A file that is not there is not refused: some adapters look for one and go on without it.
        if not Path(where).is_dir() or (Path(where) / file).is_file():
            asked.append(file or where)
        raise OwnCode(f"{where}: {file} is code, and must not run.")

    call.guarded_by_headscope = True  # type: ignore[attr-defined]
    return call
