"""Indirect object identification: of two names, the one that is not repeated comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import BadOption
from .prompts import Prompt, PromptSet
from .words import at_least, one_length, stream, word_lists

TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "After {first} and {second} came to the {place}, {giver} handed a {thing} to",
    "While {first} and {second} were at the {place}, {giver} passed a {thing} to",
    "Then {first} and {second} met at the {place}, and {giver} offered a {thing} to",
)


def ioi(
    n: int,
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    third: bool = False,
    count: Callable[[str], int] | None = None,
) -> PromptSet:
    """Make prompts such as ``When Mary and John went to the store, John gave a drink to`` with answer `` Mary``.

    Prompts are ABBA (the indirect object stands first) and BABA in turn; the label says which. ``corrupted`` differs
    in one word, the second mention of the subject: the indirect object's name stands there, so that the foil is right,
    or, with ``third``, a name from outside, so that neither is. Spans: ``io``, ``subject`` (both mentions) and
    ``subject_again`` (the second one).

    Args:
        n: Number of prompts.
        seed: Same seed, same prompts; the first prompts do not depend on n.
        names: Names to draw from; by default, those shipped.
        third: Corrupt with a third name.
        count: Length of a text in tokens. With it, only names of the commonest length are used, so that a corrupted
            prompt has the same number of tokens.

    Raises:
        BadOption: Fewer than three different names are left.

    Reference: Wang et al. 2022, arXiv:2211.00593, whose task this is; the sentences are our own.

    >>> prompt = ioi(1, seed=0)[0]
    >>> prompt.marked("io")[0] == prompt.answer.strip(), prompt.marked("subject")[1] == prompt.foil.strip()
    (True, True)
    """
    at_least("n", n, 1)
    lists = word_lists()
    pool = list(dict.fromkeys(lists["names"] if names is None else names))
    if count is not None and pool:
        pool = one_length(pool, count)
    if len(pool) < 3:
        raise BadOption(f"names: {len(pool)} different names of one length are left, expected at least 3")
    made = []
    for index in range(n):
        random = stream("ioi", seed, index)
        io, subject, outside = random.sample(pool, 3)
        abba = index % 2 == 0
        values = {
            "first": io if abba else subject,
            "second": subject if abba else io,
            "giver": subject,
            "place": random.choice(lists["places"]),
            "thing": random.choice(lists["objects"]),
        }
        text, where = _fill(random.choice(TEMPLATES), values)
        giver = where["giver"]
        spans = {
            "io": (where["first" if abba else "second"],),
            "subject": (where["second" if abba else "first"], giver),
            "subject_again": (giver,),
        }
        corrupted = text[: giver[0]] + (outside if third else io) + text[giver[1] :]
        made.append(Prompt(text, f" {io}", f" {subject}", corrupted, spans, "ABBA" if abba else "BABA"))
    return PromptSet("ioi", tuple(made))


def _fill(template: str, values: dict[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """Fill a template from left to right and note where each value came to stand."""
    text, where = "", {}
    for piece in template.replace("}", "{").split("{"):
        if piece in values:
            where[piece] = (len(text), len(text) + len(values[piece]))
        text += values.get(piece, piece)
    return text, where
