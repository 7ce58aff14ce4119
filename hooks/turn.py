"""Whose turn it is on a model: threads wait for one another's passes, and an open `intervene` block keeps them out.

Hooks act in every pass of a model, whoever runs it. So whatever puts hooks on a model, or changes it for a moment,
holds its turn meanwhile (`turn`, `watching`); another thread waits, which takes a few passes. An `intervene` block
stays open for as long as its user likes, so another thread is not made to wait for its end but refused at once. The
same holds for tasks of one event loop: a block that one of them left open while it waits is closed to the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from ..errors import BadOption
from .tower import bridge_of


class Owner(NamedTuple):
    """Who entered a block.

    Attributes:
        thread: Identifier of the thread.
        task: The running task of its event loop, None outside of one.
    """

    thread: int
    task: asyncio.Task[Any] | None

    @classmethod
    def now(cls) -> Owner:
        """Return who is running."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no event loop runs in this thread
            task = None
        return cls(threading.get_ident(), task)

    def excludes(self, other: Owner) -> bool:
        """Say whether somebody else may not run the model: another thread, or another task while this one goes on."""
        if self.thread != other.thread:
            return True
        return self.task is not None and self.task is not other.task and not self.task.done()


class Block(Protocol):
    """What an `intervene` block shows of itself."""

    @property
    def owner(self) -> Owner: ...

    @property
    def interventions(self) -> tuple[Any, ...]: ...


_guard = threading.Lock()
_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_blocks: WeakKeyDictionary[Any, list[Block]] = WeakKeyDictionary()


def open_blocks(model: Any) -> tuple[Block, ...]:
    """Return the `intervene` blocks that are open on a model, outermost first."""
    return tuple(_blocks.get(bridge_of(model), ()))


def refuse_others(model: Any) -> None:
    """Raise if a block is open on the model that somebody else entered.

    Raises:
        BadOption: it is; the message says whose.
    """
    blocks = open_blocks(model)
    if not blocks:
        return
    me = Owner.now()
    for block in blocks:
        if block.owner.excludes(me):
            whose = "thread" if block.owner.thread != me.thread else "task"
            raise BadOption(
                f"{model.cfg.model_name} is inside intervene(...) of another {whose}, whose changes would act here "
                f"too; give each {whose} its own model, or leave that block first."
            )


@contextmanager
def turn(model: Any) -> Iterator[None]:
    """Keep other threads from running the model inside the block; one thread may nest them.

    Raises:
        BadOption: an `intervene` block of another thread or task is open.
    """
    with _lock(model):
        refuse_others(model)
        yield


@contextmanager
def watching(model: Any, hooks: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """Put forward hooks on a model inside the block, where no other thread's pass meets them.

    Args:
        model: The bridge.
        hooks: Names of hook points, each with a function of what stands there and its hook point.

    Raises:
        BadOption: as for `turn`; for another thread that calls the model itself meanwhile, too.
    """
    thread = threading.get_ident()

    def refuse(*_: Any) -> None:
        if threading.get_ident() != thread:
            raise BadOption(
                f"{model.cfg.model_name} is being read in another thread, which would take this pass for its own; give "
                "each thread its own model, or call it through headscope's forward, which waits."
            )

    with turn(model), ExitStack() as undo:
        undo.callback(model.original_model.register_forward_pre_hook(refuse).remove)
        undo.enter_context(model.hooks(fwd_hooks=list(hooks)))
        yield


@contextmanager
def registered(model: Any, block: Block) -> Iterator[None]:
    """Count a block among the open ones."""
    blocks = _blocks.setdefault(bridge_of(model), [])
    try:
        blocks.append(block)
        yield
    finally:
        if block in blocks:
            blocks.remove(block)


def _lock(model: Any) -> threading.RLock:
    model = bridge_of(model)  # a model and its tower run together
    with _guard:
        if model not in _locks:
            _locks[model] = threading.RLock()
        return _locks[model]
