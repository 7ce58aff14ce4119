"""Needle in a haystack: one fact to be copied out of a long text."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ..errors import BadOption, MissingData
from .plain import plain
from .prompts import Prompt, PromptSet
from .words import at_least, count_words, stream, word_lists, words_in

QUESTION = "\n\nQuestion: What is the code of the {owner}?\nAnswer: The code of the {owner} is"


def needle(
    n: int,
    *,
    seed: int = 0,
    length: int = 120,
    depth: float | Sequence[float] | None = None,
    facts: int = 1,
    words: int = 2,
    haystack: str | os.PathLike[str] | None = None,
    count: Callable[[str], int] = count_words,
) -> PromptSet:
    """Make prompts that hide ``The code of the OWNER is WORDS.`` in a text and ask for it at the end.

    The answer's words stand in the prompt once, and nowhere else. ``corrupted`` is the same prompt with ``foil`` in the
    answer's place, so that there the foil is right. Spans: ``needle``, the answer's words in the fact; ``fact``, the
    whole sentence; ``distractor``, the words of the other facts.

    Args:
        n: Number of prompts.
        seed: Same seed, same prompts; the first prompts do not depend on n.
        length: Longest prompt, in units of ``count``; each prompt stays below it by less than a sentence.
        depth: Where the fact stands, 0 at the beginning and 1 at the end of the haystack; several are used in turn.
            By default 0, 0.1, ... 1 in turn.
        facts: Number of facts in the text; one of them is asked for.
        words: Number of words of an answer.
        haystack: A UTF-8 text file to take sentences from; without it, sentences are generated.
        count: Measures a text; pass ``lambda text: len(tokenizer(text).input_ids)`` to measure in tokens.

    Raises:
        BadOption: An option is out of range, or ``length`` has no room for the facts and the question.
        MissingData: The haystack file cannot be read or has no sentence.

    >>> prompt = needle(1, seed=3)[0]
    >>> " " + " ".join(prompt.marked("needle")) == prompt.answer
    True
    """
    lists = word_lists()
    for name, value in (("n", n), ("facts", facts), ("words", words)):
        at_least(name, value, 1)
    if facts > len(lists["owners"]):
        raise BadOption(f"facts={facts}: expected at most {len(lists['owners'])}, the number of owners")
    depths = _depths(depth)
    sentences = None if haystack is None else _sentences(haystack)
    taken = set() if sentences is None else words_in(" ".join(sentences))
    free = [value for value in lists["values"] if value not in taken]
    if len(free) < (facts + 1) * words:
        raise BadOption(
            f"words={words}, facts={facts}: needs {(facts + 1) * words} different words that the haystack lacks, "
            f"and {len(free)} are left; ask for fewer"
        )
    made = []
    for index in range(n):
        random = stream("needle", seed, index)
        owners = random.sample(lists["owners"], facts)
        drawn = random.sample(free, (facts + 1) * words)
        values = [" ".join(drawn[i * words : (i + 1) * words]) for i in range(facts + 1)]
        filler = _generated(random) if sentences is None else _from(sentences, random)
        plan = _Plan(owners, values[:-1], depths[index % len(depths)], [random.random() for _ in owners[1:]])
        made.append(plan.prompt(filler, foil=values[-1], length=length, count=count))
    return PromptSet("needle", tuple(made))


@dataclass(frozen=True)
class _Plan:
    owners: list[str]  # the first one is asked for
    values: list[str]
    depth: float
    other_depths: list[float]

    def prompt(self, filler: Iterator[str], *, foil: str, length: int, count: Callable[[str], int]) -> Prompt:
        room = length - count(self.text([])[0])
        hay: list[str] = []
        while (size := count(sentence := next(filler))) <= room:
            hay.append(sentence)
            room -= size
        while hay and count(self.text(hay)[0]) > length:
            hay.pop()
        text, starts = self.text(hay)
        if (least := count(text)) > length:
            raise BadOption(f"length={length}: the facts and the question alone take {least}; give more")
        spans = {
            "needle": _pieces(text, starts[0], self.values[0]),
            "fact": (
                (
                    starts[0] - len(self.fact(0)) + len(self.values[0]) + 1,
                    starts[0] + len(self.values[0]) + 1,
                ),
            ),
        }
        others = itertools.chain.from_iterable(
            _pieces(text, start, value) for start, value in zip(starts[1:], self.values[1:], strict=True)
        )
        if len(self.owners) > 1:
            spans["distractor"] = tuple(sorted(others))
        corrupted = text[: starts[0]] + foil + text[starts[0] + len(self.values[0]) :]
        label = f"depth {self.depth:.2f}"
        return Prompt(text, f" {self.values[0]}", f" {foil}", corrupted, spans, label)

    def fact(self, index: int) -> str:
        return f"The code of the {self.owners[index]} is {self.values[index]}."

    def text(self, hay: list[str]) -> tuple[str, list[int]]:
        """Put the facts between the sentences; return the text and where each fact's value starts."""
        depths = [self.depth, *self.other_depths]
        after = [round(depth * len(hay)) for depth in depths]  # how many sentences come before each fact
        pieces: list[tuple[int, str]] = []
        for place in range(len(hay) + 1):
            pieces += [(i, self.fact(i)) for i in range(len(self.owners)) if after[i] == place]
            if place < len(hay):
                pieces.append((-1, hay[place]))
        starts = [0] * len(self.owners)
        at = 0
        for owner, piece in pieces:
            if owner >= 0:
                starts[owner] = at + len(piece) - 1 - len(self.values[owner])
            at += len(piece) + 1
        return " ".join(piece for _, piece in pieces) + QUESTION.format(owner=self.owners[0]), starts


def _pieces(text: str, start: int, value: str) -> tuple[tuple[int, int], ...]:
    """Return one span per word of a value; the spaces between belong to no span."""
    return tuple((start + word.start(), start + word.end()) for word in re.finditer(r"\S+", value))


def _depths(depth: float | Sequence[float] | None) -> list[float]:
    depths = (
        [i / 10 for i in range(11)]
        if depth is None
        else [depth]
        if isinstance(depth, int | float)
        else [*depth]
    )
    for value in depths:
        if not 0 <= value <= 1:
            raise BadOption(f"depth={value}: expected 0 (the beginning) to 1 (the end)")
    if not depths:
        raise BadOption("depth=[]: expected at least one depth from 0 to 1")
    return depths


def _generated(random: Random) -> Iterator[str]:
    filler = word_lists()["filler"]
    while True:
        yield f"{random.choice(filler['opening'])}, {random.choice(filler['subject'])} {random.choice(filler['verb'])}."


def _from(sentences: list[str], random: Random) -> Iterator[str]:
    start = random.randrange(len(sentences))
    return itertools.cycle(sentences[start:] + sentences[:start])


def _sentences(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = plain(Path(path)).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MissingData(
            f"{path}: byte {error.start + 1} is not UTF-8; save the haystack as UTF-8"
        ) from None
    except OSError as error:
        raise MissingData(f"{path}: {error.strerror or error}; haystack needs a text file") from error
    sentences = re.findall(r"[^.!?]+[.!?]+", " ".join(text.split()))
    if not sentences:
        raise MissingData(f"{path} holds no sentence that ends in . ! or ?; haystack needs plain text")
    return [sentence.strip() for sentence in sentences]
