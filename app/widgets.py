"""What several pages draw. Everything here escapes foreign text: prompts, tokens, file names, error messages.

    from headscope.app import widgets

    with widgets.guard():                       # a HeadscopeError inside becomes one sentence; the page goes on
        ...
    widgets.figure(fig, key="heads_grid", on_select=callback)       # plotly, in its own colours
    head = widgets.clicked_head("heads_grid")   # inside the callback: the head of the click, or None
    widgets.copy_as(command="headscope score ...", python="import headscope ...")
    widgets.about("induction", formula="...", higher="...", reference="...", control="...")
    widgets.html(markup)                        # markup made by analysis.figures, whose texts are escaped
    st.markdown(f"... {widgets.md(text)} ...")  # foreign text inside Markdown: labels and messages are Markdown too
    widgets.dark()                              # True on a dark page: pass it to every figure

The sidebar (model, prompt, head) is drawn by `framed()` in `main.py`, once for all pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from headscope.analysis.figures import selection_frame
from headscope.app import models, state, theme
from headscope.app.escaped import md
from headscope.errors import HeadscopeError
from headscope.hooks.find import available
from headscope.hooks.heads import Head


@contextmanager
def guard() -> Iterator[None]:
    """Turn an error that is meant for the user into one sentence, and go on below it."""
    try:
        yield
    except HeadscopeError as error:
        st.error(md(error), icon=":material/error:")


def dark() -> bool:
    """Whether the page is dark."""
    return st.context.theme.type == "dark"


def figure(
    fig: go.Figure, *, key: str, on_select: Callable[[], None] | None = None, modebar: bool = False
) -> None:
    """Draw a plotly figure in its own colours; a click calls `on_select`, which asks `clicked_head(key)`."""
    config = {"displayModeBar": modebar, "displaylogo": False, "scrollZoom": False}
    select = {"on_select": on_select, "selection_mode": "points"} if on_select else {}
    st.plotly_chart(fig, key=key, width="stretch", theme=None, config=config, **select)


def clicked_head(key: str) -> Head | None:
    """The head of the point that was clicked in the figure `key`; for its callback.

    Plotly reports a second click on the same point as nothing selected. Where the selection has moved on meanwhile
    (arrow keys, another page) such a click means the point, so it is remembered.
    """
    last = f"{key}_last"
    found = head_of(st.session_state.get(key)) or st.session_state.get(last)
    st.session_state[last] = found
    return found


def select_in_grid(grid: go.Figure, head: Head, *, dark: bool) -> None:
    """Frame the selected head in a grid that was drawn (and kept) without one."""
    grid.add_shape(selection_frame(head, dark=dark))


def head_of(event: Any) -> Head | None:
    """Read a head from what a plotly chart reports: the first two of a point's `customdata`."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    for point in points:
        data = point.get("customdata")
        if isinstance(data, dict):  # a row of a numpy array comes back by place: {"0": layer, "1": head}
            data = [data[place] for place in sorted(data, key=int)]
        if data is not None and len(data) >= 2:
            return Head(int(data[0]), int(data[1]))
    return None


def html(markup: str) -> None:
    """Draw HTML whose foreign text was escaped where it was made."""
    st.html(markup)


def copy_as(*, command: str = "", python: str = "") -> None:
    """Offer the command line and the Python that make what is on the page."""
    offered = [
        (label, code, language)
        for label, code, language in (
            ("Copy as command", command, "bash"),
            ("Copy as Python", python, "python"),
        )
        if code
    ]
    columns = st.columns([1] * len(offered) + [4 - len(offered)], gap="small")
    for column, (label, code, language) in zip(columns, offered, strict=False):
        with column.popover(label, width="stretch"):
            st.code(code, language=language, wrap_lines=True)


def link(page: str, label: str, *, icon: str) -> None:
    """Lead to another page; model, prompt and head go along."""
    if page in state.pages():
        st.page_link(state.pages()[page], label=md(label), icon=icon)


def about(name: str, *, formula: str, higher: str, reference: str = "", control: str = "") -> None:
    """Explain a number: its formula, what higher means, the paper, what it is compared with."""
    with st.popover("About this number", icon=":material/info:"):
        st.markdown(f"**{md(name)}**")
        for label, text in (
            ("Formula", formula),
            ("Higher means", higher),
            ("Paper", reference),
            ("Control", control),
        ):
            if text:
                st.markdown(f"{label}: {md(text)}")


def framed(draw: Callable[[], None]) -> None:
    """Draw a page inside what all pages share: the sidebar, what was wrong in the address, and `guard`."""
    st.html(theme.style(dark()))
    sidebar()
    for sentence in state.notices():
        st.warning(md(sentence), icon=":material/link_off:")
    with guard():
        draw()


def sidebar() -> None:
    """Draw what stands in the URL on every page: model, prompt, head."""
    with st.sidebar:
        _model()
        _prompt()
        _head()


def _model() -> None:
    shipped = [card.name for card in available()]
    names = list(dict.fromkeys([state.default_model(), *shipped, state.model().name]))
    st.selectbox("Model", names, key="model", bind="query-params")
    with st.popover("Another model", width="stretch"):
        st.text_input(
            "Folder or hub id",
            key="sidebar_another",
            on_change=lambda: state.set_model(st.session_state["sidebar_another"].strip()),
        )


def _prompt() -> None:
    known = models.examples(state.model())

    def pick() -> None:
        kind = st.session_state["sidebar_example"]
        if kind is not None:
            state.set_prompt(known[kind].text)

    if known:
        st.selectbox(
            "Example prompts",
            list(known),
            index=None,
            placeholder="Pick one",
            key="sidebar_example",
            on_change=pick,
        )
    short = len(st.session_state["prompt"]) <= state.LONGEST_IN_URL
    st.text_area(
        "Prompt",
        height=180,
        key="prompt",
        bind="query-params" if short else None,
        help="Ctrl+Enter applies it.",
    )
    if not short:
        st.caption("This prompt is too long for the address; a link to this page will not hold it.")


def _head() -> None:
    sizes, first = (
        state.info(),
        state.start(),
    )  # a widget's own value is what its absence from the address means
    layer, index = st.columns(2)
    layer.number_input("Layer", 0, sizes.n_layers - 1, first.layer, key="layer", bind="query-params")
    index.number_input("Head", 0, sizes.n_heads - 1, first.index, key="head", bind="query-params")
    before, after = st.columns(2)
    before.button(
        "Previous",
        key="sidebar_before",
        shortcut="Left",
        on_click=state.step_head,
        args=(-1,),
        width="stretch",
    )
    after.button(
        "Next", key="sidebar_after", shortcut="Right", on_click=state.step_head, args=(1,), width="stretch"
    )
