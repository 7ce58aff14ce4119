"""Turns: one at a time, a long holder lets others of the same model in, and never those of another model."""

from __future__ import annotations

import time
from threading import Event, Thread, get_ident

from headscope.app.turns import Turns


def waiter(turns, thing, done, log, name):
    def work():
        turns.take(thing)
        log.append(name)
        turns.give()
        done.set()

    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread


def until_waiting(turns, thing, n=1):
    end = time.monotonic() + 10
    while turns._waiting[thing] < n:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_another_thread_waits_until_the_turn_is_given_back():
    turns, log, done = Turns(), [], Event()
    turns.take("a")
    turns.take("a")
    thread = waiter(turns, "a", done, log, "other")
    until_waiting(turns, "a")
    turns.give()
    assert not done.wait(0.05), "taken twice, given once"
    turns.give()
    assert done.wait(10)
    thread.join(10)


def test_a_long_holder_lets_everyone_of_the_same_thing_in_and_goes_on():
    turns, log, done = Turns(), [], [Event(), Event()]
    turns.take("a")
    for event in done:
        waiter(turns, "a", event, log, "other")
    until_waiting(turns, "a", 2)
    turns.let_others("a")
    log.append("holder again")
    assert log == ["other", "other", "holder again"]
    turns.let_others("a")  # nobody waits: nothing happens
    turns.give()


def test_who_wants_another_thing_waits_for_the_end():
    turns, log, same, different = Turns(), [], Event(), Event()
    turns.take("a")
    waiter(turns, "b", different, log, "b")
    waiter(turns, "a", same, log, "a")
    until_waiting(turns, "a")
    until_waiting(turns, "b")
    turns.let_others("a")
    assert log == ["a"] and not different.is_set()
    turns.give()
    assert different.wait(10) and log == ["a", "b"]


def test_only_the_holder_can_let_others_in():
    turns = Turns()
    turns.let_others("a")
    turns.take("a")
    assert turns._owner == get_ident()
    turns.give()
    assert turns._owner is None and turns._depth == 0
