"""The computation of one unit, and the loop that every process runs until nothing is left for it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import CallError, CannotWrite, RunError
from .steps import Found, Inputs, ModelRef, Unit, UnitFailed, failed
from .store import DamagedUnit
from .work import Work


class Models:
    """Loads models as units ask for them, and keeps the last one.

    Args:
        device: Where to put them; None for a GPU if there is one.
        devices: GPUs that one model is spread over.
        load: What loads a model, for tests.
        trust_remote_code: As for `hooks.load.load`.
    """

    def __init__(
        self,
        device: str | None = None,
        devices: int = 1,
        load: Callable[..., Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._device = device
        self._devices = devices
        self._load = load
        self._trusted = trust_remote_code
        self._kept: tuple[ModelRef, Any] | None = None
        self._refused: dict[ModelRef, CallError] = {}

    def get(self, ref: ModelRef) -> Any:
        """Return the loaded model.

        Raises:
            RunError: Its weights are not those of the plan.
        """
        if ref in self._refused:  # every unit of a model that cannot be loaded would read its files again
            raise self._refused[ref]
        if self._kept is None or self._kept[0] != ref:
            self._kept = None  # two models need not fit at once
            try:
                self._kept = (ref, self._loaded(ref))
            except CallError as error:
                self._refused[ref] = error
                raise
        return self._kept[1]

    def has(self, ref: ModelRef | None) -> bool:
        """Whether a model needs no loading."""
        return ref is None or (self._kept is not None and self._kept[0] == ref)

    def _loaded(self, ref: ModelRef) -> Any:
        from ..hooks.info import describe
        from ..hooks.load import load

        spread: dict[str, Any] = (
            {"n_devices": self._devices} if self._devices > 1 else {"device": self._device}
        )
        if self._trusted:
            spread["trust_remote_code"] = True
        model = (self._load or load)(ref.load, dtype=ref.dtype, **spread)
        digest = describe(model).digest
        if digest != ref.digest:
            raise RunError(
                f"{ref.name}: planned with weights {ref.digest}, and it now has {digest}. Run the job again."
            )
        return model


def compute(unit: Unit, inputs: Inputs, models: Models) -> Found:
    """Compute one unit; the model's facts, the time and the place are added to what it gives.

    Raises:
        UnitFailed: Whatever went wrong, in one line.
    """
    begun = time.monotonic()
    try:
        model = None if unit.task.model is None else models.get(unit.task.model)
        loaded = time.monotonic()
        found = unit.task.step.run(unit, model, inputs)
    except (CannotWrite, KeyboardInterrupt):
        raise
    except Exception as error:
        _free_memory(error)
        raise failed(error) from error
    done = time.monotonic()
    facts: dict[str, Any] = {"seconds": round(done - loaded, 4), "loading": round(loaded - begun, 4)}
    if model is not None:
        from ..analysis.run import facts_of

        facts["model"] = facts_of(model)
    host = {"host": socket.gethostname(), "pid": os.getpid(), "finished": time.time()}
    return replace(found, meta={**found.meta, **facts, **host})


def loop(work: Work, models: Models) -> None:
    """Compute units until none is left for this process.

    Raises:
        CannotWrite: Results cannot be kept; what was not written stays to be computed.
    """
    try:
        for unit in work.next_units():
            try:
                work.start(unit)
                found = compute(unit, work.inputs(unit), models)
            except UnitFailed as error:
                work.fail(unit, error)
                continue
            except DamagedUnit:
                work.claims.release(unit.digest)
                continue
            work.finish(unit, found)
    finally:
        work.close()


def _free_memory(error: BaseException) -> None:
    """After a GPU ran out of memory, give back what its allocator holds, so that the next unit has a chance."""
    if type(error).__name__ == "OutOfMemoryError":
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
