"""Whether a score is causal: said as unchecked until the check has run, and with its curve afterwards."""

from __future__ import annotations

import streamlit as st

from headscope.analysis.scores import HeadScores
from headscope.app import results, state, widgets
from headscope.app.results import EFFECT, RUN, Asked

_ICONS = {"causal": ":material/verified:", "redundant": ":material/verified:"}


def draw(asked: Asked, scores: HeadScores | None) -> None:
    """Draw the state of a score and, where it can be checked, the button and the result."""
    if scores is None:
        return
    for note in scores.notes:
        if not note.startswith(("Causal check:", "The scores describe attention alone")):
            st.caption(widgets.md(note))
    if asked.name.endswith(EFFECT) and not asked.name.startswith(RUN):
        return
    found = results.have_check(asked)
    if found is None:
        place = st.empty()
        with place.container():
            _unchecked(asked)
        found = results.have_check(asked)
        if found is not None:
            place.empty()
    if found is None:
        return
    st.markdown(f"{_ICONS.get(found.judgement, ':material/help:')} **{widgets.md(found.verdict)}**")
    with st.expander("The causal check", expanded=False, icon=":material/science:"):
        st.caption(
            f"{widgets.md(found.how)} on {widgets.md(found.data.name)}, {len(found.clean)} prompts, beside random "
            "heads."
        )
        widgets.figure(found.figure(dark=widgets.dark()), key="heads_check_figure")
        st.dataframe(found.summary(), hide_index=True, key="heads_check_table", placeholder="–")
        for note in found.notes:
            st.caption(widgets.md(note))
        widgets.copy_as(python=python(asked, results.check_sizes(scores)))


def _unchecked(asked: Asked) -> None:
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.markdown(
        ":material/warning: **From attention alone.** Where a head looks does not tell whether that matters; "
        "no intervention has confirmed this score."
    )
    if asked.name.startswith(RUN):
        right.code(f"headscope verify {asked.name.removeprefix(RUN)}", language="bash", wrap_lines=True)
        return
    if right.button("Check causally", key="heads_check", icon=":material/science:", width="stretch"):
        with widgets.guard():
            results.check(asked)


def python(asked: Asked, sizes: tuple[int, ...]) -> str:
    """The Python that makes the check."""
    return "\n".join(
        [
            "import headscope",
            "from headscope.analysis import default_prompts",
            "",
            f"model = headscope.load({state.model().name!r})",
            f"scores = headscope.score(model, {asked.name!r}, seed={asked.seed})",
            f"data = headscope.methods()[{asked.name!r}].data",
            f"fresh = default_prompts(model, data, {asked.seed + 1})",
            f"check = headscope.verify(model, scores, fresh, k={sizes!r}, seed={asked.seed})",
            "print(check.verdict)",
            "check.figure().show()",
        ]
    )
