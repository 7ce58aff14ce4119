"""The model in memory: one at a time, and in use by one browser tab at a time.

    from headscope.app import models, state

    with models.using(state.model()) as model:      # loads it if need be; other tabs wait
        ...                                         # hooks, analysis
        models.let_others(state.model())            # between the steps of long work: those who wait have a turn

    info = models.info(state.model())               # sizes, no lock needed afterwards

Results belong in `st.cache_data` functions of a `Choice`, a text and other plain values that return numpy arrays,
tables or dataclasses of them, with `using` inside the function: then a rerun costs nothing and needs no lock.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import streamlit as st

from headscope.analysis.examples import example_prompts
from headscope.app.escaped import md
from headscope.app.turns import Turns
from headscope.datasets.prompts import Prompt
from headscope.hooks.info import ModelInfo, describe

KEPT = max(1, int(os.environ.get("HEADSCOPE_APP_MODELS", "1")))  # `headscope app --models`

_turns = Turns()
_loaded: list[Choice] = []


class Choice(NamedTuple):
    """What tells one loaded model from another."""

    name: str
    dtype: str = "float32"
    device: str = ""  # a GPU if there is one


def _release(model: Any) -> None:
    """Give a model's memory back at once, not at the next round of the garbage collector."""
    del model
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@st.cache_resource(max_entries=KEPT, on_release=_release, show_spinner=False)
def _load(name: str, dtype: str, device: str) -> Any:
    from headscope.hooks.load import load

    return load(name, device=device or None, dtype=dtype)


@contextmanager
def using(choice: Choice) -> Iterator[Any]:
    """Hand out the loaded model to one tab at a time, so that no tab's hooks act in another tab's forward pass.

    Raises:
        HeadscopeError: the model cannot be loaded; the message says why.
    """
    _turns.take(choice)
    try:
        if choice in _loaded:
            _loaded.remove(choice)
        elif len(_loaded) >= KEPT:
            _load.clear(*_loaded.pop(0))  # before the next one is read, so that both are never in memory
        if not st.runtime.exists():
            model = _load(*choice)
        else:
            with st.spinner(f"Loading {md(choice.name)} …", show_time=True):
                model = _load(*choice)
        _loaded.append(choice)
        yield model
    finally:
        _turns.give()


def let_others(choice: Choice) -> None:
    """Let tabs that wait for this model have their turn, between the steps of long work; not while hooks are on it."""
    points = _load(*choice).hook_dict.values()
    if not any(point.fwd_hooks or point.bwd_hooks for point in points):  # they would act in another tab's run
        _turns.let_others(choice)


@st.cache_data(max_entries=16, show_spinner=False)
def info(choice: Choice) -> ModelInfo:
    """Describe the model; loads it at the first call."""
    with using(choice) as model:
        return describe(model)


@st.cache_data(max_entries=16, show_spinner=False)
def examples(choice: Choice) -> dict[str, Prompt]:
    """Example prompts for the model, by kind; the first one is shown to a first visitor."""
    with using(choice) as model:
        return example_prompts(model)
