"""A few hundred mutated inputs of each kind; `benchmarks/fuzz.py` gives twenty thousand."""

from __future__ import annotations

import pytest

from fuzz import TARGETS, target
from fuzz.judge import fuzz

COUNT = 200
# Of so many inputs: what nearly always refuses, or nearly never, tests little.
FEWEST = 10


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_ends_in_a_result_or_one_clear_error(name: str) -> None:
    with target(name) as made:
        tally = fuzz(made, COUNT, seed=1)
    assert not tally.faults, "\n".join(
        f"{index}: {fault}\n  {given}" for index, fault, given in tally.faults[:5]
    )
    assert sum(tally.outcomes.values()) == COUNT
    assert FEWEST <= tally.valid <= COUNT - FEWEST, tally.outcomes
