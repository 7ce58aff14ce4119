"""Attention over images: says what is missing until a model that sees images can be loaded."""

from __future__ import annotations

import streamlit as st

from headscope.analysis.sees import sees_images
from headscope.app import models, state, widgets


@st.cache_data(max_entries=16, show_spinner=False)
def sees(choice: models.Choice) -> bool:
    """Whether the model takes images."""
    with models.using(choice) as model:
        return sees_images(model)


def page() -> None:
    """Draw the page."""
    st.title("Vision", anchor=False)
    with widgets.guard():
        name = widgets.md(state.model().name)
        if sees(state.model()):
            st.info(
                f"{name} takes images, but image prompts are not in the package yet: there is nothing to lay over a "
                "picture. Its text layers can be read on the other pages.",
                icon=":material/construction:",
            )
        else:
            st.info(
                f"{name} reads text only, so there is no image to attend to. Image prompts, the overlay of a head's "
                "attention on a picture and the share of attention on image against text are not in the package yet.",
                icon=":material/image_not_supported:",
            )
