"""The Vision page on a random model that sees: pictures, tokens, heads, and what is said of what cannot be shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from headscope.analysis.examples import example_images
from headscope.analysis.uploads import uploaded_image
from headscope.errors import BadImage


@pytest.fixture
def opened(open_page: Callable[..., AppTest], model_folder) -> Callable[..., AppTest]:
    return lambda **address: open_page("vision", model=model_folder("llava"), prompt="the cat saw", **address)


def test_a_text_model_has_no_image_to_attend_to(open_page: Callable[..., AppTest]):
    at = open_page("vision")
    assert not at.exception and not at.error
    assert "reads text only" in at.info[0].value


def test_a_picture_the_answer_and_all_heads_are_shown(opened):
    at = opened()
    assert not at.exception and not at.error
    assert at.selectbox(key="picture").options[:2] == list(example_images())[:2]
    assert at.selectbox(key="looks_from").value == "19: saw"
    charts = [one.key for one in at.get("plotly_chart")]
    assert len(charts) == 4
    assert "How much each token of the answer depends on the picture" in at.caption[-1].value


def test_an_address_shows_its_picture_token_and_head(opened):
    name = list(example_images())[5]
    at = opened(picture=name, looks_from="18: cat", layer=2, head=3)
    assert not at.exception and not at.error
    assert at.selectbox(key="picture").value == name and at.selectbox(key="looks_from").value == "18: cat"
    assert "L2H3 at 'cat'" in str(at.get("plotly_chart")[0].proto.spec) + str(at.get("plotly_chart")[0].proto)


def test_a_wrong_picture_in_the_address_is_said_and_another_shown(opened):
    at = opened(picture="nowhere")
    assert not at.exception and "nowhere" in at.warning[0].value
    assert at.selectbox(key="picture").value == next(iter(example_images()))


def test_an_own_picture_is_asked_for(opened):
    at = opened(picture="my own picture")
    assert not at.exception and "Upload a picture" in at.info[0].value


def test_an_upload_is_decoded_and_kept_as_a_picture_only(tmp_path: Path):
    source = tmp_path / "given.bmp"
    Image.new("RGB", (3000, 10), "red").save(source)
    kept = Path(uploaded_image("../../x.bmp", source.read_bytes(), tmp_path))
    assert kept.parent == tmp_path and kept.suffix == ".png"
    assert Image.open(kept).size[0] == 2048
    assert uploaded_image("y.bmp", source.read_bytes(), tmp_path) == str(kept)
    with pytest.raises(BadImage, match=r"evil.png: the upload is not an image"):
        uploaded_image("a/evil.png", b"<script>alert(1)</script>", tmp_path)
    with pytest.raises(BadImage, match="at most 0.001 MB"):
        uploaded_image("large.png", b"x" * 2000, tmp_path, max_mb=0.001)
