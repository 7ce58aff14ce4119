"""Values that the address asks for: what cannot be is said in one sentence, and the page goes on with its own.

Call these before the widget of the same key is drawn:

    asked.one_of("change", KINDS)
    st.selectbox("Kind", list(KINDS), key="change", bind="query-params")
"""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from headscope.app import widgets
from headscope.errors import nearest


def one_of(key: str, choices: Iterable[str]) -> None:
    """Let the address ask for one of the choices only."""
    known = [str(choice) for choice in choices]
    value = st.query_params.get(key)
    if value is not None and value not in known:
        _refuse(key, f"{key}={value!r} in the address is not a choice here.{nearest(value, known)}")
    if key in st.session_state and str(st.session_state[key]) not in known:
        del st.session_state[key]


def number(key: str, low: float, high: float, *, whole: bool = True) -> None:
    """Let the address ask for a number in a range only."""
    value = st.query_params.get(key)
    if value is None:
        return
    try:
        fits = low <= (int(value) if whole else float(value)) <= high
    except ValueError:
        fits = False
    if not fits:
        kind = "a whole number" if whole else "a number"
        _refuse(key, f"{key}={value!r} in the address is not {kind} from {low:g} to {high:g}.")


def _refuse(key: str, sentence: str) -> None:
    st.warning(widgets.md(f"{sentence} The page's own value is shown instead."), icon=":material/link_off:")
    del st.query_params[key]
    st.session_state.pop(key, None)
