"""Route to the pages. Started by `headscope app`, or with `streamlit run`."""

import importlib

import streamlit as st

from headscope.app import state, widgets

PAGES = (  # module, title, icon; the first one is home
    ("heads", "Heads", ":material/grid_on:"),
    ("patterns", "Patterns", ":material/visibility:"),
    ("intervene", "Intervene", ":material/tune:"),
    ("circuits", "Circuits", ":material/account_tree:"),
    ("vision", "Vision", ":material/image:"),
    ("runs", "Runs", ":material/folder_open:"),
)


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Headscope", page_icon=":material/center_focus_strong:", layout="wide")
    state.settle()
    chosen = st.navigation([_page(*page, first=page is PAGES[0]) for page in PAGES], position="top")
    widgets.sidebar()
    for sentence in state.notices():
        st.warning(widgets.md(sentence), icon=":material/link_off:")
    with widgets.guard():
        chosen.run()


def _page(module: str, title: str, icon: str, *, first: bool):
    def draw() -> None:
        importlib.import_module(f"headscope.app.{module}").page()

    return st.Page(draw, title=title, icon=icon, url_path=module, default=first)


main()
