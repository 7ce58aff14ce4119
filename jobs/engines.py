"""Where units are computed: each engine is a module with a function `engine`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from ..errors import BadOption, nearest

ENGINES = {"local": "local", "ray": "ray_engine"}


def get_engine(name: str) -> Callable[..., None]:
    """Return `engine(work, *, workers, device, devices, trust_remote_code)`, which computes the units of a `Work`.

    Raises:
        BadOption: There is no such engine, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise BadOption(f"--engine {name}: no such engine.{nearest(name, ENGINES)}")
    try:
        module = importlib.import_module(f".{ENGINES[name]}", __package__)
    except ModuleNotFoundError as error:
        raise BadOption(
            f"--engine {name}: {error.name} is not installed. pip install 'headscope[distributed]'"
        ) from error
    found: Callable[..., Any] = module.engine
    return found
