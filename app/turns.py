"""One thread at a time: who may run the model, and who waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from threading import Condition, get_ident


class Turns:
    """Gives a thing to one thread at a time; a long holder lets others of the same thing in between its steps.

    A holder that lets others in keeps its thing: who wants another one goes on waiting, so that no two are in memory.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: Counter[Hashable] = Counter()
        self._paused: Counter[Hashable] = Counter()

    def take(self, thing: Hashable) -> None:
        """Wait for the turn; the same thread may take it again."""
        with self._changed:
            if self._owner != get_ident():
                self._waiting[thing] += 1
                try:
                    self._changed.wait_for(lambda: self._owner is None and not self._others_paused(thing))
                finally:
                    self._waiting[thing] -= 1
                    self._changed.notify_all()
                self._owner = get_ident()
            self._depth += 1

    def give(self) -> None:
        """Give the turn back, once for every time it was taken."""
        with self._changed:
            self._depth -= 1
            if self._depth == 0:
                self._owner = None
                self._changed.notify_all()

    def let_others(self, thing: Hashable) -> None:
        """Let everyone who waits for the same thing have a turn, then go on. Only where no hook is on the model."""
        with self._changed:
            if self._owner != get_ident() or not self._waiting[thing]:
                return
            depth, self._depth, self._owner = self._depth, 0, None
            self._paused[thing] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._owner is None and not self._waiting[thing])
            self._paused[thing] -= 1
            self._depth, self._owner = depth, get_ident()

    def _others_paused(self, thing: Hashable) -> bool:
        return any(count for held, count in self._paused.items() if held != thing)
