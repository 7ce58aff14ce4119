"""Every mistake a user can make, as an exception that says what, where, the value seen and what to do next.

A `CallError` means the call was wrong (command line exit status 2); a `RunError` means that a right call
failed (exit status 1). Both are `HeadscopeError`s, so one `except` catches what is worth a message instead
of a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadscopeError(Exception):
    """Base of all errors meant for the user: print `Name: message`, no traceback."""


class CallError(HeadscopeError):
    """The call was wrong: change the arguments."""


class RunError(HeadscopeError):
    """The call was right, the run failed."""


class UnknownModel(CallError):
    """No shipped organism, folder or hub repository has this name."""


class UnknownHead(CallError):
    """A head that cannot be read, or that the model does not have."""


class UnknownMethod(CallError):
    """No method is registered under this name."""


class UnknownOption(CallError):
    """The method does not take this option."""


class UnknownMetric(CallError):
    """No metric has this name."""


class BadOption(CallError):
    """An option has a value that it cannot take."""


class BadPrompts(CallError):
    """A prompt or a prompt file that cannot be used as asked."""


class BadImage(CallError):
    """An image that cannot be read, is too large, or is none."""


class BadSpan(BadPrompts):
    """A span that lies outside its text or covers no token."""


class PromptTooLong(BadPrompts):
    """A prompt has more tokens than the model's context."""


class EmptyPromptSet(BadPrompts):
    """There is no prompt to run."""


class BadModelFolder(CallError):
    """A model folder that lacks a file, or whose files cannot be used."""


class HubUnavailable(CallError):
    """The model is not in the local cache and the hub did not deliver it."""


class MissingData(CallError):
    """The method needs data that was not given."""


class NotAdditive(CallError):
    """A model whose residual stream is not the plain sum of what its heads and MLPs write."""


class BadRun(CallError):
    """A folder that is not a run, or one that another version wrote."""


class BadJob(CallError):
    """A job file with mistakes; every one is named with its line."""


class HookNeverFired(RunError):
    """An intervention's hook did not run in any forward pass."""


class NoEffect(RunError):
    """An intervention ran but changed nothing that it should have changed."""


class NonFinite(RunError):
    """A weight or an activation is NaN or infinite."""


class CannotRead(RunError):
    """The system refused to look at a path: its name is too long, or a folder on the way may not be entered."""


class CannotWrite(RunError):
    """A file could not be written: disk full, no permission, no such folder."""


def nearest(name: str, choices: Iterable[str], *, few: int = 12) -> str:
    """Say which right names are nearest to a wrong one, as the tail of an error message.

    Args:
        name: What the user wrote.
        choices: All names that would have been right.
        few: If nothing is near and there are at most this many choices, all of them are listed.

    Returns:
        `" Nearest: a, b."`, `" Choose from: a, b, c."`, or `" There are none."`; always with its leading
        space.

    >>> nearest("inductoin", ["induction", "retrieval"])
    ' Nearest: induction.'
    >>> nearest("zzz", ["induction", "retrieval"])
    ' Choose from: induction, retrieval.'
    """
    known = list(dict.fromkeys(choices))
    if not known:
        return " There are none."
    lowered = {choice.lower(): choice for choice in known}
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    if close:
        return f" Nearest: {', '.join(close)}."
    shown = known if len(known) <= few else [*known[:few], f"and {len(known) - few} more"]
    return f" Choose from: {', '.join(shown)}."
