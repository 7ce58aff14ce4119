"""Indirect object identification: both orders, marked names, and corruption in one word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.datasets.ioi import ioi
from headscope.datasets.words import word_lists
from headscope.errors import BadOption


@given(seed=st.integers(0, 10**6), third=st.booleans())
def test_corrupted_differs_only_in_the_second_mention_of_the_subject(seed, third):
    for prompt in ioi(2, seed=seed, third=third):
        clean, changed = prompt.text.split(), prompt.corrupted.split()
        differ = [(a, b) for a, b in zip(clean, changed, strict=True) if a != b]
        subject, io = prompt.foil.strip(), prompt.answer.strip()
        assert len(differ) == 1 and differ[0][0] == subject
        assert (differ[0][1] == io) is not third
        assert prompt.marked("io") == (io,)
        assert prompt.marked("subject") == (subject, subject)
        assert prompt.marked("subject_again") == (subject,)
        assert prompt.spans["subject_again"][0] == prompt.spans["subject"][1]
        assert prompt.text.count(io) == 1 and prompt.text.endswith(" to")


def test_both_orders_come_in_turn_and_the_label_says_which():
    for index, prompt in enumerate(ioi(8)):
        io_first = prompt.spans["io"][0] < prompt.spans["subject"][0]
        assert prompt.label == ("ABBA" if io_first else "BABA")
        assert io_first == (index % 2 == 0)


def test_a_seed_fixes_the_prompts_and_more_prompts_do_not_change_the_first():
    assert ioi(6, seed=1) == ioi(6, seed=1)
    assert ioi(6, seed=1).prompts == ioi(9, seed=1)[:6].prompts
    assert ioi(6, seed=1).digest != ioi(6, seed=2).digest


def test_count_keeps_names_of_one_length():
    prompts = ioi(40, names=["Al", "Bo", "Cy", "Alexander"], count=len)
    assert not any("Alexander" in prompt.text + prompt.corrupted for prompt in prompts)
    assert all(len(prompt.text) == len(prompt.corrupted) for prompt in prompts)


def test_too_few_names_are_refused():
    with pytest.raises(BadOption, match="2 different names"):
        ioi(1, names=["Ann", "Bob", "Ann"])
    with pytest.raises(BadOption, match="0 different names"):
        ioi(1, names=[], count=len)


def test_no_shipped_name_is_part_of_another_word_of_the_prompts():
    lists = word_lists()
    assert len(set(lists["names"])) == len(lists["names"])
    assert not set(lists["names"]) & {word.title() for word in lists["places"] + lists["objects"]}
