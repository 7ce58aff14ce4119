"""The judge sees what must not happen: it is given calls that do it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fuzz import judge, mutate, terminal
from headscope.errors import BadOption, HeadscopeError, RunError


class Told(judge.Target):
    """Calls the function that it is given as an input."""

    name = "told"

    def call(self, made: Callable[[judge.Room], Any]) -> Any:
        return made(self.room)


@pytest.fixture
def told() -> Iterator[Told]:
    room = judge.Room()
    yield Told(room)
    room.remove()


def _judged(target: Told, call: Callable[[judge.Room], Any]) -> tuple[str, str]:
    with judge._placed(target.room):
        outcome, _, fault = judge.judge(target, call)
    return outcome, fault


def _refuse(room: judge.Room) -> None:
    raise BadOption("k is 0; give 1 or more.")


def test_results_and_clear_errors_are_no_faults(told: Told) -> None:
    assert _judged(told, lambda room: "fine") == ("result fine", "")
    assert _judged(told, _refuse) == ("BadOption", "")
    assert _judged(told, lambda room: (room.out / "scores.csv").write_text("a") and None) == ("result", "")


def _key_error(room: judge.Room) -> None:
    {}["name"]


def _wordless(room: judge.Room) -> None:
    raise RunError("  ")


def _no_kind(room: judge.Room) -> None:
    raise HeadscopeError("neither wrong nor failed")


def _leave(room: judge.Room) -> None:
    (room.out / "half").mkdir()
    raise BadOption("refused after work had begun")


def _hide(room: judge.Room) -> None:
    (room.out / ".scores.csv.tmp").write_text("a")


def _home(room: judge.Room) -> None:
    Path("~/.cache").expanduser().mkdir()


def _outside(room: judge.Room) -> None:
    (room.base.parent / f"{room.base.name}-beside").write_text("a")


def _link(room: judge.Room) -> None:
    os.symlink("/etc/passwd", room.base.parent / f"{room.base.name}-link")


def _start(room: judge.Room) -> None:
    subprocess.run([sys.executable, "-c", ""])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (_key_error, "KeyError"),
        (_wordless, "no message"),
        (_no_kind, "neither CallError nor RunError"),
        (_leave, "left behind by a refused call"),
        (_hide, "changed: cwd/out/.scores.csv.tmp"),
        (_home, "changed: home/.cache"),
        (_outside, "outside the room"),
        (_link, "outside the room"),
        (_start, "not for this room"),
    ],
)
def test_what_must_not_happen_is_a_fault(told: Told, call: Callable[[judge.Room], Any], words: str) -> None:
    assert words in _judged(told, call)[1]
    assert not list(told.room.base.parent.glob(f"{told.room.base.name}-*"))


def test_a_write_outside_that_is_swallowed_is_seen_all_the_same(told: Told) -> None:
    def quiet(room: judge.Room) -> None:
        with judge.contextlib.suppress(OSError):
            _outside(room)

    assert "outside: open" in _judged(told, quiet)[1]


def test_a_call_without_end_is_a_fault(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "LONGEST", 0.2)

    def spin(room: judge.Room) -> None:
        while True:
            time.sleep(0.01)

    assert "no answer" in _judged(told, spin)[1]


def test_the_same_seed_and_number_give_the_same_input_anywhere(told: Told) -> None:
    told.make = lambda rng: mutate.tree(rng, {"a": [1, 2], "b": {"c": "d"}})  # type: ignore[method-assign]
    ones = [repr(judge.drawn(told, 3, index)) for index in range(30)]
    assert ones == [repr(judge.drawn(told, 3, index)) for index in range(30)]
    assert len(set(ones)) > 20


def test_mutated_bytes_and_text_differ_from_their_seed() -> None:
    rng = Random(0)
    assert sum(mutate.data(rng, b'{"a": 1}') != b'{"a": 1}' for _ in range(200)) > 150
    assert sum(mutate.text(rng, "L0H1,L2H3") != "L0H1,L2H3" for _ in range(200)) > 150


@pytest.mark.parametrize(
    ("status", "shown", "told", "outcome"),
    [
        (2, "", "BadOption: k is 0.\n", "BadOption"),
        (2, "", "score ...\nUsage: headscope score\n\nError: No such option: -x\n", "usage"),
        (1, "1 of 2 units are done.\n", "", "incomplete"),
    ],
)
def test_one_clear_error_of_the_command_line(status: int, shown: str, told: str, outcome: str) -> None:
    with pytest.raises(judge.Refused) as refused:
        terminal.judged(status, shown, told)
    assert refused.value.name == outcome


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (1, "Traceback (most recent call last):\n  ...\nKeyError: 'a'\n"),
        (1, "BadOption: of a wrong call, and the status of a failed run\n"),
        (0, "BadRun: and all is well\n"),
        (2, "BadOption: one\nBadRun: two\n"),
        (2, ""),
        (139, "BadRun: one\n"),
    ],
)
def test_anything_else_of_the_command_line_is_a_fault(status: int, told: str) -> None:
    with pytest.raises(judge.Fault):
        terminal.judged(status, "", told)
