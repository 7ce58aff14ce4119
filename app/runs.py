"""The folder of runs: find one, open it, compare two, start and watch jobs that make more."""

from __future__ import annotations

import streamlit as st

from headscope.analysis.browse import (
    Listed,
    joined,
    list_runs,
    matching,
    open_run,
    report_of,
    table,
    typed_again,
)
from headscope.analysis.compare_runs import agree, describe_overlap
from headscope.analysis.figures import score_scatter, top_bars
from headscope.analysis.run import Run
from headscope.app import asked, downloads, run_jobs, state, widgets
from headscope.printable import printable

TABS = ("Browse and compare", "Jobs")
_SHOWN = 12


def page() -> None:
    """Draw the page."""
    st.title("Runs", anchor=False)
    root = state.runs_folder()
    st.caption(widgets.md(f"Folder: {root}"))
    asked.one_of("tab", TABS)
    browse, jobs = st.tabs(list(TABS), key="tab", on_change="rerun", bind="query-params")
    if browse.open:
        with browse, widgets.guard():
            runs = list_runs(root)
            if runs:
                _browse(runs)
            else:
                st.info("There is no run here yet. Start one in the tab Jobs.")
    if jobs.open:
        with jobs, widgets.guard():
            run_jobs.draw(root)


def _browse(runs: tuple[Listed, ...]) -> None:
    left, _ = st.columns([2, 3])
    words = left.text_input(
        "Filter", key="filter", bind="query-params", placeholder="words of method, model, prompts or name"
    )
    shown = matching(runs, words)
    whole = table(shown)
    st.dataframe(whole, hide_index=True, height="content" if len(whole) <= _SHOWN else 36 * _SHOWN)
    _broken(runs)
    names = list(whole["run"])
    if not names:
        st.info("No run fits this filter.")
        return
    asked.one_of("run", names)
    asked.one_of("beside_run", ["", *names])
    left, right = st.columns(2)
    name = left.selectbox("Open", names, key="run", bind="query-params")
    others = ["", *(one for one in names if one != name)]
    if st.session_state.get("beside_run") not in others:
        st.session_state.pop("beside_run", None)
    other = right.selectbox("Compare with", others, key="beside_run", bind="query-params", placeholder="none")
    with widgets.guard():
        run = open_run(state.runs_folder(), name)
        if other:
            _compare(run, open_run(state.runs_folder(), other), name, other)
        else:
            _open(run, name)


def _broken(runs: tuple[Listed, ...]) -> None:
    broken = [one for one in runs if one.problem]
    if broken:
        with st.expander(f"{len(broken)} cannot be opened", icon=":material/warning:"):
            for one in broken:
                st.markdown(f"- {widgets.md(one.name)}: {widgets.md(one.problem)}")


def _open(run: Run, name: str) -> None:
    """Draw one run: its answer, its grid, its first heads, its check."""
    scores, dark = run.scores, widgets.dark()
    st.subheader(f"{widgets.md(scores.method)} · {widgets.md(scores.model.name)}", anchor=False)
    st.caption(
        widgets.md(
            f"{len(run.prompts)} prompts of {run.prompts.name} · seed {scores.seed} · {run.manifest.get('started')} · "
            f"higher: {scores.higher}"
        )
    )
    if run.verification is not None:
        st.markdown(f"**{widgets.md(run.verification.verdict)}**")
    whole = scores.table()
    first = whole.dropna(subset=["score"]).head(_SHOWN)
    grid = scores.heatmap(dark=dark)
    shown = scores.heatmap(dark=dark)
    head = state.head()
    if head.layer < scores.values.shape[0] and head.index < scores.values.shape[1]:
        widgets.select_in_grid(shown, head, dark=dark)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        widgets.figure(shown, key="runs_grid", on_select=lambda: _pick("runs_grid"))
        st.caption("A click selects the head on every page.")
    with right:
        bars = top_bars(
            [(row.layer, row.head) for row in first.itertuples()],
            list(first["score"]),
            low=list(first["low"]),
            high=list(first["high"]),
            name=scores.method,
            dark=dark,
        )
        widgets.figure(bars, key="runs_top")
    if run.verification is not None:
        widgets.figure(run.verification.figure(dark=dark), key="runs_verified")
    for note in scores.notes:
        st.caption(widgets.md(note))
    report = report_of(state.runs_folder(), name)
    downloads.offer(name, key="runs", table=whole, figure=grid, name="Grid", report=report)
    with st.expander("All heads"):
        st.dataframe(whole, hide_index=True)
    with st.expander("The prompts"):
        for prompt in run.prompts[:_SHOWN]:
            st.text(printable(prompt.text))
            if prompt.answer:
                st.caption(widgets.md(f"answer: {prompt.answer!r}"))
    widgets.copy_as(
        command=typed_again(run.manifest.get("command", "")),
        python=f"from headscope.analysis.run import load_run\n\nrun = load_run({str(run.folder)!r})\n"
        "print(run.scores.table())",
    )


def _compare(one: Run, two: Run, name: str, other: str) -> None:
    """Draw two runs against each other."""
    found = agree(one.scores, two.scores)
    labels = [run.scores.method for run in (one, two)]
    if labels[0] == labels[1]:
        labels = [f"{label} ({run})" for label, run in zip(labels, (name, other), strict=True)]
    st.markdown(f"**{widgets.md(found.words)}** {widgets.md(describe_overlap(found))}")
    head = state.head()
    here = head.layer < one.scores.values.shape[0] and head.index < one.scores.values.shape[1]
    scatter = score_scatter(
        one.scores.values,
        two.scores.values,
        x_name=labels[0],
        y_name=labels[1],
        selected=head if here else None,
        dark=widgets.dark(),
    )
    widgets.figure(scatter, key="runs_scatter", on_select=lambda: _pick("runs_scatter"))
    st.dataframe(found.overlap, hide_index=True)
    downloads.offer(
        f"{name}-and-{other}",
        key="runs_both",
        table=joined(one.scores, two.scores, labels),
        figure=scatter,
        name="Scatter",
    )
    widgets.about(
        "Rank agreement and overlap",
        formula="ρ: Spearman's correlation over heads that have both scores, 95 % bootstrap interval over heads. Both: "
        "how many of the first k heads are the same in both runs.",
        higher="the two scores point at the same heads; ρ = 1 is the same order, 0 none in common, −1 the reverse.",
        control="two tops chosen at random share k² / n heads on average; chance_low to chance_high holds 95 % of such "
        "pairs, and p is the share that has at least as many in common.",
    )
    python = (
        "from headscope.analysis.compare_runs import agree\nfrom headscope.analysis.run import load_run\n\n"
        f"one = load_run({str(one.folder)!r})\ntwo = load_run({str(two.folder)!r})\n"
        "found = agree(one.scores, two.scores)\nprint(found.words)\nprint(found.overlap)"
    )
    widgets.copy_as(python=python)


def _pick(key: str) -> None:
    head = widgets.clicked_head(key)
    if head is not None and head.layer < state.info().n_layers and head.index < state.info().n_heads:
        state.select_head(head)
