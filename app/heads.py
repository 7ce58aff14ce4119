"""The page heads."""

import streamlit as st


def page() -> None:
    """Draw the page."""
    st.title("Heads")
