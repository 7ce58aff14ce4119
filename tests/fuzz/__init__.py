"""Mutated input for whatever reads input: six targets, and a judge that says what must not happen."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TARGETS = {
    "jobs": ("job_files", "JobFiles"),
    "prompts": ("prompts", "Prompts"),
    "heads": ("heads", "Heads"),
    "arguments": ("arguments", "Arguments"),
    "runs": ("run_folders", "RunFolders"),
    "weights": ("weights", "Weights"),
}


@contextmanager
def target(name: str) -> Iterator[Any]:
    """Make the target of this name in a room of its own, and put everything back afterwards."""
    from fuzz.judge import Room

    module, kind = TARGETS[name]
    room = Room()
    try:
        made = getattr(importlib.import_module(f"fuzz.{module}"), kind)(room)
        try:
            yield made
        finally:
            made.close()
    finally:
        room.remove()
