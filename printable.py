"""Foreign text as it may be shown: what a terminal or a page would obey, or hide, is written out.

Tokens, prompts, file names and model cards are data. A terminal obeys escape sequences in them, a page lets direction
marks reorder what stands around them, and both show nothing for a letter of no width, which may be what matters.
"""

from __future__ import annotations

import json
import re

# Controls but line feed and tab, soft hyphen, direction marks, separators, letters of no width, lone surrogates, tags.
# The joiners U+200C and U+200D stay: Persian, Indic scripts and emoji are written with them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""Write out control characters, direction marks and invisible letters as Python writes them: `\x1b`, `\u202e`.

    Line feeds and tabs stay; a Windows line end becomes a line feed.

    >>> print(printable("a \x1b]0;title\x07 b"))
    a \x1b]0;title\x07 b
    """
    return _HIDDEN.sub(lambda found: repr(found[0])[1:-1], str(text).replace("\r\n", "\n"))


def printable_json(text: str) -> str:
    """Write the same letters as JSON does, so that the text stays JSON of the same values."""
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text)
