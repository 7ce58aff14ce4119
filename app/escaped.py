"""Foreign text inside Markdown, which is what Streamlit makes of labels, captions and messages."""

from __future__ import annotations

import re

from headscope.printable import printable

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")


def md(text: object) -> str:
    """Escape text for Markdown, so that it is shown as it is: no tags, links, images, formulas or emoji."""
    return _MARKDOWN.sub(r"\\\1", " ".join(printable(text).split()))
