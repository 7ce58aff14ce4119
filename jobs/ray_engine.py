"""The engine of many machines: Ray starts replicas of the model on them, and this process hands units out.

One actor holds one replica and loads a model once. Results stream to this process, which alone reads and writes the
job's folder, so the machines need no shared disk; the same Headscope must be installed on all of them. A replica whose
machine is lost is replaced where there is room, and its unit is computed again. `RAY_ADDRESS` names a running cluster;
without it Ray is started on this machine, and ended with the job.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from ..errors import RunError
from .steps import Found, Inputs, ModelRef, Task, Unit, UnitFailed
from .store import DamagedUnit
from .work import Work
from .worker import Models, compute

_LOOK = 0.5  # seconds between two looks at the replicas
_PATIENCE = 600.0  # seconds without any replica, as long as a cluster may take to start a machine
_LOSSES = 3  # replicas that one unit may take with it
_SENT = 8  # tasks whose inputs are kept in the cluster
_STORE_BYTES = 200 * 2**20  # Ray's memory for objects, where it is started here; results are small


@ray.remote
class Replica:
    """One model on one machine, for one unit at a time."""

    def __init__(self, device: str | None, devices: int, trust_remote_code: bool = False) -> None:
        self._models = Models(device, devices, trust_remote_code=trust_remote_code)
        self._node = ray.get_runtime_context().get_node_id()

    def ready(self) -> str:
        """Say that it runs, and on which machine."""
        return self._node

    def compute(self, task: Task, index: int, inputs: Inputs) -> Found | UnitFailed:
        """Compute one unit. A failure is a value here, so that it is not mistaken for the loss of a machine."""
        try:
            found = compute(task.units[index], inputs, self._models)
        except UnitFailed as error:
            return UnitFailed(
                str(error), error.prompt, error.final
            )  # without its cause, which may not travel
        return Found(found.table, {**found.meta, "node": self._node})


class _Flight(NamedTuple):
    """A unit that a replica computes."""

    unit: Unit
    replica: Any


def engine(
    work: Work,
    *,
    workers: int = 1,
    device: str | None = None,
    devices: int = 1,
    trust_remote_code: bool = False,
) -> None:
    """Compute the units of a job on a Ray cluster.

    Args:
        work: What is to be done.
        workers: Number of replicas; fewer run where the cluster has no room for more.
        device: As for `Models`.
        devices: GPUs of each replica, where the cluster has GPUs.
        trust_remote_code: As for `hooks.load.load`, on all machines.

    Raises:
        RunError: The cluster cannot be reached, or has no room for any replica.
        CannotWrite: Results cannot be kept.
    """
    ours = not ray.is_initialized()
    if ours:
        _connect(workers)
    fleet = _Fleet(work, workers, device, devices, trust_remote_code)
    try:
        fleet.run()
    except RayError as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RunError(f"the Ray cluster failed: {text}. Run again to resume.") from error
    finally:
        fleet.close()
        work.close()
        if ours:
            ray.shutdown()


def _connect(workers: int) -> None:
    """Connect to the cluster that `RAY_ADDRESS` names, or start one here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise RunError(f"Ray: {text}. Check RAY_ADDRESS, or unset it to run on this machine.") from error


class _Fleet:
    """The replicas, and what each is doing."""

    def __init__(
        self, work: Work, workers: int, device: str | None, devices: int, trust_remote_code: bool
    ) -> None:
        gpus = ray.cluster_resources().get("GPU", 0)
        on_gpu = gpus > 0 and device in (None, "cuda")
        # One CPU each: Ray sets a replica's threads from it, and spreads replicas over machines by it.
        self._make = Replica.options(
            num_cpus=1, num_gpus=devices if on_gpu else 0, scheduling_strategy="SPREAD", max_restarts=0
        )
        self._arguments = (device, devices, trust_remote_code)
        self._work, self._workers = work, workers
        self._starting: dict[Any, Any] = {}  # the promise that a replica is ready → the replica
        self._idle: list[Any] = []
        self._flights: dict[Any, _Flight] = {}  # the promise of a result → what it is of
        self._has: dict[Any, ModelRef | None] = {}
        self._sent: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._losses: Counter[str] = Counter()
        self._alone_since = time.monotonic()

    def run(self) -> None:
        """Hand out units until none is left, then wait for those that are being computed."""
        for _ in range(self._workers):
            self._start()
        for unit in self._work.next_units(idle=self._collect):
            while not self._idle and not self._work.stopping():
                self._collect()
            if not self._idle:  # asked to stop
                self._work.claims.release(unit.digest)
                break
            self._send(unit)
        while self._flights:
            self._collect()

    def close(self) -> None:
        """End all replicas; Ray may be gone by now."""
        if not ray.is_initialized():
            return
        busy = [flight.replica for flight in self._flights.values()]
        for replica in [*self._idle, *self._starting.values(), *busy]:
            with suppress(RayError, ValueError):
                ray.kill(replica)
        for flight in self._flights.values():
            self._work.claims.release(flight.unit.digest)
        self._idle, self._starting, self._flights = [], {}, {}

    def _start(self) -> None:
        replica = self._make.remote(*self._arguments)
        self._starting[replica.ready.remote()] = replica
        self._has[replica] = None

    def _send(self, unit: Unit) -> None:
        """Give a unit to an idle replica, if there is one to one that has its model."""
        try:
            task, inputs = self._inputs(unit)
        except DamagedUnit:
            return self._work.claims.release(unit.digest)
        model = unit.task.model
        replica = next((one for one in self._idle if self._has[one] == model), self._idle[0])
        self._idle.remove(replica)
        self._has[replica] = model or self._has[replica]
        self._work.start(unit)
        self._flights[replica.compute.remote(task, unit.index, inputs)] = _Flight(unit, replica)

    def _inputs(self, unit: Unit) -> tuple[Any, Any]:
        """Put a task and its inputs into the cluster, once for all its units."""
        key = unit.task.digest
        if key not in self._sent:
            self._sent[key] = ray.put(unit.task), ray.put(self._work.inputs(unit))
            if len(self._sent) > _SENT:
                self._sent.popitem(last=False)
        self._sent.move_to_end(key)
        return self._sent[key]

    def _collect(self) -> None:
        """Take in what has come: results, replicas that are ready, and the news of lost ones."""
        promises = [*self._flights, *self._starting]
        if not promises:
            raise RunError("no replica is left on the Ray cluster. Run again to resume.")
        come, _ = ray.wait(promises, num_returns=1, timeout=_LOOK)
        for promise in come:
            if promise in self._starting:
                self._welcome(promise, self._starting.pop(promise))
            else:
                self._take_in(promise, self._flights.pop(promise))
        if self._idle or self._flights:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > _PATIENCE:
            raise RunError(
                f"the Ray cluster has had no room for a replica for {_PATIENCE:.0f} s; it has "
                f"{ray.available_resources()}. Give it machines, or ask for less. Run again to resume."
            )

    def _welcome(self, promise: Any, replica: Any) -> None:
        try:
            node = ray.get(promise, timeout=_LOOK)
        except (RayActorError, GetTimeoutError) as error:
            self._lost(replica, None, error)
            return
        self._idle.append(replica)
        self._work.events.tell("replica", node=node)

    def _take_in(self, promise: Any, flight: _Flight) -> None:
        unit, replica = flight
        try:
            found: Any = ray.get(promise)
        except RayTaskError as error:  # outside of the computation: what is sent cannot be unpacked there
            self._idle.append(replica)
            self._work.fail(
                unit, UnitFailed(f"on a Ray worker: {' '.join(str(error.cause or error).split())[:300]}")
            )
        except RayError as error:
            self._lost(replica, unit, error)
        else:
            self._idle.append(replica)
            if isinstance(found, UnitFailed):
                self._work.fail(unit, found)
            else:
                self._work.finish(unit, found)

    def _lost(self, replica: Any, unit: Unit | None, error: Exception) -> None:
        """Replace a replica that is gone; its unit is computed again, unless it takes every replica with it."""
        self._has.pop(replica, None)
        why = type(error).__name__
        self._work.events.tell("lost", unit=unit and unit.digest, title=unit and unit.title, error=why)
        if unit is not None:
            self._losses[unit.digest] += 1
            if self._losses[unit.digest] >= _LOSSES:
                text = f"{_LOSSES} Ray workers were lost while they computed it ({why})"
                self._work.fail(unit, UnitFailed(text, final=True))
            else:
                self._work.claims.release(unit.digest)
        self._start()
