"""The page circuits."""

import streamlit as st


def page() -> None:
    """Draw the page."""
    st.title("Circuits")
