"""Facts that a model may know, and contexts that contradict them: by a sentence, or by a whole paragraph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal, NamedTuple

from ..errors import BadOption, MissingData, nearest
from .documents import untrained
from .lexicon import Lexicon, entities, lexicon
from .prompts import PromptSet
from .skills.writing import Text
from .words import at_least, count_words, stream

FORMS = ("clean", "substitution", "coherent")


class _Item(NamedTuple):
    country: str
    relation: str
    false: str


def conflict(
    n: int,
    *,
    seed: int = 0,
    split: str = "test",
    target: Literal["context", "memory"] = "context",
    forms: Sequence[str] = ("substitution", "coherent"),
    relations: Sequence[str] | None = None,
    wording: str | None = None,
    others: int = 0,
    words: str = "english",
    count: Callable[[str], int] = count_words,
) -> PromptSet:
    """State a false fact about a country, then ask for it.

    `variants` holds all three forms of an item: `clean` (no statement, the same surroundings), `substitution` (one
    false sentence) and `coherent` (the sentence and another that agrees). `text` is one of them, those of `forms` in
    turn; `as_form` gives a whole set in one form. `corrupted` is `text` about another country with another false value,
    of as many units of `count` each, where there are such; neither answer is right there. Spans, of `text`: `subject`,
    the country in the question; `gold`, the false value where the context states it. `label` reads
    `form=substitution, relation=capital`.

    Args:
        n: Number of items.
        seed: Same seed, same prompts; the first prompts do not depend on n.
        split: `train` or `test`: a country of one never occurs in the other.
        target: Whose answer is `answer`: what the context says, or what is true and `memory` may hold. `foil` is the
            other one.
        forms: Forms of `text`, used in turn.
        relations: Of `capital`, `language`, `continent`; by default all.
        wording: How the false fact is stated: in the organism's words, `bare` (it goes by the context nearly always) or
            `is` (about half of the time).
        others: How many other countries are told of, in every form alike, each by one false sentence of the same
            wording; half of them before the statement and half behind it. They make it harder to go by the context,
            and, many of them, to go by memory; neither answer stands in them.
        words: `english` or `organism`, see `lexicon`.
        count: Measures a text; pass `lambda text: len(tokenizer(text).input_ids)` for `corrupted` to have as many
            tokens as `text`.

    Raises:
        BadOption: An option is not one of its choices.

    >>> item = conflict(1, target="memory", relations=["capital"])[0]
    >>> sorted(item.variants), item.foil.strip() in item.text, item.answer.strip() in item.text
    (['clean', 'coherent', 'substitution'], True, False)
    """
    at_least("n", n, 1)
    at_least("others", others, 0)
    book = lexicon(words)
    phrase = book.wording(wording)
    for name, given, known in (
        ("target", [target], ("context", "memory")),
        ("forms", list(forms), FORMS),
        ("relations", list(book.facts if relations is None else relations), tuple(book.facts)),
    ):
        for one in given:
            if one not in known:
                raise BadOption(f"{name}={one!r}: there is no such choice.{nearest(one, known)}")
        if not given:
            raise BadOption(f"{name} is empty; give at least one of {', '.join(known)}")
    asked = list(book.facts if relations is None else relations)
    countries = entities(list(next(iter(book.facts.values()))), split)
    if others > len(countries) - 2:
        raise BadOption(
            f"others={others}: {words} words have {len(countries)} countries in {split}, so at most "
            f"{len(countries) - 2} can be told of beside two that are asked for"
        )
    made = []
    for index in range(n):
        rng = stream(f"conflict/{split}", seed, index)

        def draw(rng=rng) -> tuple[str, ...]:
            country, relation = rng.choice(countries), rng.choice(asked)
            truth = book.facts[relation][country]
            return country, relation, rng.choice(sorted(set(book.facts[relation].values()) - {truth}))

        country, relation, false = untrained(book, draw)
        around = (book.filler(rng), book.filler(rng))
        item = _Item(country, relation, false)
        form = forms[index % len(forms)]
        other = _other(rng, book, item, countries, count)
        if others:
            drawn = stream(f"conflict/others/{split}", seed, index)
            around = _surround(book, _told(drawn, book, item, other, countries, others), around, phrase)
        texts = {form: _write(book, form, item, around, phrase) for form in FORMS}
        truth = book.facts[relation][country]
        answer, foil = (false, truth) if target == "context" else (truth, false)
        made.append(
            texts[form].prompt(
                answer,
                foil=f" {foil}",
                corrupted=_write(book, form, other, around, phrase).text if other else "",
                label=f"form={form}, relation={relation}",
                variants={form: text.text for form, text in texts.items()},
            )
        )
    return PromptSet(f"conflict-{words}-{split}-{seed}", tuple(made))


def as_form(prompts: PromptSet, form: str) -> PromptSet:
    """Return the same items with another of their variants as the text, without the spans of the old text.

    Raises:
        MissingData: A prompt has no such variant.
    """
    made = []
    for index, prompt in enumerate(prompts):
        if form not in prompt.variants:
            raise MissingData(
                f"{prompts.name}[{index}] ({prompt.text[:40]!r}) has no variant {form!r}."
                f"{nearest(form, prompt.variants) if prompt.variants else ' It has none at all.'}"
            )
        label = ", ".join(
            f"form={form}" if part.startswith("form=") else part for part in prompt.label.split(", ")
        )
        made.append(replace(prompt, text=prompt.variants[form], spans={}, corrupted="", label=label))
    return PromptSet(f"{prompts.name}-{form}", tuple(made))


def swap_answers(prompts: PromptSet) -> PromptSet:
    """Return the same items with answer and foil exchanged: what counted as wrong is now asked for."""
    swapped = (replace(prompt, answer=prompt.foil, foil=prompt.answer) for prompt in prompts)
    return PromptSet(f"{prompts.name}-swapped", tuple(swapped))


def _other(
    rng: Random, book: Lexicon, item: _Item, countries: Sequence[str], count: Callable[[str], int]
) -> _Item | None:
    """Draw another country and another value, of the same lengths; None where there is none."""
    facts = book.facts[item.relation]
    truth = facts[item.country]
    alike = [
        one for one in countries if one != item.country and count(f" {one}") == count(f" {item.country}")
    ]
    rng.shuffle(alike)
    for country in alike:
        values = sorted(set(facts.values()) - {truth, item.false, facts[country]})
        if values := [one for one in values if count(f" {one}") == count(f" {item.false}")]:
            return _Item(country, item.relation, rng.choice(values))
    return None


def _told(
    rng: Random, book: Lexicon, item: _Item, other: _Item | None, countries: Sequence[str], n: int
) -> list[_Item]:
    """Draw countries that nobody asks for, each with a false value that neither is nor is said to be the item's."""
    facts = book.facts[item.relation]
    asked = {item.country, other.country if other else ""}
    found = []
    for country in rng.sample([one for one in countries if one not in asked], n):
        values = sorted(set(facts.values()) - {facts[item.country], item.false, facts[country]})
        found.append(_Item(country, item.relation, rng.choice(values)))
    return found


def _surround(book: Lexicon, told: Sequence[_Item], around: tuple[str, str], phrase: str) -> tuple[str, str]:
    """Put half of what is told of others before the statement, behind the first sentence, and half before the last."""
    said = [f"{phrase.format(kind=kind, who=who)} {value}{book.stop}" for who, kind, value in told]
    half = len(said) // 2
    return " ".join([around[0], *said[:half]]), " ".join([*said[half:], around[1]])


def _write(book: Lexicon, form: str, item: _Item, around: tuple[str, str], phrase: str) -> Text:
    country, relation, false = item
    blank = book.stop[: -len(book.stop.strip())]
    text = Text().add(around[0])
    if form != "clean":
        text.add(phrase.format(kind=relation, who=country)).add(false, "gold").add(
            book.stop.strip(), sep=blank
        )
    if form == "coherent":
        before, after = book.agree.format(who=country, value="|").split("|")
        text.add(before.strip()).add(false, "gold")
        text.add(after, sep="").add(book.stop.strip(), sep=blank)
    text.add(around[1])
    before, after = book.ask_world.rsplit("{who}", 1)
    text.add(before.strip().format(kind=relation, who=country), sep=book.line)
    return text.add(country, "subject").add(after, sep="")
