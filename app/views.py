"""Two views drawn in the browser, so that hovering over a token needs no answer from Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

_HERE = Path(__file__).parent
# Okabe and Ito's colours, told apart by colour-blind readers; the yellow is left out on light pages.
_ON_LIGHT = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_ON_DARK = ["#E69F00", "#56B4E9", "#2BC79A", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF"]


@cache
def _component(name: str, html: str) -> Any:
    read = {kind: (_HERE / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")}
    return st.components.v2.component(f"headscope_{name}", html=html, **read)


def tokens(data: dict[str, Any], *, key: str, on_pick: Callable[[int | None], None]) -> None:
    """Draw a prompt as text, painted by what `analysis.look_figures.text_data` says.

    Args:
        data: Tokens and weights.
        key: Of the widget.
        on_pick: Called with the position of a clicked token, or None when the chosen one is clicked again.
    """
    html = '<div class="tokens"><div class="words"></div><div class="says"></div></div>'
    _mount("tokens", html, data, key, on_pick)


def lines(data: dict[str, Any], *, key: str, on_pick: Callable[[int | None], None], dark: bool) -> None:
    """Draw lines between tokens, as `analysis.look_figures.lines_data` says; `on_pick` as for `tokens`."""
    data = data | {"colours": _ON_DARK if dark else _ON_LIGHT}
    _mount("lines", '<div class="lines"></div>', data, key, on_pick)


def _mount(
    name: str, html: str, data: dict[str, Any], key: str, on_pick: Callable[[int | None], None]
) -> None:
    def picked() -> None:
        position = getattr(st.session_state.get(key), "picked", None)
        if position is not None:
            on_pick(None if position < 0 else int(position))

    _component(name, html)(data=data, key=key, on_picked_change=picked)
