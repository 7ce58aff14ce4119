"""The word lists that the prompt generators draw from."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from ..errors import BadOption


@cache
def word_lists() -> dict[str, Any]:
    """Return the lists shipped in ``words.json``: names, places, objects, owners, values, filler."""
    return json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))


def count_words(text: str) -> int:
    """Measure a text in words; the default where no tokenizer is at hand."""
    return len(text.split())


def stream(generator: str, seed: int, index: int) -> Random:
    """Return the random stream of one prompt, so that the first n prompts do not depend on how many follow."""
    return Random(f"{generator}/{seed}/{index}")


def one_length(words: Sequence[str], count: Callable[[str], int]) -> list[str]:
    """Keep the words of the commonest length, so that exchanging one for another moves no later token.

    >>> one_length(["a", "bb", "cc"], len)
    ['bb', 'cc']
    """
    lengths = [count(f" {word}") for word in words]
    commonest = max(Counter(lengths).items(), key=lambda item: (item[1], -item[0]))[0]
    return [word for word, length in zip(words, lengths, strict=True) if length == commonest]


def words_in(text: str) -> set[str]:
    """Return the lower-case words of a text."""
    return set(re.findall(r"\w+", text.lower()))


def at_least(name: str, value: int, least: int) -> None:
    """Refuse an option below its smallest sensible value."""
    if value < least:
        raise BadOption(f"{name}={value}: expected at least {least}")
