"""Reads the package's docstrings as Markdown: labelled lines become paragraphs, examples become blocks of code.

A method's docstring has fixed parts, each a line such as `Direction: ...`, some continued on indented lines. Read as
Google style they would be boxes or run together; here each is a paragraph with its label in bold.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTIONS = {"Args", "Attributes", "Returns", "Yields", "Raises", "Examples"}
_LABEL = re.compile(r"([A-Z][A-Za-z-]*(?: [a-z]+){0,3}):(?: (\S.*))?")
_SHARED = re.compile(r"^    (\w+(?:, \w+)+):( .*\n?(?:^     .*\n?)*)", flags=re.M)
_PAPER = re.compile(r"\barXiv:(\d{4}\.\d{5})")


class Docstrings(griffe.Extension):
    """Changes every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring in which labelled lines are paragraphs, examples are fenced, and papers are links."""
    out: list[str] = []
    within, fenced = "", False  # a section, the paragraph of a label, or neither
    text = _SHARED.sub(_one_by_one, text)
    for line in text.splitlines():
        if fenced and not line.strip():
            out.append("```")
            fenced = False
        elif line.startswith(">>>") and not fenced:
            out += ["", "```pycon"]
            fenced = True
        label = None if fenced else _LABEL.fullmatch(line)
        if label and label[1] in SECTIONS and not label[2]:
            within = "section"
        elif label:
            within = "label"
            out += ["", f"**{label[1]}:** {label[2] or ''}".rstrip()]
            continue
        elif line and not line.startswith(" "):
            within = ""
        out.append(line.strip() if within == "label" and not line.lstrip().startswith("- ") else line)
    if fenced:
        out.append("```")
    return _PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", "\n".join(out))


def _one_by_one(shared: re.Match[str]) -> str:
    """Give parameters that share a description, as in `low, high: ...`, an entry each."""
    text = shared[2] if shared[2].endswith("\n") else shared[2] + "\n"
    return "".join(f"    {name}:{text}" for name in shared[1].split(", "))
