"""Facts in conflict with the context: three forms of every item, and which side is right."""

from __future__ import annotations

import re

import pytest

from headscope.datasets.conflict import FORMS, as_form, conflict, swap_answers
from headscope.datasets.lexicon import entities, lexicon
from headscope.datasets.skills.vocabulary import words as organism_words
from headscope.errors import BadOption, MissingData

BOTH = pytest.mark.parametrize("words", ["english", "organism"])
N = 30


def _item(prompt, book):
    relation = prompt.label.split("relation=")[1]
    country = prompt.marked("subject")[0]
    return country, relation, book.facts[relation][country]


@BOTH
def test_memory_holds_the_fact_and_the_context_another_value(words):
    book = lexicon(words)
    for prompt in conflict(N, words=words, target="memory"):
        _, relation, truth = _item(prompt, book)
        assert prompt.answer.strip() == truth
        assert prompt.foil.strip() in book.facts[relation].values() and prompt.foil.strip() != truth
        assert set(prompt.marked("gold")) == {prompt.foil.strip()}


@BOTH
def test_only_the_conflicting_forms_state_the_false_value(words):
    for prompt in conflict(N, words=words):
        told = {form: re.findall(r"\w+", prompt.variants[form]) for form in FORMS}
        counts = {form: words.count(prompt.answer.strip()) for form, words in told.items()}
        assert counts == {"clean": 0, "substitution": 1, "coherent": 2}
        assert prompt.foil.strip() not in told["coherent"]
        assert len({prompt.variants[form].splitlines()[-1].split()[-1] for form in FORMS}) == 1


@BOTH
def test_countries_of_one_split_are_never_asked_in_the_other(words):
    countries = list(lexicon(words).facts["capital"])
    for split in ("train", "test"):
        asked = {prompt.marked("subject")[0] for prompt in conflict(80, words=words, split=split)}
        assert asked <= set(entities(countries, split)) and len(asked) > 8
    assert not set(entities(countries, "train")) & set(entities(countries, "test"))


def test_the_organism_reads_every_word():
    known = set(organism_words())
    for prompt in conflict(N, words="organism", wording="is"):
        assert {word for text in prompt.variants.values() for word in text.split()} <= known
        assert len(prompt.corrupted.split()) == len(prompt.text.split())


@BOTH
def test_neither_answer_is_right_in_the_corrupted_text(words):
    book = lexicon(words)
    for prompt in conflict(N, words=words):
        country, _, truth = _item(prompt, book)
        assert prompt.corrupted and prompt.corrupted != prompt.text
        told = set(re.findall(r"\w+", prompt.corrupted))
        assert country not in told and truth not in told and prompt.answer.strip() not in told


@BOTH
def test_others_are_told_of_in_every_form_alike_and_neither_answer_stands_in_them(words):
    book = lexicon(words)
    plain = conflict(N, words=words)
    for before, prompt in zip(plain, conflict(N, words=words, others=5), strict=True):
        country, relation, truth = _item(prompt, book)
        assert _item(before, book) == (country, relation, truth) and before.answer == prompt.answer
        phrase = book.wording(None)
        said = [
            (who, value)
            for who in book.facts[relation]
            for value in book.facts[relation].values()
            if f"{phrase.format(kind=relation, who=who)} {value}{book.stop}" in prompt.variants["clean"]
        ]
        told = dict(said)
        assert len(told) == 5 and country not in told
        assert not {truth, prompt.answer.strip()} & set(told.values())
        assert all(value != book.facts[relation][who] for who, value in told.items())
        for form in FORMS[1:]:
            text = prompt.variants[form]
            places = [text.index(phrase.format(kind=relation, who=who)) for who in (*told, country)]
            assert sum(place < places[-1] for place in places[:-1]) == 2, (
                "two before the statement, three behind"
            )
        assert prompt.corrupted and truth not in re.findall(r"\w+", prompt.corrupted)
        assert len(prompt.corrupted.split()) == len(prompt.text.split())
    assert conflict(2, words=words, others=0)[1] == plain[1]
    for wrong in (-1, 200):
        with pytest.raises(BadOption, match="others"):
            conflict(1, words=words, others=wrong)


def test_a_set_can_be_had_in_one_form_and_with_answers_exchanged():
    made = conflict(4, words="organism")
    clean = as_form(made, "clean")
    assert [prompt.text for prompt in clean] == [prompt.variants["clean"] for prompt in made]
    assert all(prompt.label.startswith("form=clean, relation=") and not prompt.spans for prompt in clean)
    assert [prompt.answer for prompt in swap_answers(made)] == [prompt.foil for prompt in made]
    with pytest.raises(MissingData, match="no variant 'cleen'.*clean"):
        as_form(made, "cleen")


def test_forms_and_targets_take_turns_and_wrong_ones_are_named():
    assert [prompt.label.split(",")[0] for prompt in conflict(3, forms=FORMS)] == [
        f"form={form}" for form in FORMS
    ]
    for options in ({"target": "truth"}, {"forms": ["clear"]}, {"relations": ["river"]}, {"forms": []}):
        with pytest.raises(BadOption, match=next(iter(options))):
            conflict(1, **options)
