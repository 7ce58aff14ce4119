"""T-VHD token by token: the scores behind it, a token copied from text beside one read off the image, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headscope.analysis.methods.vhd import token_divergence
from headscope.analysis.score import score
from headscope.analysis.vision.dependence import dependence_figure, token_dependence
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import MissingData
from headscope.hooks.generate import generate
from headscope.hooks.load import load

SCENE = "scene:3:red-triangle@0,green-moon@4,blue-ring@8"


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


def test_a_tokens_row_is_the_sum_of_its_layers_largest_divergences(llava):
    prompt = Prompt("the cat saw", answer=" a dog", image=SCENE)
    found = token_dependence(llava, [prompt, replace(prompt, answer=" dog")], k=2)
    assert found.token.str.strip().tolist() == ["a", "dog", "dog"]
    assert found.prompt.tolist() == [0, 0, 1] and found.position.tolist() == [0, 1, 0]
    # The first token of the answer: both rows and the score at the prompt's last token.
    first = score(llava, "vhd", PromptSet("one", (prompt,))).samples[0]
    assert found.t_vhd[[0, 2]].tolist() == pytest.approx([token_divergence(first, 2)] * 2, abs=1e-4)
    # The second: the score of the prompt that holds the first.
    longer = PromptSet("one", (replace(prompt, text="the cat saw a", answer=""),))
    assert found.t_vhd[1] == pytest.approx(
        token_divergence(score(llava, "vhd", longer).samples[0], 2), abs=1e-4
    )


def test_without_an_answer_the_models_own_is_measured(llava):
    prompt = Prompt("the cat saw", image=SCENE)
    own = generate(llava, [prompt], max_new_tokens=4)[0].text
    found = token_dependence(llava, [prompt], max_new_tokens=4)
    assert "".join(found.token.str.strip()) == own.replace(" ", "")
    bars = dependence_figure(found, dark=True).data[0]
    assert len(bars.y) == len(found) and np.allclose(sorted(bars.x), sorted(found.t_vhd))


def test_colors_and_shapes_depend_on_the_image_more_than_the_words_between_them():
    model = load("organism/vision")
    prompt = Prompt(
        "describe the scene :", answer=" a red triangle and a green moon and a blue ring", image=SCENE
    )
    found = token_dependence(model, [prompt]).assign(word=lambda t: t.token.str.strip())
    means = found.groupby(found.word.isin(["a", "and"])).t_vhd.mean()
    assert means[False] > 1.5 * means[True]


def test_a_prompt_without_an_image_is_named(llava):
    with pytest.raises(MissingData, match=r"prompt 1 \('the cat'\) has no image"):
        token_dependence(llava, [Prompt("the", image=SCENE), Prompt("the cat")])
