"""Where every head looks on one prompt: all heads small, one large, and as text, lines or neurons."""

from __future__ import annotations

import streamlit as st

from headscope.analysis import look_figures
from headscope.analysis.looks import Looks, look
from headscope.app import models, state, views, widgets
from headscope.hooks.heads import Head

_VIEWS = ("Text", "Lines", "Neurons")
_NOTHING, _CORRUPTED, _TYPED = "nothing", "its corrupted form", "another prompt"


@st.cache_resource(max_entries=6, show_spinner="Reading the prompt …")
def read(choice: models.Choice, text: str) -> Looks:
    """Run a prompt once; everything on the page is made from this."""
    with models.using(choice) as model:
        return look(model, text)


@st.cache_data(max_entries=24, show_spinner=False)
def gallery(choice: models.Choice, text: str, dark: bool):
    """All heads' patterns, drawn once a prompt."""
    return look_figures.gallery_figure(read(choice, text), dark=dark)


def page() -> None:
    """Draw the page."""
    st.title("Patterns", anchor=False)
    texts = _texts()
    weighted = _options()
    columns = st.columns(len(texts), gap="medium") if len(texts) > 1 else [st.container()]
    for index, (column, (name, text)) in enumerate(zip(columns, texts.items(), strict=True)):
        with column, widgets.guard():
            if len(texts) > 1:
                st.subheader(name, anchor=False)
            _prompt(text, weighted, index, alone=len(texts) == 1)
    _export(texts, weighted)


def _texts() -> dict[str, str]:
    """The prompts on show, by what they are called."""
    prompt = state.prompt()
    choices = [_NOTHING, *([_CORRUPTED] if prompt.corrupted else []), _TYPED]
    if st.session_state.get("beside") not in choices:
        st.session_state.pop("beside", None)
    beside = st.session_state.get("beside", _NOTHING)
    if beside == _CORRUPTED:
        return {"Prompt": prompt.text, "Corrupted": prompt.corrupted}
    other = st.session_state.get("other", "")
    return (
        {"Prompt": prompt.text, "Beside it": other} if beside == _TYPED and other else {"Prompt": prompt.text}
    )


def _options() -> bool:
    """Draw the row of choices; return whether attention is weighted."""
    prompt = state.prompt()
    left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
    kind = left.segmented_control(
        "Show",
        ["attention", "weighted by ‖v·W_O‖"],
        default="attention",
        required=True,
        key="show",
        bind="query-params",
        help="Attention alone is no explanation: a head may look hard at a token and write nothing of it.",
    )
    middle.selectbox(
        "Beside the prompt",
        [_NOTHING, *([_CORRUPTED] if prompt.corrupted else []), _TYPED],
        key="beside",
        bind="query-params",
    )
    if st.session_state["beside"] == _TYPED:
        st.text_area("Prompt to put beside it", key="other", bind="query-params", height=80)
    with right:
        widgets.about(
            "Attention and value-weighted attention",
            formula="A_ij, the softmax of scaled query-key scores, and A_ij · ‖v_j W_O‖, what of it is written.",
            higher="the query looks more at this key (weighted: and writes more of it).",
            reference="Kobayashi et al. 2020, arXiv:2004.10102, for the weighted form.",
            control="None: a pattern alone says nothing about what a head does for the answer; see Intervene.",
        )
    return kind != "attention"


def _prompt(text: str, weighted: bool, index: int, *, alone: bool) -> None:
    """Draw one prompt: the gallery, the chosen head's pattern, and one of three closer views."""
    choice, head, dark = state.model(), state.head(), widgets.dark()
    looks = read(choice, text)
    left, right = st.columns([5, 6], gap="medium") if alone else (st.container(), st.container())
    with left:
        st.caption("All heads. Click one. Colours show the square root of attention.")
        grid = gallery(choice, text, dark)
        widgets.select_in_grid(grid, head, dark=dark)
        key = f"patterns_grid_{index}"
        widgets.figure(grid, key=key, on_select=lambda: _go_to(widgets.clicked_head(key)))
    with right:
        st.caption(f"{head}: each row is a token that looks, each column what it looks at.")
        widgets.figure(
            look_figures.head_figure(looks, head, weighted=weighted, dark=dark), key=f"patterns_large_{index}"
        )
    _closer(looks, head, weighted, index, dark)


def _closer(looks: Looks, head: Head, weighted: bool, index: int, dark: bool) -> None:
    """Draw the text view, the head view or the neuron view."""
    n = len(looks.tokens)
    if index == 0:
        left, middle, right = st.columns([3, 2, 4], vertical_alignment="bottom")
        left.segmented_control(
            "Closer", _VIEWS, default=_VIEWS[0], required=True, key="view", bind="query-params"
        )
        if st.session_state.get("token") is not None and st.session_state["token"] >= n:
            st.session_state["token"] = n - 1
        middle.number_input(
            "Token",
            min_value=0,
            max_value=n - 1,
            value=None,
            placeholder="the mouse",
            key="token",
            bind="query-params",
        )
    view, token = st.session_state["view"], st.session_state.get("token")
    if view == "Text":
        st.caption(
            "Warm: where the token looks. Grey line: who looks at it. "
            + (
                "Hover over a token; a click keeps it, a second click lets it go."
                if n <= look_figures.MOST_HOVERED
                else "This prompt is long: click a token to see where it looks."
            )
        )
        data = look_figures.text_data(looks, head, token, weighted=weighted)
        views.tokens(data, key=f"patterns_text_{index}", on_pick=_pick)
    elif view == "Lines":
        also = _also(right, head) if index == 0 else _also_heads(head)
        data = look_figures.lines_data(looks, [head, *also], token)
        views.lines(data, key=f"patterns_lines_{index}", on_pick=_pick, dark=dark)
    else:
        query = n - 1 if token is None else min(token, n - 1)
        target = right if index == 0 else st
        if st.session_state.get("key") is not None and st.session_state["key"] > query:
            st.session_state["key"] = query
        if index == 0:
            target.number_input(
                "looks at",
                min_value=0,
                max_value=query,
                value=None,
                placeholder="its strongest key",
                key="key",
                bind="query-params",
            )
        key = st.session_state.get("key")
        key = looks.strongest(head, query) if key is None else min(key, query)
        fig = look_figures.pair_figure(looks, head, query, key, dark=dark)
        widgets.figure(fig, key=f"patterns_neurons_{index}")


def _also(place, head: Head) -> list[Head]:
    sizes = state.info()
    names = [str(Head(layer, index)) for layer in range(sizes.n_layers) for index in range(sizes.n_heads)]
    place.multiselect("Heads drawn with it", names, key="also", bind="query-params", max_selections=6)
    return _also_heads(head)


def _also_heads(head: Head) -> list[Head]:
    return [one for one in map(Head.parse, st.session_state.get("also", ())) if one != head]


def _go_to(head: Head | None) -> None:
    if head is not None:
        state.select_head(head)


def _pick(position: int | None) -> None:
    st.session_state["token"] = position


def _export(texts: dict[str, str], weighted: bool) -> None:
    """Offer the Python for what is shown, and the pattern as a table and as a page."""
    head, choice, text = state.head(), state.model(), texts["Prompt"]
    python = "\n".join(
        [
            "import headscope",
            "from headscope.analysis.look_figures import head_figure",
            "from headscope.analysis.looks import look",
            "",
            f"model = headscope.load({choice.name!r})",
            f"looks = look(model, {text!r})",
            f"head_figure(looks, headscope.Head({head.layer}, {head.index}), weighted={weighted}).show()",
        ]
    )
    widgets.copy_as(python=python)
    name = f"{choice.name.rpartition('/')[2]}-{head}"
    table, drawn = st.columns(2)
    table.download_button(
        "Download the pattern as CSV",
        data=lambda: read(choice, text).table(head, weighted=weighted).to_csv(index=False),
        file_name=f"{name}.csv",
        on_click="ignore",
        width="stretch",
    )
    drawn.download_button(
        "Download the figure as HTML",
        data=lambda: look_figures.head_figure(read(choice, text), head, weighted=weighted).to_html(
            include_plotlyjs=True
        ),
        file_name=f"{name}.html",
        on_click="ignore",
        width="stretch",
    )
