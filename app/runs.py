"""The page runs."""

import streamlit as st


def page() -> None:
    """Draw the page."""
    st.title("Runs")
