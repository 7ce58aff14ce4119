"""Heads that carry refusals: searched, lost, and made stronger, on harmful requests and on benign ones beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import streamlit as st

from headscope.analysis.changes import exact
from headscope.analysis.csv_text import csv_text
from headscope.analysis.figures import head_grid
from headscope.analysis.safety.curve import Curve
from headscope.analysis.safety.dose import GAINS, Dose, dose
from headscope.analysis.safety.sahara import cost
from headscope.analysis.safety.settings import Asking, Searching
from headscope.analysis.safety.study import requests, study
from headscope.app import asked, heads, models, state, widgets

_KINDS = {
    "uniform": "attention spread evenly over all tokens so far",
    "scale": "the head's output multiplied by 0.00001",
    "mean": "the head's output replaced by its mean over all requests",
}
_COLUMNS = ("harmful", "benign", "difference")
_KEPT = 6
_SHORT = ("organism/text", "organism/planted")  # their answers are a few words long


class Wanted(NamedTuple):
    """What a study is asked for, besides the model."""

    kind: str
    size: int
    n: int
    draws: int
    new_tokens: int
    stop: str

    def asking(self) -> Asking:
        """Return how requests are put."""
        return Asking(draws=self.draws, max_new_tokens=self.new_tokens, stop=self.stop or None)


def page() -> None:
    """Draw the page."""
    st.title("Safety heads", anchor=False)
    st.markdown(
        "Which heads does this model need to refuse harmful requests, and what else does it lose with them? A head "
        "that merely breaks the model is no safety head: benign requests, random heads and neutral text stand beside "
        "every number."
    )
    with widgets.guard():
        wanted, start = _controls()
        done = st.session_state.setdefault("safety_studies", {})
        key = (state.model(), wanted)
        if start and key not in done:
            _make_room(done)
            done[key] = _studied(wanted)
            st.session_state["safety_heads"] = str(done[key].studies[0].search.heads[0])
        if key in done:
            _search(done[key])
            _answers(done[key], wanted)
        else:
            st.caption(
                "Click Search to find the heads on some requests and to answer others without them. It runs on this "
                "page; for a large model copy the command."
            )
            _copy(wanted)
        _steering(wanted)


def _controls() -> tuple[Wanted, bool]:
    short = state.model().name in _SHORT
    asked.one_of("how", _KINDS)
    asked.number("group", 1, 8)
    asked.number("requests", 8, 400)
    columns = st.columns([1.4, 0.8, 0.9, 0.9, 0.9, 0.8, 1], vertical_alignment="bottom")
    kind = columns[0].selectbox(
        "What losing a head means",
        list(_KINDS),
        key="how",
        bind="query-params",
        help="\n".join(f"- {name}: {words}" for name, words in _KINDS.items()),
    )
    size = columns[1].number_input("Heads", 1, 8, 2, key="group", bind="query-params")
    n = columns[2].number_input("Requests", 8, 400, 40, key="requests", bind="query-params")
    draws = columns[3].number_input("Random draws", 0, 10, 3, key="safety_draws")
    new = columns[4].number_input("New tokens", 1, 512, 14 if short else 64, key="safety_new")
    stop = columns[5].text_input(
        "Stop at", "." if short else "", key="safety_stop", help="Text that ends an answer."
    )
    start = columns[6].button(
        "Search", type="primary", key="safety_search", icon=":material/play_arrow:", width="stretch"
    )
    return Wanted(kind, int(size), int(n), int(draws), int(new), stop), start


def _studied(wanted: Wanted) -> Curve:
    bar, choice = st.progress(0.0, "Searching heads …"), state.model()

    def report(done: int, total: int) -> None:
        bar.progress(done / total, f"{done} of {total}")
        models.let_others(choice)

    try:
        with models.using(choice) as model:
            searched, held_out, note = requests(model, None, None, n=wanted.n)
            st.caption(widgets.md(cost(model, searched, size=wanted.size)))
            settings = Searching(wanted.size, wanted.kind)  # type: ignore[arg-type]
            found = study(model, searched, held_out, settings, wanted.asking(), progress=report)
            return Curve((found,), note)
    finally:
        bar.empty()


def _search(found: Curve) -> None:
    search = found.studies[0].search
    st.subheader("The search", anchor=False)
    left, right = st.columns([1, 1.2])
    with left:
        column = st.segmented_control(
            "First step",
            _COLUMNS,
            default="difference",
            key="safety_column",
            help="How far losing a head turns the space of harmful requests, of benign ones, and the difference.",
        )
        grid = head_grid(
            search.grid(0, column or "difference"),
            name=f"{column or 'difference'} ({search.unit})",
            selected=state.head(),
            dark=widgets.dark(),
        )
        widgets.figure(grid, key="safety_grid", on_select=_pick)
        widgets.link("heads", f"Open the card of {state.head()}", icon=":material/grid_on:")
    with right:
        st.dataframe(search.table(), hide_index=True, key="safety_steps", placeholder="–")
        st.caption(
            f"{widgets.md(found.note)} A head whose benign score is as high as the harmful one moves any request."
        )
        widgets.about(
            "Sahara",
            formula="greedy: add the head whose loss turns the first left singular vector of the last hidden states "
            "of harmful requests furthest, in degrees.",
            higher="losing the group turns the space of requests more.",
            reference="Zhou et al. 2025, arXiv:2410.13708",
            control="the same number on matched benign requests.",
        )


def _answers(found: Curve, wanted: Wanted) -> None:
    st.subheader("What is answered without them", anchor=False)
    for sentence in found.conclusions():
        st.markdown(f"**{widgets.md(sentence)}**")
    widgets.figure(found.figure(dark=widgets.dark()), key="safety_curve")
    for sentence in found.words():
        st.markdown(widgets.md(sentence))
    for note in found.notes():
        st.caption(widgets.md(note))
    table, texts = found.shown(), found.studies[0].texts()
    with st.expander("Rates and texts", icon=":material/table:"):
        st.dataframe(table, hide_index=True, key="safety_rates", placeholder="–")
        st.dataframe(texts, hide_index=True, key="safety_texts", placeholder="–")
    left, right = st.columns([1, 4])
    left.download_button(
        "Download CSV",
        data=lambda: csv_text(table).encode(),
        file_name="refusals.csv",
        mime="text/csv",
        on_click="ignore",
        key="safety_csv",
    )
    with right:
        _copy(wanted)


def _copy(wanted: Wanted) -> None:
    stop = f" --stop {wanted.stop!r}" if wanted.stop else ""
    widgets.copy_as(
        command=f"headscope sahara --model {state.model().name} --kind {wanted.kind} --size {wanted.size} "
        f"-n {wanted.n} --draws {wanted.draws} --max-new-tokens {wanted.new_tokens}{stop}"
    )


@st.fragment
def _steering(wanted: Wanted) -> None:
    """Draw the second half: heads made weaker and stronger."""
    st.subheader("Make them stronger", anchor=False)
    with widgets.guard():
        columns = st.columns([1.2, 2, 1], vertical_alignment="bottom")
        named = columns[0].text_input("Heads to scale", str(state.head()), key="safety_heads")
        gains = columns[1].multiselect(
            "Gains", list(GAINS), default=[0.0, 0.5, 1.0, 2.0, 5.0], key="safety_gains"
        )
        start = columns[2].button(
            "Measure", key="safety_measure", icon=":material/play_arrow:", width="stretch"
        )
        done = st.session_state.setdefault("safety_doses", {})
        key = (state.model(), named, tuple(gains), wanted._replace(kind="", size=0))
        if start and key not in done:
            _make_room(done)
            done[key] = _dosed(named, tuple(gains), wanted)
        if key not in done:
            st.caption(
                "Click Measure to count refusals of harmful and benign requests at every gain, beside random heads."
            )
            return
        made: Dose = done[key]
        st.markdown(f"**{widgets.md(made.conclusion())}**")
        widgets.figure(made.figure(dark=widgets.dark()), key="safety_dose")
        for sentence in made.sentences():
            st.markdown(widgets.md(sentence))
        st.dataframe(made.table(), hide_index=True, key="safety_dose_table", placeholder="–")
        stop = f" --stop {wanted.stop!r}" if wanted.stop else ""
        widgets.copy_as(
            command=f"headscope refusals {named} --model {state.model().name} "
            f"--gains {','.join(map(exact, gains))} -n {wanted.n} --draws {wanted.draws} "
            f"--max-new-tokens {wanted.new_tokens}{stop}"
        )


def _dosed(named: str, gains: tuple[float, ...], wanted: Wanted) -> Dose:
    bar, choice = st.progress(0.0, "Answering requests …"), state.model()

    def report(done: int, total: int) -> None:
        bar.progress(min(1.0, done / total), f"{done} of {total}")
        models.let_others(choice)

    try:
        with models.using(choice) as model:
            _, held_out, _ = requests(model, None, None, n=wanted.n)
            return dose(model, held_out, named, gains, wanted.asking(), progress=report)
    finally:
        bar.empty()


def _make_room(done: dict[Any, Any]) -> None:
    while len(done) >= _KEPT:
        done.pop(next(iter(done)))


def _pick() -> None:
    head = widgets.clicked_head("safety_grid")
    if head is not None:
        heads.open_card(head)
