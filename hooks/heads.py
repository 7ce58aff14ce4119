"""Name attention heads: `L5H1` is query head 1 of layer 5, in code, tables, files and URLs alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import UnknownHead

_WRITTEN = re.compile(
    r"[Ll](\d{1,9})[Hh](\d{1,9})|(\d{1,9})\.(\d{1,9})"
)  # Python reads no number of 5,000 digits


class Head(NamedTuple):
    """One attention head.

    `index` counts *query* heads, also where several of them share one key-value head.
    Heads sort by layer, then by index.

    >>> str(Head(5, 1)), Head.parse("5.1") == (5, 1)
    ('L5H1', True)
    """

    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"

    @classmethod
    def parse(cls, head: Any) -> Head:
        """Read one head from `L5H1`, `5.1`, a pair `(5, 1)` or a `Head`.

        Raises:
            UnknownHead: the value has none of these forms.
        """
        if isinstance(head, str):
            written = _WRITTEN.fullmatch(head.strip())
            if written:
                layer, index = (int(number) for number in written.groups() if number is not None)
                return cls(layer, index)
        elif isinstance(head, Iterable):
            pair = tuple(head)
            if len(pair) == 2 and all(_is_count(number) for number in pair):
                return cls(int(pair[0]), int(pair[1]))
        raise UnknownHead(f"{head!r} is not a head: write L5H1, 5.1 or (5, 1), layer first.")


def parse_heads(heads: Any, model: Any = None) -> tuple[Head, ...]:
    """Read heads in any form and, with a model, check that it has them.

    Args:
        heads: `"L5H1,L6H0"` (commas or spaces), one `Head`, one pair, or an iterable of these.
        model: A bridge; its layer and head counts bound what is allowed.

    Returns:
        The heads in the order given, each once.

    Raises:
        UnknownHead: a head cannot be read or the model does not have it.

    >>> [str(head) for head in parse_heads("L0H1, 2.3")]
    ['L0H1', 'L2H3']
    """
    if isinstance(heads, str):
        items: list[Any] = [item for item in re.split(r"[,;\s]+", heads) if item]
    elif isinstance(heads, tuple) and len(heads) == 2 and all(_is_count(number) for number in heads):
        items = [heads]
    elif isinstance(heads, Iterable):
        items = list(heads)
    else:
        items = [heads]
    parsed = tuple(dict.fromkeys(Head.parse(item) for item in items))
    if model is not None:
        n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        for head in parsed:
            if not (0 <= head.layer < n_layers and 0 <= head.index < n_heads):
                raise UnknownHead(
                    f"{head}: {model.cfg.model_name} has layers 0-{n_layers - 1} and heads 0-{n_heads - 1}."
                )
    return parsed


def all_heads(model: Any) -> tuple[Head, ...]:
    """List every head of a model, by layer, then by index."""
    return tuple(
        Head(layer, index)
        for layer in range(int(model.cfg.n_layers))
        for index in range(int(model.cfg.n_heads))
    )


def _is_count(number: object) -> bool:
    """Say whether a value is an integer of any library (numpy's and torch's too), but not a bool or a string."""
    return hasattr(number, "__index__") and not isinstance(number, bool)
