"""Home: every head in one grid, in a scatter and in a list; a click in any of them opens the head's card."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from headscope.analysis.csv_text import csv_text
from headscope.analysis.effects import FLOW, HOW
from headscope.analysis.explain import explain_effect, explain_method
from headscope.analysis.figures import head_grid, score_scatter
from headscope.analysis.figures.bars import value_bars
from headscope.analysis.registry import methods
from headscope.analysis.scores import HeadScores
from headscope.analysis.shelf import by_size, grids, leading
from headscope.app import asked as asked_for
from headscope.app import check_panel, head_card, results, state, widgets
from headscope.app.results import Asked
from headscope.hooks.heads import Head
from headscope.hooks.metrics import METRICS

FIRST, SECOND = "induction", "previous-token"
HINT = "Click a head in the grid, in the scatter or in the list; its card opens here."
_CLOSED_AT = "heads_closed_at"


def page() -> None:
    """Draw the page."""
    st.title("Heads", anchor=False)
    asked, beside = _choices()
    scores = _scores(asked)
    _finders(asked, scores, beside)
    check_panel.draw(asked, scores)
    st.divider()
    if is_open():
        head_card.draw(asked, _asked)
    else:
        st.info(HINT, icon=":material/ads_click:")


def next_selection(shown: Head | None, clicked: Head | None) -> Head | None:
    """Say which head is selected after a click: a second click on the same head clears, a miss changes nothing."""
    if clicked is None:
        return shown
    return None if clicked == shown else clicked


def is_open() -> bool:
    """Whether the selected head's card is shown; a head chosen anywhere else opens it again."""
    return st.session_state.get(_CLOSED_AT) != state.head()


def select(key: str) -> None:
    """Answer a click in the figure `key`."""
    clicked = widgets.clicked_head(key)
    shown = state.head() if is_open() else None
    after = next_selection(shown, clicked)
    if after is None:
        close()
    else:
        open_card(after)


def open_card(head: Head) -> None:
    """Select a head and show its card; for callbacks."""
    state.select_head(head)
    st.session_state.pop(_CLOSED_AT, None)


def close() -> None:
    """Clear the selection; for callbacks."""
    st.session_state[_CLOSED_AT] = state.head()


def choose(label: str, choices: Sequence[str], key: str, default: str, **more) -> str:
    """Draw a select box whose value stands in the address."""
    first = list(choices).index(default) if default in choices else 0
    return st.selectbox(label, list(choices), index=first, key=key, bind="query-params", **more)


def _choices() -> tuple[Asked, Asked]:
    """Draw the row of choices: the score, the one beside it, and what effects are measured on."""
    names, kinds = results.score_names(), results.prompt_kinds()
    for key, choices in (("against", names), ("data", kinds), ("metric", METRICS), ("flow", FLOW)):
        asked_for.one_of(key, choices)
    left, middle, right, about = st.columns([3, 3, 2, 2], vertical_alignment="bottom")
    with left:
        name = state.method_selector(names, default=FIRST)
    with middle:
        beside = choose("Against", names, "against", SECOND, help="The other axis of the scatter.")
    with right.popover("Effect settings", width="stretch"):
        st.caption("What `…-effect` scores and the card's effects are measured on.")
        if kinds:
            choose(f"Prompts ({results.N_PROMPTS})", kinds, "data", kinds[0])
        choose("Metric", list(METRICS), "metric", "answer_logprob")
        choose(
            "The change flows", list(FLOW), "flow", "total",
            help="total: through all later layers. direct: straight to the logits.",
        )  # fmt: skip
    with about:
        _about(name)
    for sentence in state.notices():
        st.warning(widgets.md(sentence), icon=":material/link_off:")
    return _asked(name), _asked(beside)


def _asked(name: str) -> Asked:
    if not name.endswith(results.EFFECT) or name.startswith(results.RUN):
        return Asked(name)
    kept = st.session_state
    return Asked(name, kept.get("data") or "", kept["metric"], kept["flow"])


def _about(name: str) -> None:
    if name.startswith(results.RUN):
        widgets.about(name, formula="As the run's manifest says; see Runs.", higher="see the run's method.")
        return
    if name.removesuffix(results.EFFECT) in HOW:
        kept = st.session_state
        told = explain_effect(name.removesuffix(results.EFFECT), kept["flow"], kept["metric"])
    else:
        told = explain_method(name)
    widgets.about(
        f"{name}: {told.summary}",
        formula=told.formula,
        higher=told.higher,
        reference=told.reference,
        control=told.control,
    )


def _scores(asked: Asked) -> HeadScores | None:
    """The scores; run at once for shipped models, after a click for others; None where they were not run."""
    found = results.have(asked)
    if found is not None:
        return found
    with widgets.guard():
        shipped = state.model().name.startswith("organism/") or asked.name.startswith(results.RUN)
        if shipped or st.button(
            f"Run {asked.name}",
            key=f"heads_run_{asked.name}",
            icon=":material/play_arrow:",
            help="This model is not one of the shipped ones; scoring it may take a while.",
        ):
            return results.ask(asked)
    return None


def _finders(asked: Asked, scores: HeadScores | None, beside: Asked) -> None:
    """Draw grid, scatter and list; all three answer to clicks."""
    dark = widgets.dark()
    selected = state.head() if is_open() else None
    sizes = state.info()
    grid, scatter, top = st.columns([4, 4, 3], gap="medium")
    with grid:
        st.caption("Every head; a cross means not run.")
        figure = _grid(asked, scores, (sizes.n_layers, sizes.n_heads), selected, dark)
        widgets.figure(figure, key="heads_grid", on_select=lambda: select("heads_grid"))
    with scatter:
        other = scores if beside == asked else _scores(beside)
        if scores is None or other is None:
            st.caption("The scatter appears when both scores were run.")
        else:
            st.caption(f"{widgets.md(asked.name)} across, {widgets.md(beside.name)} up.")
            figure = score_scatter(
                scores.values,
                other.values,
                x_name=asked.name,
                y_name=beside.name,
                selected=selected,
                dark=dark,
            )
            widgets.figure(figure, key="heads_scatter", on_select=lambda: select("heads_scatter"))
    with top:
        if scores is None:
            st.caption("The list appears when the score was run.")
        else:
            _top(asked, scores, selected, dark)
    if scores is not None:
        widgets.copy_as(command=command(asked), python=python(asked))


def _grid(asked: Asked, scores: HeadScores | None, shape, selected, dark: bool):
    if scores is None:
        return head_grid(head_card.not_run(shape), name=asked.name, selected=selected, dark=dark)
    low, high, n = grids(scores)
    return head_grid(scores.values, name=asked.name, low=low, high=high, n=n, selected=selected, dark=dark)


def _top(asked: Asked, scores: HeadScores, selected: Head | None, dark: bool) -> None:
    """The first heads with their intervals."""
    table = leading(scores, 12)
    by = " by size" if by_size(scores) else ""
    heads = [Head(int(layer), int(index)) for layer, index in zip(table["layer"], table["head"], strict=True)]
    st.caption(f"The first {len(table)} heads{by}, with 95 % intervals over prompts.")
    figure = value_bars(
        [str(head) for head in heads],
        table["score"].tolist(),
        low=table["low"].tolist(),
        high=table["high"].tolist(),
        name=asked.name,
        heads=heads,
        marked=[place for place, head in enumerate(heads) if head == selected],
        dark=dark,
    )
    widgets.figure(figure, key="heads_top", on_select=lambda: select("heads_top"))
    st.download_button(
        "Download all as CSV",
        data=lambda: csv_text(scores.table()),
        file_name=f"{asked.name.replace(': ', '-')}.csv",
        mime="text/csv",
        on_click="ignore",
        key="heads_csv",
        width="stretch",
    )


def command(asked: Asked) -> str:
    """The command line that makes a score; empty where there is none."""
    if asked.name not in methods():
        return ""
    return f"headscope score {asked.name} --model {head_card.quoted(state.model().name)} --seed {asked.seed}"


def python(asked: Asked) -> str:
    """The Python that makes a score."""
    load = ["import headscope", "", f"model = headscope.load({state.model().name!r})"]
    if asked.name.startswith(results.RUN):
        path = str(results.runs().get(asked.name.removeprefix(results.RUN), ""))
        return f"import headscope\n\nscores = headscope.HeadScores.load({path!r})\nscores.table()"
    if asked.name.endswith(results.EFFECT):
        how = asked.name.removesuffix(results.EFFECT)
        lines = [
            "from headscope.analysis import default_prompts",
            "from headscope.analysis.effects import effects",
            *load,
            f"prompts = default_prompts(model, {asked.data!r}, {asked.seed}, n={results.N_PROMPTS})",
            f"scores = effects(model, prompts, {asked.metric!r}, how={how!r}, flow={asked.flow!r})",
        ]
        return "\n".join([*lines, "scores.table()"])
    return "\n".join(
        [*load, f"scores = headscope.score(model, {asked.name!r}, seed={asked.seed})", "scores.table()"]
    )
