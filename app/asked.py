"""Values that the address asks for: what cannot be is said in one sentence, and the page goes on with its own.

Call these before the widget of the same key is drawn:

    asked.one_of("change", KINDS)
    st.selectbox("Kind", list(KINDS), key="change", bind="query-params")
"""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st
from streamlit.errors import StreamlitAPIException

from headscope.app import widgets
from headscope.errors import nearest


def one_of(key: str, choices: Iterable[str]) -> None:
    """Let the address ask for one of the choices only."""
    known = [str(choice) for choice in choices]
    value = st.query_params.get(key)
    if value is not None and value not in known:
        sentence = f"{key}={value!r} in the address is not a choice here.{nearest(value, known)}"
        _refuse(key, sentence, known[0] if known else None)
    if key in st.session_state and str(st.session_state[key]) not in known:
        del st.session_state[key]


def number(key: str, low: float, high: float, *, whole: bool = True) -> None:
    """Let the address, and what the page held before, ask for a number in a range only."""
    kind = int if whole else float
    value = st.query_params.get(key)
    if value is not None:
        try:
            given = kind(value)
        except ValueError:
            given = None
        if given is None or not low <= given <= high:
            words = "a whole number" if whole else "a number"
            sentence = f"{key}={value!r} in the address is not {words} from {low:g} to {high:g}."
            _refuse(key, sentence, kind(high if given is not None and given > high else low))
    held = st.session_state.get(key)
    if isinstance(held, int | float) and not low <= held <= high:
        st.session_state[key] = kind(high if held > high else low)


def _refuse(key: str, sentence: str, instead: object) -> None:
    try:
        del st.query_params[key]
    except StreamlitAPIException:
        # Nobody asked: the address repeats what the page's own widget held before the model or the prompt changed.
        st.session_state[key] = instead
        return
    st.session_state.pop(key, None)
    st.warning(widgets.md(f"{sentence} The page's own value is shown instead."), icon=":material/link_off:")
