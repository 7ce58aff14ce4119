"""Where every head looks on one prompt."""

import streamlit as st

from headscope.app import state


def page() -> None:
    """Draw the page."""
    st.title("Patterns")
    st.write(str(state.head()))
