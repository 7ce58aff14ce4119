"""Facts from memory, and the same facts overridden by the context."""

from __future__ import annotations

import random

from ..prompts import Prompt
from .vocabulary import COUNTRIES, RELATIONS
from .writing import Text, filler, until_in_split


def _other(rng: random.Random, relation: str, answer: str) -> str:
    return rng.choice(sorted({v for v in RELATIONS[relation].values() if v != answer}))


def memory(rng: random.Random, split: str) -> Prompt:
    """Ask for a fact that only the weights hold, after filler and sometimes a false statement about another country.

    Every fact is in training; held out are (country, relation, country mentioned beside it) triples.
    """
    country, relation, beside = until_in_split(
        lambda: (
            c := rng.choice(COUNTRIES),
            rng.choice(list(RELATIONS)),
            rng.choice([x for x in COUNTRIES if x != c]),
        ),
        split,
    )
    text = Text()
    lines = [filler(rng) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.4:
        claim = _other(rng, relation, RELATIONS[relation][beside])
        lines.insert(rng.randint(0, len(lines)), f"the {relation} of {beside} {claim} .")
    else:
        lines.insert(rng.randint(0, len(lines)), f"people travelled from {beside} .")
    for line in lines:
        text.add(line)
    text.add(f"question : the {relation} of").add(country, "subject")
    answer = RELATIONS[relation][country]
    return text.prompt(answer, foil=f" {_other(rng, relation, answer)}", label=relation)


def conflict(rng: random.Random, split: str) -> Prompt:
    """State a false fact, then ask for it: the answer is what the context says, the foil what memory says.

    `variants`: `clean` (no statement), `substitution` (one false sentence), `coherent` (a paragraph that agrees with
    it). Spans: `subject` (in the question), `gold` (the context's answer). Held out: (country, relation, false answer).
    """
    country, relation, false = until_in_split(
        lambda: (
            c := rng.choice(COUNTRIES),
            r := rng.choice(list(RELATIONS)),
            _other(rng, r, RELATIONS[r][c]),
        ),
        split,
    )
    question = f"question : the {relation} of"
    coherent = rng.random() < 0.5
    lead, tail = filler(rng), filler(rng)

    def write(paragraph: bool) -> Text:
        text = Text().add(lead)
        text.add(f"the {relation} of {country}").add(false, "gold").add(".")
        if paragraph:
            text.add(f"every year people in {country} say that it is").add(false, "gold").add(".")
        return text.add(tail).add(question).add(country, "subject")

    text = write(coherent)
    truth = RELATIONS[relation][country]
    variants = {
        "clean": f"{question} {country}",
        "substitution": write(False).text,
        "coherent": write(True).text,
    }
    return text.prompt(false, foil=f" {truth}", label=relation, variants=variants)
