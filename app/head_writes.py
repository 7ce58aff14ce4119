"""What a head writes: its share of a logit, and the tokens that it speaks for."""

from __future__ import annotations

from typing import Any

import streamlit as st

from headscope.analysis.figures import head_grid
from headscope.analysis.figures.bars import value_bars
from headscope.analysis.figures.style import number, visible
from headscope.analysis.writing import Spoken
from headscope.app import asked as asked_for
from headscope.app import results, widgets
from headscope.hooks.heads import Head


def draw(head: Head, ask: Any) -> None:
    """Direct logit attribution, and the tokens that the head speaks for."""
    tokens = results.tokens()
    asked_for.number("written_at", 0, len(tokens) - 1)
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    at = left.number_input(
        "At token", 0, len(tokens) - 1, len(tokens) - 1, key="written_at", bind="query-params"
    )
    right.markdown(f"`{int(at)}` {widgets.md(visible(tokens[int(at)]))}")
    position = int(at)
    cut = results.attribution(position)
    st.markdown(
        f"**{head} adds {widgets.md(number(float(cut.heads[head])))}** of {widgets.md(number(cut.total))} to the "
        f"{widgets.md(cut.target)}, directly."
    )
    grid, bars = st.columns(2, gap="medium")
    with grid:
        st.caption("What every head adds.")
        figure = head_grid(cut.heads, name="logits", signed=True, selected=head, dark=widgets.dark())
        widgets.figure(figure, key="heads_dla_grid")
    with bars:
        st.caption("The largest parts; together all parts are the logit.")
        table = cut.table().head(12)
        figure = value_bars(
            table["part"].tolist(),
            table["logits"].tolist(),
            name="logits",
            marked=[i for i, part in enumerate(table["part"]) if part == str(head)],
            dark=widgets.dark(),
        )
        widgets.figure(figure, key="heads_dla_bars")
    output, circuit = st.columns(2, gap="medium")
    with output:
        st.caption(f"Tokens that its output at {position} raises and lowers, in logits.")
        _spoken(results.written(head, position), "output")
    with circuit:
        st.caption(
            f"Its OV circuit for {widgets.md(visible(tokens[position]))}: what it would say if it looked at this token "
            "alone. Only order and sign mean something."
        )
        _spoken(results.circuit(head, position), "circuit")
    widgets.about(
        "Direct logit attribution",
        formula="W_U[:, token] · gain ⊙ centred(z W_O) / scale; the final norm's scale at this token is held fixed, "
        "and all heads, MLPs, biases and the embedding add up to the logit.",
        higher="the head's own output speaks for the token, without what later layers make of it.",
        reference="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
        control="None: this is an account of a sum, not a causal effect. See Effects.",
    )


def _spoken(spoken: Spoken, key: str) -> None:
    up, down = st.columns(2)
    for place, found, label in ((up, spoken.raised, "raises"), (down, spoken.lowered, "lowers")):
        place.dataframe(
            {label: [visible(one.token) for one in found], "by": [one.value for one in found]},
            hide_index=True,
            key=f"heads_{key}_{label}",
            column_config={"by": st.column_config.NumberColumn(format="%.2f")},
        )
