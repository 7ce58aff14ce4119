"""The skills of `organism/text`: for each, a seeded generator of prompts with answers, in train and held-out splits.

`SKILLS[name](n, seed=0, split="test")` returns a `PromptSet`; `WRITERS[name]` writes a single prompt.
"""

from __future__ import annotations

from .knowledge import conflict, memory
from .language import colored_objects, docstring, greater_than, ioi
from .retrieval import documents, needle, repeated
from .safety import refusal
from .writing import Writer, prompt_set

WRITERS: dict[str, Writer] = {
    "needle": needle,
    "documents": documents,
    "repeated": repeated,
    "ioi": ioi,
    "greater-than": greater_than,
    "docstring": docstring,
    "colored-objects": colored_objects,
    "memory": memory,
    "conflict": conflict,
    "refusal": refusal,
}


def _generator(name: str):
    def generate(n: int, seed: int = 0, split: str = "test"):
        return prompt_set(name, WRITERS[name], n, seed, split)

    generate.__doc__ = WRITERS[name].__doc__
    return generate


SKILLS = {name: _generator(name) for name in WRITERS}

__all__ = ["SKILLS", "WRITERS"]
