"""The needle stands once, where it was asked for, in a text of the length that was asked for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.datasets.needle import needle
from headscope.datasets.words import count_words, word_lists, words_in
from headscope.errors import BadOption, MissingData


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(60, 400),
    depth=st.none() | st.floats(0, 1),
    facts=st.integers(1, 4),
    words=st.integers(1, 4),
)
def test_the_answer_stands_once_and_where_the_span_says(seed, length, depth, facts, words):
    for prompt in needle(2, seed=seed, length=length, depth=depth, facts=facts, words=words):
        assert " " + " ".join(prompt.marked("needle")) == prompt.answer
        assert len(prompt.marked("needle")) == words
        assert prompt.marked("fact")[0].endswith(f"is{prompt.answer}.")
        for word in prompt.answer.split():
            assert len(re.findall(rf"\b{word}\b", prompt.text)) == 1
        assert not words_in(prompt.foil) & words_in(prompt.text)
        assert len(prompt.marked("distractor")) == (facts - 1) * words
        assert prompt.text.count("The code of the") == facts + 1
        owner = re.search(r"What is the code of the (\w+)\?", prompt.text)[1]
        assert prompt.text.count(f"The code of the {owner} is{prompt.answer}.") == 1
        assert prompt.text.endswith(f"The code of the {owner} is")


@given(seed=st.integers(0, 10**6), words=st.integers(1, 3), facts=st.integers(1, 3))
def test_corrupted_differs_only_in_the_needle(seed, words, facts):
    prompt = needle(1, seed=seed, words=words, facts=facts)[0]
    clean, changed = prompt.text.split(), prompt.corrupted.split()
    assert len(clean) == len(changed)
    differ = [(a.strip("."), b.strip(".")) for a, b in zip(clean, changed, strict=True) if a != b]
    assert differ == list(zip(prompt.answer.split(), prompt.foil.split(), strict=True))


@pytest.mark.parametrize("count", [count_words, len, lambda text: len(re.findall(r"\w|\W", text)) // 3])
def test_the_length_is_kept_to_within_a_sentence(count):
    longest = 110 if count is len else 40
    for prompt in needle(11, length=900 if count is len else 300, count=count):
        size = count(prompt.text)
        limit = 900 if count is len else 300
        assert limit - longest < size <= limit


def test_depth_is_the_share_of_the_haystack_before_the_fact():
    prompts = needle(3, length=400, depth=(0, 0.5, 1))
    places = [prompt.spans["fact"][0][0] / prompt.text.index("\n\nQuestion") for prompt in prompts]
    assert places[0] == 0 and abs(places[1] - 0.5) < 0.05 and places[2] > 0.9
    assert [prompt.label for prompt in prompts] == ["depth 0.00", "depth 0.50", "depth 1.00"]


def test_depths_are_spread_evenly_by_default():
    assert {prompt.label for prompt in needle(22)} == {f"depth {i / 10:.2f}" for i in range(11)}


def test_a_seed_fixes_the_prompts_and_more_prompts_do_not_change_the_first():
    assert needle(5, seed=1) == needle(5, seed=1)
    assert needle(5, seed=1).prompts == needle(9, seed=1)[:5].prompts
    assert needle(5, seed=1).digest != needle(5, seed=2).digest
    assert len({prompt.text for prompt in needle(50)}) == 50


def test_the_haystack_can_come_from_a_file_and_its_words_are_never_the_answer(tmp_path):
    path = tmp_path / "book.txt"
    forbidden = word_lists()["values"][:-12]
    path.write_text(" ".join(f"The {value} was\nthere!" for value in forbidden) + " And no more.")
    for prompt in needle(20, length=100, haystack=path, facts=2):
        assert " was there!" in prompt.text
        assert not words_in(prompt.answer + prompt.foil) & set(forbidden)
    with pytest.raises(BadOption, match="and 12 are left; ask for fewer"):
        needle(1, haystack=path, words=7)


def test_generated_sentences_share_no_word_with_the_answers():
    lists = word_lists()
    phrases = " ".join(phrase for part in lists["filler"].values() for phrase in part)
    filler = words_in(f"{phrases} The code of the is Question What Answer")
    assert not filler & set(lists["values"])
    assert not set(lists["owners"]) & (filler | set(lists["values"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 10}, "length=10: the facts and the question alone take"),
        ({"depth": 1.2}, "depth=1.2: expected 0"),
        ({"depth": float("nan")}, "depth=nan"),
        ({"depth": []}, "at least one depth"),
        ({"facts": 0}, "facts=0: expected at least 1"),
        ({"facts": 99}, "facts=99: expected at most 16"),
        ({"words": 60}, "needs 120 different words"),
        ({"n": 0}, "n=0: expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(BadOption, match=re.escape(words)):
        needle(**{"n": 1, **options})


def test_a_haystack_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "book.txt"
    with pytest.raises(MissingData, match=r"book\.txt: No such file"):
        needle(1, haystack=path)
    path.write_text("no sentence here")
    with pytest.raises(MissingData, match="holds no sentence"):
        needle(1, haystack=path)
    path.write_bytes(b"caf\xe9.")
    with pytest.raises(MissingData, match="byte 4 is not UTF-8"):
        needle(1, haystack=path)
