"""The lower half of Intervene: what a change does to a whole set of prompts."""

from __future__ import annotations

import streamlit as st

from headscope.analysis.changes import Change
from headscope.analysis.csv_text import csv_text
from headscope.analysis.defaults import default_prompts
from headscope.analysis.impact import Impact, impact
from headscope.analysis.outcomes import OUTCOMES
from headscope.analysis.uploads import MAX_MB, uploaded_prompts
from headscope.app import asked, models, state, widgets
from headscope.datasets.prompts import PromptSet
from headscope.hooks.metrics import METRICS

_UPLOAD = "a file of mine"
_KEPT = 8


@st.fragment
def draw(change: Change) -> None:
    """Draw the choice of prompts and metric, and the effect once it was asked for."""
    st.subheader("Effect on a set of prompts", anchor=False)
    with widgets.guard():
        measures = [*METRICS, *OUTCOMES]
        kinds = [*models.examples(state.model()), _UPLOAD]
        asked.one_of("set", kinds)
        asked.one_of("metric", measures)
        asked.number("n", 2, 500)
        columns = st.columns([1.2, 1.4, 0.8, 0.8, 1], vertical_alignment="bottom")
        kind = columns[0].selectbox("Prompts", kinds, key="set", bind="query-params")
        metric = columns[1].selectbox(
            "Metric",
            measures,
            index=measures.index("answer_logprob"),
            key="metric",
            bind="query-params",
        )
        n = int(columns[2].number_input("How many", 2, 500, 24, key="n", bind="query-params"))
        draws = int(columns[3].number_input("Random draws", 1, 20, 3, key="intervene_draws"))
        wanted = columns[4].button(
            "Measure", type="primary", key="intervene_measure", icon=":material/play_arrow:"
        )
        prompts = _uploaded() if kind == _UPLOAD else None
        if kind == _UPLOAD and prompts is None:
            st.caption("Choose a file: one JSON object a line, with text and answer.")
            return
        if prompts is not None:
            prompts = prompts[:n]
        done = st.session_state.setdefault("intervene_impacts", {})
        key = (state.model(), change, kind, prompts.digest if prompts else "", metric, n, draws)
        if wanted and key not in done:
            while len(done) >= _KEPT:
                done.pop(next(iter(done)))
            done[key] = _measured(change, kind, prompts, metric, n, draws)
        if key in done:
            _show(done[key])
        else:
            st.caption(
                "Click Measure to run these prompts clean, changed, and with random heads of the same layers changed."
            )


def _uploaded() -> PromptSet | None:
    file = st.file_uploader("Prompts, JSONL", type="jsonl", key="intervene_file", max_upload_size=MAX_MB)
    return None if file is None else uploaded_prompts(file.name, file.getvalue())


def _measured(
    change: Change, kind: str, prompts: PromptSet | None, metric: str, n: int, draws: int
) -> Impact:
    bar, choice = st.progress(0.0, "Running the prompts …"), state.model()

    def report(done: int, total: int) -> None:
        bar.progress(done / total, f"{done} of {total} passes over the prompts")
        models.let_others(choice)

    try:
        with models.using(choice) as model:
            data = prompts if prompts is not None else default_prompts(model, kind, n=n)
            return impact(model, data, change, metric, draws=draws, progress=report)
    finally:
        bar.empty()


def _show(found: Impact) -> None:
    st.markdown(widgets.md(found.verdict))
    for note in found.notes:
        st.info(widgets.md(note))
    widgets.figure(found.figure(dark=widgets.dark()), key="intervene_impact")
    table = found.table()
    st.dataframe(table, hide_index=True, placeholder="–")
    left, right = st.columns([1, 4])
    left.download_button(
        "Download CSV",
        data=lambda: csv_text(table).encode(),
        file_name=f"effect-{found.metric}.csv",
        mime="text/csv",
        on_click="ignore",
        key="intervene_csv",
    )
    with right:
        widgets.about(
            found.metric.replace("_", " "),
            formula="mean over prompts of the metric with the change minus the metric without it; 95 % bootstrap "
            "interval over prompts, sign-flip test.",
            higher="the change raises the metric.",
            control=f"the same change of as many random heads of the same layers, {len(found.controls)} draws, "
            "averaged prompt by prompt.",
        )
