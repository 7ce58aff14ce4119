"""The page intervene."""

import streamlit as st


def page() -> None:
    """Draw the page."""
    st.title("Intervene")
