"""Attention over images: a picture, a question about it, and where every head looks on it."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import pandas as pd
import streamlit as st

from headscope.analysis.examples import example_images
from headscope.analysis.figures import head_grid
from headscope.analysis.sees import sees_images
from headscope.analysis.uploads import MAX_IMAGE_MB, uploaded_image
from headscope.analysis.vision.dependence import dependence_figure, token_dependence
from headscope.analysis.vision.gaze import Gaze, gaze
from headscope.app import models, state, widgets
from headscope.datasets.prompts import Prompt
from headscope.hooks.generate import generate

_UPLOADED = "my own picture"
_MOST_NEW = 32


@st.cache_data(max_entries=16, show_spinner=False)
def sees(choice: models.Choice) -> bool:
    """Whether the model takes images."""
    with models.using(choice) as model:
        return sees_images(model)


@st.cache_data(show_spinner=False)
def pictures() -> dict[str, str]:
    """Pictures to begin with, by name."""
    return example_images()


@st.cache_resource(show_spinner=False)
def _folder() -> tempfile.TemporaryDirectory:
    """Where uploaded pictures are kept while the app runs."""
    return tempfile.TemporaryDirectory(prefix="headscope-pictures-")


@st.cache_resource(max_entries=6, show_spinner="Looking at the picture …")
def read(choice: models.Choice, text: str, image: str) -> Gaze:
    """Run a prompt with its picture once; everything on the page is made from this."""
    with models.using(choice) as model:
        return gaze(model, Prompt(text, image=image))


@st.cache_data(max_entries=32, show_spinner="Answering …")
def answer(choice: models.Choice, text: str, image: str) -> str:
    """What the model says, greedily."""
    with models.using(choice) as model:
        return generate(model, [Prompt(text, image=image)], max_new_tokens=_MOST_NEW)[0].text


@st.cache_data(max_entries=32, show_spinner="Taking the picture away …")
def dependence(choice: models.Choice, text: str, image: str, said: str) -> pd.DataFrame:
    """How much each token of the answer depends on the picture."""
    with models.using(choice) as model:
        return token_dependence(model, [Prompt(text, answer=said, image=image)])


def page() -> None:
    """Draw the page."""
    st.title("Vision", anchor=False)
    with widgets.guard():
        if not sees(state.model()):
            st.info(
                f"{widgets.md(state.model().name)} reads text only, so there is no image to attend to. Choose a model "
                "that sees, such as organism/vision, or open one by its folder or hub id under Another model.",
                icon=":material/image_not_supported:",
            )
            return
        image = _picture()
        if image is None:
            st.info("Upload a picture, or choose one of the scenes.", icon=":material/upload:")
            return
        text = state.prompt().text
        found = read(state.model(), text, image)
        _views(found, text, image)
        _export(text, image)


def _picture() -> str | None:
    """Draw the choice of picture; return what stands in a prompt's `image`."""
    left, right = st.columns(2, gap="medium", vertical_alignment="bottom")
    names = [*pictures(), _UPLOADED]
    asked = st.query_params.get("picture")
    if asked is not None and asked not in names:
        state.notice(
            f"The address asks for the picture {asked!r}, which is not here; shown instead: {names[0]}."
        )
        st.warning(widgets.md(state.notices()[-1]), icon=":material/link_off:")
        st.query_params.pop("picture", None)
    chosen = left.selectbox(
        "Picture",
        names,
        key="picture",
        bind="query-params",
        help="Drawn scenes: in training some shapes nearly always stand together, and some have one colour. The "
        "question is the prompt at the left.",
    )
    if chosen != _UPLOADED:
        return pictures()[chosen]
    given = right.file_uploader(
        "Upload", type=["png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff"], max_upload_size=MAX_IMAGE_MB,
        key="vision_upload",
    )  # fmt: skip
    if given is None:
        return None
    return uploaded_image(given.name, given.getvalue(), Path(_folder().name))


def _views(found: Gaze, text: str, image: str) -> None:
    choice, head, dark = state.model(), state.head(), widgets.dark()
    tokens = {f"{i}: {found.tokens[i].strip() or found.tokens[i]}": i for i in found.asked}
    names = list(tokens)
    if st.session_state.get("looks_from") not in names:
        st.session_state.pop("looks_from", None)
    left, middle, right = st.columns([2, 3, 3], gap="medium")
    with left:
        st.image(found.picture, caption="The picture", width="stretch")
        with widgets.guard():
            st.markdown(f"**{widgets.md(text)}** {widgets.md(answer(choice, text, image))}")
    with middle:
        asked = st.selectbox(
            "Token that looks", names, index=len(names) - 1, key="looks_from", bind="query-params"
        )
        at = tokens[asked]
        widgets.figure(found.figure(head, at, dark=dark).update_layout(height=400), key="vision_overlay")
    with right:
        st.caption("Attention on the picture, all heads. Click one.")
        grid = head_grid(
            found.by_head(at), name="attention on the image", limits=(0, 1), selected=head, dark=dark
        )
        widgets.figure(grid, key="vision_grid", on_select=_clicked)
    st.caption("What each layer attends to, mean over its heads.")
    widgets.figure(found.masses_figure(at, dark=dark), key="vision_masses")
    widgets.about(
        "Attention on the image",
        formula="Σ A_ij over the image's pieces j, i the chosen token.",
        higher="more of the head's attention lies on the picture.",
        reference="Bi et al. 2024, arXiv:2412.18108.",
        control="None: looking is not using. Score vhd on Heads, and check it causally there.",
    )
    with widgets.guard():
        _dependence(text, image, dark)


def _dependence(text: str, image: str, dark: bool) -> None:
    choice = state.model()
    said = answer(choice, text, image)
    if not said.strip():
        return
    st.caption(
        "How much each token of the answer depends on the picture: what heads write, with it and without."
    )
    table = dependence(choice, text, image, said)
    widgets.figure(dependence_figure(table, dark=dark), key="vision_dependence")
    widgets.about(
        "T-VHD",
        formula="Σ_l Σ of the 3 largest ‖z with the picture − z without it‖ of layer l, where the token is predicted.",
        higher="more of what the heads write there depends on the picture; not that the token is right.",
        reference="He et al. 2024, arXiv:2412.13949.",
        control="None: compare tokens of one answer.",
    )


def _clicked() -> None:
    head = widgets.clicked_head("vision_grid")
    if head is not None:
        state.select_head(head)


def _export(text: str, image: str) -> None:
    choice, head = state.model(), state.head()
    python = "\n".join(
        [
            "import headscope",
            "from headscope.analysis.vision.gaze import gaze",
            "",
            f"model = headscope.load({choice.name!r})",
            f"found = gaze(model, headscope.Prompt({text!r}, image={image!r}))",
            f"found.figure(headscope.Head{tuple(head)}).show()",
        ]
    )
    command = ["headscope", "generate", "-m", choice.name, "-p", text, "--image", image]
    widgets.copy_as(command=shlex.join(command), python=python)
