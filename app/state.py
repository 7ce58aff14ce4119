"""What the reader is looking at. It stands in the URL, so that the address shows the same view elsewhere.

Five parameters: `model`, `prompt`, `layer` and `head` (chosen in the sidebar, on every page) and `method` (a select
box that a page shows with `method_selector()`). Pages read them and never draw these widgets themselves:

    from headscope.app import state

    choice = state.model()      # models.Choice, already loaded once without an error
    info = state.info()         # its ModelInfo
    prompt = state.prompt()     # a Prompt: with answer, foil, corrupted and spans where it is one of the examples
    head = state.head()         # Head(layer, index); the model has it

Change them from a widget's callback only (`on_click`, `on_select`, `on_change`), never in the middle of a page:

    st.button("L2H1", on_click=state.select_head, args=(Head(2, 1),))
    state.set_prompt(text), state.set_model(name)

A page's own widgets go into the URL the same way: `key="threshold", bind="query-params"`. Give other keys a prefix
with the page's name (`key="runs_filter"`) so that pages do not share them by accident.
The folder of runs that `headscope app RUNS` was started with is `state.runs_folder()`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from headscope.analysis.stated import start_head
from headscope.app import models
from headscope.datasets.prompts import Prompt
from headscope.errors import HeadscopeError, HubUnavailable, nearest
from headscope.hooks.find import available, find_model
from headscope.hooks.heads import Head
from headscope.hooks.info import ModelInfo

PREFERRED = ("organism/text", "organism/planted")
LONGEST_IN_URL = 4000  # characters of prompt; browsers and proxies refuse much longer addresses

_NOTICES, _SHOWN, _PAGES, _TYPED = "_notices", "_model_shown", "_pages", "_models_typed"


def default_model() -> str:
    """The shipped model that a first visitor sees."""
    shipped = [card.name for card in available()]
    return next((name for name in PREFERRED if name in shipped), shipped[0])


def model() -> models.Choice:
    """The chosen model."""
    return models.Choice(st.session_state["model"])


def info() -> ModelInfo:
    """Sizes and digest of the chosen model."""
    return models.info(model())


def head() -> Head:
    """The one selected head."""
    return Head(int(st.session_state["layer"]), int(st.session_state["head"]))


def start() -> Head:
    """The head that an address without `layer` and `head` means; always the same one for a model."""
    return start_head(model().name, info())


def prompt() -> Prompt:
    """The prompt; one of the examples with all its fields where the text is the example's."""
    text = st.session_state["prompt"]
    known = models.examples(model()).values()
    return next((one for one in known if one.text == text), Prompt(text))


def select_head(head: Head | Sequence[int]) -> None:
    """Select a head; for callbacks."""
    st.session_state["layer"], st.session_state["head"] = int(head[0]), int(head[1])


def step_head(by: int) -> None:
    """Go `by` heads on, through the layers, from the last head to the first; for callbacks."""
    n_layers, n_heads = info().n_layers, info().n_heads
    layer, index = head()
    select_head(divmod((layer * n_heads + index + by) % (n_layers * n_heads), n_heads))


def set_pages(pages: Mapping[str, Any]) -> None:
    """Remember the pages by their modules' names, so that one page can lead to another."""
    st.session_state[_PAGES] = dict(pages)


def pages() -> Mapping[str, Any]:
    """The pages by their modules' names; empty where one page runs alone."""
    return st.session_state.get(_PAGES, {})


def set_prompt(text: str) -> None:
    """Show another prompt; for callbacks."""
    st.session_state["prompt"] = text


def set_model(name: str) -> None:
    """Show another model; for callbacks. An example prompt gives way to the new model's first one."""
    if name:
        st.session_state.setdefault(_TYPED, set()).add(name)
        st.session_state["model"] = name


def runs_folder() -> Path:
    """The folder of runs that the app was started with."""
    return Path(os.environ.get("HEADSCOPE_APP_RUNS", "runs")).resolve()


def method_selector(choices: Sequence[str], *, label: str = "Score", default: str | None = None) -> str:
    """Draw the select box of the `method` parameter and return its value."""
    first = default if default in choices else choices[0]
    asked = st.query_params.get("method")
    if asked is not None and asked not in choices:
        notice(f"The address asks for the method {asked!r}, which is not here.{nearest(asked, choices)}")
    if st.session_state.get("method") not in choices:
        st.session_state.pop("method", None)
    return st.selectbox(
        label, list(choices), index=list(choices).index(first), key="method", bind="query-params"
    )


def notice(sentence: str) -> None:
    """Say something at the top of the page once: what in the address was wrong, and what is shown instead."""
    st.session_state.setdefault(_NOTICES, []).append(sentence)


def notices() -> list[str]:
    """Take the sentences that are to be shown in this run."""
    return st.session_state.pop(_NOTICES, [])


def settle() -> None:
    """Make the parameters whole before any widget is drawn: known model, heads that it has, a prompt.

    What the address asks for and cannot have is replaced by what is nearest, with one sentence.
    """
    asked = st.session_state.get("model") or st.query_params.get("model") or default_model()
    st.session_state["model"] = _loadable(asked)
    sizes, before = info(), st.session_state.get(_SHOWN)
    if before not in (None, model()) and head() == start_head(before.name, models.info(before)):
        select_head(start())
    for key, count, first in zip(("layer", "head"), (sizes.n_layers, sizes.n_heads), start(), strict=True):
        st.session_state[key] = _in_range(key, count, first, sizes.name)
    if "prompt" not in st.session_state:
        st.session_state["prompt"] = st.query_params.get("prompt") or first_prompt()
    elif before not in (None, model()) and prompt_is_example(before):
        st.session_state["prompt"] = first_prompt()
    st.session_state[_SHOWN] = model()


def prompt_is_example(choice: models.Choice) -> bool:
    """Whether the prompt on show is one of a model's examples, not something that was typed."""
    return st.session_state["prompt"] in [one.text for one in models.examples(choice).values()]


def first_prompt() -> str:
    """The text that is shown before anything was typed."""
    return next((one.text for one in models.examples(model()).values()), "Once upon a time")


def _loadable(name: str) -> str:
    """Return the name if it can be loaded; otherwise the default, and say why."""
    if name not in st.session_state.get(_TYPED, ()) and _would_be_fetched(name):
        notice(
            f"The address asks for {name}, which is not on this machine. An address fetches nothing: type the name "
            f"under Another model to fetch it from the hub. Shown instead: {default_model()}."
        )
        return default_model()
    try:
        models.info(models.Choice(name))
    except HeadscopeError as error:
        notice(f"{error} Shown instead: {default_model()}.")
        return default_model()
    return name


def _would_be_fetched(name: str) -> bool:
    """Whether loading the model would ask the hub for its files."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    from headscope.hooks.load import no_network

    try:
        with no_network():
            find_model(name)
    except HubUnavailable:
        return True
    except HeadscopeError:  # whoever loads it says what is wrong
        return False
    return False


def _in_range(key: str, count: int, first: int, name: str) -> int:
    """Read a layer or head number from the session or the address and keep it inside the model."""
    value = st.session_state.get(key, st.query_params.get(key, first))
    try:
        number = int(value)
    except ValueError:
        notice(f"{key}={value} in the address is not a number; shown instead: {key} {first}.")
        return first
    nearest_one = min(max(number, 0), count - 1)
    if nearest_one != number:
        notice(f"{name} has {key}s 0-{count - 1}, not {number}; shown instead: {key} {nearest_one}.")
    return nearest_one
