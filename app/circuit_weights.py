"""One half of Circuits: which heads can read each other by the weights, beside the circuit that the card states."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from headscope.analysis.csv_text import csv_text
from headscope.analysis.figures.graph import circuit_figure
from headscope.analysis.figures.style import number
from headscope.analysis.stated import compositions, precision_recall, stated_circuit, strongest
from headscope.app import asked, heads, models, state, widgets

_ALL = "all"
_WAYS = (_ALL, "Q", "K", "V")
_MOST = 12  # edges that are shown before anybody asks for others
_MANY = 600  # heads: from here on the table is made on demand


@st.cache_data(max_entries=8, show_spinner="Comparing what heads write with what heads read …")
def table(choice: models.Choice) -> pd.DataFrame:
    """Score all pairs of heads."""
    with models.using(choice) as model:
        return compositions(model)


def draw() -> None:
    """Draw the composition scores."""
    st.caption(
        "What the weights say about any text: how much of what a head writes a later head can read. It is no proof "
        "that it does."
    )
    info = state.info()
    if info.n_layers * info.n_heads > _MANY and not st.toggle("Compare all heads (slow)", key="circuits_all"):
        st.caption(f"{info.n_layers * info.n_heads} heads: switch this on to compare all pairs of them.")
        return
    _graph(table(state.model()))


def _graph(whole: pd.DataFrame) -> None:
    info = state.info()
    if whole.empty:
        st.caption("This model has one layer, so no head comes after another.")
        return
    stated = stated_circuit(state.model().name, info)
    asked.one_of("through", _WAYS)
    asked.number("threshold", 0, 1000, whole=False)
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    way = left.selectbox(
        "Read as",
        _WAYS,
        key="through",
        bind="query-params",
        help="Q: queries, K: keys, V: values of the later head.",
    )
    top = float(whole["times_chance"].iloc[0])
    start = min(top, max(1.0, float(whole["times_chance"].iloc[min(_MOST, len(whole)) - 1])))
    if not 0 <= float(st.session_state.get("threshold", start)) <= top:
        st.session_state.pop("threshold", None)
    threshold = right.slider(
        "Threshold, in multiples of chance",
        0.0,
        top,
        start,
        key="threshold",
        bind="query-params",
        format="%.2f",
    )
    edges = strongest(whole, through="" if way == _ALL else way, threshold=threshold)
    count = "1 edge" if len(edges) == 1 else f"{len(edges)} edges"
    if stated is not None:
        precision, recall = precision_recall(edges, stated)
        st.markdown(
            f"{count} · precision {number(precision)} · recall {number(recall)} against the card: "
            f"*{widgets.md(stated.words)}*"
        )
    else:
        st.markdown(f"{count}. The model's card states no circuit to compare them with.")
    fig = circuit_figure(
        info.n_layers,
        info.n_heads,
        edges,
        stated=stated.edges if stated else (),
        roles=stated.roles if stated else None,
        selected=state.head(),
        dark=widgets.dark(),
    )
    widgets.figure(fig, key="circuits_graph", on_select=_pick)
    st.caption(
        f"Layer 0 is at the top. Solid lines: read as keys; dotted: as queries; dashed: as values. "
        f"{'Orange: stated by the card. ' if stated else ''}Click a node to select its head on every page."
    )
    widgets.link("heads", f"Open the card of {state.head()}", icon=":material/grid_on:")
    left, right = st.columns([1, 3])
    with left:
        widgets.about(
            "Composition score",
            formula="‖W_OV(writer) · W_r(reader)‖ / (‖W_OV(writer)‖ ‖W_r(reader)‖), Frobenius norms",
            higher="the later head reads more of the directions that the earlier one writes.",
            reference="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
            control="chance is 1 / √d_model: a reader that is turned at random.",
        )
    right.download_button(
        "Edges, CSV",
        data=lambda: csv_text(whole).encode(),
        file_name="composition.csv",
        mime="text/csv",
        on_click="ignore",
        key="circuits_csv",
        icon=":material/download:",
    )
    st.dataframe(edges, hide_index=True)
    widgets.copy_as(
        python="import headscope\nfrom headscope.analysis.stated import compositions, strongest\n\n"
        f"model = headscope.load({state.model().name!r})\n"
        f"print(strongest(compositions(model), through={('' if way == _ALL else way)!r}, threshold={threshold:.4g}))"
    )


def _pick() -> None:
    head = widgets.clicked_head("circuits_graph")
    if head is not None:
        heads.open_card(head)
