"""Random words, repeated: what an induction head is measured on."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BadOption
from .prompts import Prompt, PromptSet
from .words import at_least, stream, word_lists


def repeated(
    n: int,
    *,
    seed: int = 0,
    length: int = 16,
    times: int = 2,
    words: Sequence[str] | None = None,
    separator: str = " ",
) -> PromptSet:
    """Make prompts of ``length`` random words, repeated; the last word of the last copy is left out as the answer.

    No word stands twice within a copy. ``corrupted`` differs in one word: where the answer stands in the copy before
    the last, the foil stands instead. Spans: ``first``, the first copy; ``repeat``, all that follows it; ``target``,
    the word that an induction head at the end attends to.

    Args:
        n: Number of prompts.
        seed: Same seed, same prompts; the first prompts do not depend on n.
        length: Number of words in a copy.
        times: Number of copies, the last one without its last word.
        words: What to draw from; by default, the words shipped. With token strings that carry their own spaces, pass
            ``separator=""``.
        separator: What stands between two words.

    Raises:
        BadOption: There are too few different words for ``length``, or an option is out of range.

    >>> prompt = repeated(1, length=3, words=["a", "b", "c", "d"])[0]
    >>> len(prompt.text.split()), prompt.marked("target")[0] == prompt.answer.strip()
    (5, True)
    """
    for name, value, least in (("n", n, 1), ("length", length, 2), ("times", times, 2)):
        at_least(name, value, least)
    pool = list(dict.fromkeys(word_lists()["values"] if words is None else words))
    if len(pool) < length + 1:
        raise BadOption(f"length={length}: needs {length + 1} different words, and there are {len(pool)}")
    made = []
    for index in range(n):
        *copy, foil = stream("repeated", seed, index).sample(pool, length + 1)
        answer = copy[-1]
        sequence = (copy * times)[:-1]
        starts = [0]
        for word in sequence:
            starts.append(starts[-1] + len(word) + len(separator))
        text = separator.join(sequence)
        target = length * (times - 1) - 1
        span = (starts[target], starts[target] + len(answer))
        spans = {
            "first": ((0, starts[length] - len(separator)),),
            "repeat": ((starts[length], len(text)),),
            "target": (span,),
        }
        corrupted = text[: span[0]] + foil + text[span[1] :]
        made.append(Prompt(text, separator + answer, separator + foil, corrupted, spans))
    return PromptSet("repeated", tuple(made))
