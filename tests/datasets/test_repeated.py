"""Repeated random words: the copies agree, and the corruption breaks exactly one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.datasets.repeated import repeated
from headscope.errors import BadOption


@given(seed=st.integers(0, 10**6), length=st.integers(2, 30), times=st.integers(2, 4))
def test_every_copy_is_the_first_one_and_the_answer_ends_the_last(seed, length, times):
    prompt = repeated(1, seed=seed, length=length, times=times)[0]
    words = (prompt.text + prompt.answer).split()
    assert len(words) == length * times and len(set(words)) == length
    assert words == words[:length] * times
    assert prompt.marked("first")[0].split() == words[:length]
    assert prompt.marked("repeat")[0].split() == words[length:-1]
    assert prompt.marked("target")[0] == prompt.answer.strip()
    assert len(prompt.text[: prompt.spans["target"][0][0]].split()) == length * (times - 1) - 1


@given(seed=st.integers(0, 10**6))
def test_corrupted_differs_only_in_the_target(seed):
    prompt = repeated(1, seed=seed)[0]
    pairs = zip(prompt.text.split(), prompt.corrupted.split(), strict=True)
    assert [(a, b) for a, b in pairs if a != b] == [(prompt.answer.strip(), prompt.foil.strip())]
    assert prompt.foil.strip() not in prompt.text.split()


def test_token_strings_are_joined_as_they_are():
    prompt = repeated(1, length=3, words=[" a", "b", " cc", "d"], separator="")[0]
    first = prompt.marked("first")[0]
    assert prompt.text + prompt.answer == first * 2
    assert prompt.text == first + prompt.marked("repeat")[0]


def test_a_seed_fixes_the_prompts_and_more_prompts_do_not_change_the_first():
    assert repeated(6, seed=1) == repeated(6, seed=1)
    assert repeated(6, seed=1).prompts == repeated(9, seed=1)[:6].prompts
    assert repeated(6, seed=1).digest != repeated(6, seed=2).digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 1}, "length=1: expected at least 2"),
        ({"times": 1}, "times=1: expected at least 2"),
        ({"length": 4, "words": ["a", "b", "a", "c", "d"]}, "needs 5 different words, and there are 4"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(BadOption, match=words):
        repeated(1, **options)
