"""Where every head looks on one prompt: all heads small, one large, and as text, lines or neurons."""

from __future__ import annotations

import shlex

import streamlit as st

from headscope.analysis import look_figures
from headscope.analysis.csv_text import csv_text
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
    weighted = _options()
    texts = _texts()
    read(state.model(), texts["Prompt"])  # a prompt that cannot be run is said once, and the page ends here
    names, alone = list(texts), len(texts) == 1
    for index, column in enumerate(_side_by_side(len(texts))):
        with column, widgets.guard():
            if not alone:
                st.subheader(names[index], anchor=False)
            _patterns(texts[names[index]], weighted, index, alone=alone)
    _ways_to_look_closer(texts["Prompt"])
    for index, column in enumerate(_side_by_side(len(texts))):
        with column, widgets.guard():
            _closer(texts[names[index]], weighted, index)
    _export(texts["Prompt"], weighted)


def _side_by_side(n: int) -> list:
    return [st.container()] if n == 1 else st.columns(n, gap="medium")


def _texts() -> dict[str, str]:
    """The prompts on show, by what they are called."""
    prompt, beside = state.prompt(), st.session_state["beside"]
    texts = {"Prompt": prompt.text}
    if beside == _CORRUPTED:
        texts["Corrupted"] = prompt.corrupted
    elif beside == _TYPED and st.session_state["other"]:
        texts["Beside it"] = st.session_state["other"]
    return texts


def _options() -> bool:
    """Draw the row of choices; return whether attention is weighted."""
    choices = [_NOTHING, *([_CORRUPTED] if state.prompt().corrupted else []), _TYPED]
    if st.session_state.get("beside") not in choices:
        st.session_state.pop("beside", None)
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
    middle.selectbox("Beside the prompt", choices, key="beside", bind="query-params")
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


def _patterns(text: str, weighted: bool, index: int, *, alone: bool) -> None:
    """Draw all heads of one prompt small, and the chosen one large."""
    choice, head, dark = state.model(), state.head(), widgets.dark()
    looks = read(choice, text)
    left, right = st.columns(2, gap="medium") if alone else (st.container(), st.container())
    with left:
        st.caption("All heads. Click one. Colours show the square root of attention.")
        grid = gallery(choice, text, dark)
        widgets.select_in_grid(grid, head, dark=dark)
        key = f"patterns_grid_{index}"
        widgets.figure(grid, key=key, on_select=lambda: _go_to(widgets.clicked_head(key)))
    with right:
        st.caption(f"{head}: each row is a token that looks, each column what it looks at.")
        large = look_figures.head_figure(looks, head, weighted=weighted, dark=dark)
        widgets.figure(large, key=f"patterns_large_{index}")


def _ways_to_look_closer(text: str) -> None:
    """Draw the choice of view, the chosen token, and what the view needs to know besides."""
    last = len(read(state.model(), text).tokens) - 1
    left, middle, right = st.columns([3, 2, 4], vertical_alignment="bottom")
    left.segmented_control(
        "Closer", _VIEWS, default=_VIEWS[0], required=True, key="view", bind="query-params"
    )
    _keep_below("token", last)
    view = st.session_state["view"]
    unset = "its last" if view == "Neurons" else "the mouse"
    middle.number_input("Token", 0, last, value=None, placeholder=unset, key="token", bind="query-params")
    token = st.session_state["token"]
    if view == "Lines":
        sizes = state.info()
        names = [str(Head(layer, index)) for layer in range(sizes.n_layers) for index in range(sizes.n_heads)]
        right.multiselect("Heads drawn with it", names, key="also", bind="query-params", max_selections=6)
    elif view == "Neurons":
        query = last if token is None else token
        _keep_below("key", query)
        right.number_input(
            "looks at", 0, query, value=None, placeholder="its strongest key", key="key", bind="query-params"
        )


def _keep_below(key: str, last: int) -> None:
    """Keep a chosen position inside a prompt that has become shorter."""
    if st.session_state.get(key) is not None and st.session_state[key] > last:
        st.session_state[key] = last


def _closer(text: str, weighted: bool, index: int) -> None:
    """Draw the text view, the head view or the neuron view of one prompt."""
    head, dark = state.head(), widgets.dark()
    looks = read(state.model(), text)
    view, token, last = st.session_state["view"], st.session_state["token"], len(looks.tokens) - 1
    token = None if token is None else min(token, last)
    if view == "Text":
        hover = "Hover over a token; a click keeps it, a second click lets it go."
        click = "This prompt is long: click a token to see where it looks."
        how = hover if last < look_figures.MOST_HOVERED else click
        st.caption(f"Warm: where the token looks. Grey line: who looks at it. {how}")
        data = look_figures.text_data(looks, head, token, weighted=weighted)
        views.tokens(data, key=f"patterns_text_{index}", on_pick=_pick)
    elif view == "Lines":
        also = [one for one in map(Head.parse, st.session_state["also"]) if one != head]
        data = look_figures.lines_data(looks, [head, *also], token)
        views.lines(data, key=f"patterns_lines_{index}", on_pick=_pick, dark=dark)
    else:
        query, key = last if token is None else token, st.session_state["key"]
        key = looks.strongest(head, query) if key is None else min(key, query)
        fig = look_figures.pair_figure(looks, head, query, key, dark=dark)
        widgets.figure(fig, key=f"patterns_neurons_{index}")


def _go_to(head: Head | None) -> None:
    if head is not None:
        state.select_head(head)


def _pick(position: int | None) -> None:
    st.session_state["token"] = position


def _export(text: str, weighted: bool) -> None:
    """Offer the Python for what is shown, and the pattern as a table and as a page."""
    head, choice = state.head(), state.model()
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
    command = ["headscope", "pattern", "--model", choice.name, f"--prompt={text}", "--head", str(head)]
    widgets.copy_as(command=shlex.join([*command, *(["--weighted"] if weighted else [])]), python=python)
    name = f"{choice.name.rpartition('/')[2]}-{head}"
    table, drawn = st.columns(2)
    table.download_button(
        "Download the pattern as CSV",
        data=lambda: csv_text(read(choice, text).table(head, weighted=weighted)),
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
