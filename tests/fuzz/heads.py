"""Head expressions: names of heads, pairs, edges, positions and gains, as text and as Python values."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from fuzz import mutate
from fuzz.judge import Fault, Room, Target
from headscope.analysis.changes import Change, read_positions
from headscope.commands.arguments import interventions
from headscope.datasets.prompts import Prompt
from headscope.hooks.heads import Head, parse_heads
from headscope.hooks.interventions import scale, zero
from headscope.hooks.load import load
from headscope.hooks.wiring import Edge

_TEXTS = (
    "L0H1", "L2H3", "L1H0,L1H1", "L0H0 L2H2", "0.1", "2.3;1.0", "l0h3", "L0H0,L0H0", " L1H2 ", "L2H3,\tL0H1\n",
    "1.1,2.2",
)  # fmt: skip
_EDGES = ("L0H2→L2H1.k", "L0H2->L2H1.q", "m0->logits", "input->L1H1.v", "L0H0 -> m2", "input→logits")
_PLACES = ("0", "0,3,-1", "needle", "1 2 3", "span-a", "-1")
_SCALES = ("L0H1=2", "L1H0,L1H1=0.5", "0.1=-1", "L2H3=0")
_VALUES: tuple[Any, ...] = (
    (0, 1), [(0, 1), (2, 3)], Head(1, 2), [Head(0, 0), "L1H1"], ("L0H1", "L2H2"), [[0, 1]],
    (np.int64(1), np.int64(2)), np.array([[0, 1], [2, 3]]), {(0, 1)}, ["0.1", (1, 1)],
)  # fmt: skip


class Heads(Target):
    """Whatever reads heads."""

    name = "heads"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self.model = load("organism/planted", device="cpu")

    def make(self, rng: Random) -> Any:
        how = rng.choice(
            ("heads", "heads", "heads", "model", "model", "edge", "positions", "scale", "value", "change")
        )
        seeds = {"edge": _EDGES, "positions": _PLACES, "scale": _SCALES}.get(how, _TEXTS)
        if how == "value":
            value = rng.choice(_VALUES)
            if rng.random() < 0.7:
                listed = value.tolist() if isinstance(value, np.ndarray) else value
                plain = [list(one) if isinstance(one, tuple) else one for one in listed]
                value = mutate.tree(rng, plain, [plain]) if rng.random() < 0.8 else mutate.odd(rng)
                value = tuple(value) if isinstance(value, list) and rng.random() < 0.4 else value
            return how, value
        seed = rng.choice(seeds)
        if rng.random() < 0.25:
            seed = rng.choice((",", " ", ";", "→")).join((seed, rng.choice(seeds)))
        return how, seed if rng.random() < 0.1 else mutate.text(rng, seed, (*_TEXTS, *_EDGES, *_SCALES))

    def call(self, made: Any) -> str:
        how, given = made
        if how == "edge":
            edge = Edge.parse(given)
            if Edge.parse(str(edge)) != edge:
                raise Fault(f"{edge!r} is not what is read from its text")
        elif how == "positions":
            zero("L0H1", positions=read_positions(given))
        elif how == "scale":
            interventions(None, "uniform", [given], "all", [Prompt("apple")])
        elif how == "change":
            str(Change("zero", given)), Change("scale", given).options()  # type: ignore[arg-type]
        else:
            heads = parse_heads(given, self.model if how in ("model", "value") else None)
            again = parse_heads(",".join(map(str, heads)))
            if again != heads:
                raise Fault(f"{heads} is not what is read from its text: {again}")
            if how == "model":
                scale(heads, 2.0)
            if not heads:
                return "no heads"
        return how
