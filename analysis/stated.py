"""Heads that can read each other by their weights, and the circuit that a model card states, if it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..hooks.find import available
from ..hooks.heads import Head, all_heads
from ..hooks.info import ModelInfo
from .composition import THROUGH, chance, composition

COLUMNS = ["writer", "reader", "through", "score", "times_chance"]
_FEEDS = re.compile(r"(L\d+H\d+) feeds the (queries|keys|values) of (L\d+H\d+)")
_WAYS = {"queries": "Q", "keys": "K", "values": "V"}


@dataclass(frozen=True)
class Stated:
    """What a card says about the circuit of its model.

    Attributes:
        words: The sentence of the card.
        roles: Heads by their role.
        edges: Writer, reader and way in (`Q`, `K` or `V`).
    """

    words: str
    roles: Mapping[Head, str]
    edges: frozenset[tuple[Head, Head, str]]


def stated_circuit(name: str, info: ModelInfo) -> Stated | None:
    """Read the circuit from a shipped model's card; None where it states none.

    Args:
        name: What `load` takes.
        info: The model's description; heads that it does not have are left out.
    """
    card: Mapping[str, Any] = next((one.card for one in available() if one.name == name), {})
    words = str(card.get("circuit", ""))
    known = {Head(layer, index) for layer in range(info.n_layers) for index in range(info.n_heads)}
    edges = {
        (writer, reader, _WAYS[way])
        for first, way, second in _FEEDS.findall(words)
        for writer, reader in [(Head.parse(first), Head.parse(second))]
        if {writer, reader} <= known
    }
    roles: dict[Head, list[str]] = {}
    for role, heads in (card.get("ground_truth") or {}).items():
        for head in map(Head.parse, heads if isinstance(heads, list) else []):
            if head in known:
                roles.setdefault(head, []).append(str(role))
    if not edges:
        return None
    return Stated(words, {head: ", ".join(names) for head, names in roles.items()}, frozenset(edges))


def start_head(name: str, info: ModelInfo) -> Head:
    """Return the head to look at first: one that a shipped model's card names, so that there is something to see.

    Args:
        name: What `load` takes.
        info: The model's description.

    Returns:
        The first of the card's retrieval heads, or of its induction heads, that the model has; L0H0 without any.
    """
    card: Mapping[str, Any] = next((one.card for one in available() if one.name == name), {})
    truth = card.get("ground_truth") or {}
    named = [*(card.get("retrieval") or {}).get("heads", ()), *truth.get("induction", ())]
    known = (
        head for head in map(Head.parse, named) if head.layer < info.n_layers and head.index < info.n_heads
    )
    return next(known, Head(0, 0))


def compositions(model: Any) -> pd.DataFrame:
    """Score every pair of a head and a later one, by each way in, highest first; columns as in `COLUMNS`."""
    heads, level = all_heads(model), chance(model)
    rows = []
    for through in THROUGH:
        scores = composition(model, heads, heads, through)
        for i, j in (scores == scores).nonzero().tolist():  # NaN where the reader is no later than the writer
            score = float(scores[i, j])
            rows.append((str(heads[i]), str(heads[j]), through, score, score / level))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def strongest(table: pd.DataFrame, *, through: str = "", threshold: float, most: int = 200) -> pd.DataFrame:
    """Keep the edges at or above a threshold in multiples of chance, by one way in or by all (empty)."""
    wanted = table["times_chance"] >= threshold
    if through:
        wanted &= table["through"] == through
    return table.loc[wanted].head(most)


def precision_recall(edges: pd.DataFrame, stated: Stated) -> tuple[float, float]:
    """Compare edges with those stated.

    Returns:
        Precision, the share of the edges that are stated (NaN without edges), and recall, the share of the stated ones
        that are there.
    """
    columns = (edges[name].tolist() for name in ("writer", "reader", "through"))
    found = {
        (Head.parse(writer), Head.parse(reader), str(way))
        for writer, reader, way in zip(*columns, strict=True)
    }
    right = len(found & stated.edges)
    return (right / len(found) if found else float("nan")), right / len(stated.edges)
