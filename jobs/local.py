"""The engine of one machine: in this process, or one process for each GPU or each share of the cores."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

from ..errors import CannotWrite, HeadscopeError
from ..printable import printable
from .plan import make_plan
from .steps import UnitFailed
from .store import JobStore
from .work import Work
from .worker import Models, loop

_LOOK = 0.2  # seconds between two looks at the processes
_PATIENCE = 10.0  # seconds that a process may take to end when asked
_RESTARTS = 3  # of each process, after a crash
_WRONG_CALL = 1  # exit status of a process that could not begin
_CANNOT_WRITE = 3  # exit status of a process that could not keep its results


def engine(
    work: Work,
    *,
    workers: int = 1,
    device: str | None = None,
    devices: int = 1,
    trust_remote_code: bool = False,
) -> None:
    """Compute the units of a job on this machine.

    With GPUs, each process sees its own `devices` of them, and the processes are spread over all; without, each gets
    its share of the cores. A process that crashes is started again, and the unit that it held counts as failed once.

    Args:
        work: What is to be done.
        workers: Number of processes; 1 computes in this one.
        device: Such as `cpu`; None for a GPU if there is one.
        devices: GPUs that one model is spread over.
        trust_remote_code: As for `hooks.load.load`.

    Raises:
        CannotWrite: A process could not keep its results.
    """
    if workers == 1:
        return loop(work, Models(device, devices, trust_remote_code=trust_remote_code))

    def begin(index: int) -> subprocess.Popen[bytes]:
        return _start(work, index, workers, device, devices, trust_remote_code)

    processes = {index: begin(index) for index in range(workers)}
    restarts = dict.fromkeys(processes, 0)
    refused = False
    try:
        while processes and not work.stopping():
            time.sleep(_LOOK)
            for index, process in list(processes.items()):
                status = process.poll()
                if status is None:
                    continue
                del processes[index]
                refused |= status == _CANNOT_WRITE
                if status not in (0, _WRONG_CALL, _CANNOT_WRITE):
                    _blame(work, process.pid, status)
                    restarts[index] += 1
                    if restarts[index] <= _RESTARTS:
                        processes[index] = begin(index)
    finally:
        _end(list(processes.values()))
        work.close()
    if refused:
        raise CannotWrite(
            f"{work.store.folder}: a worker could not keep its results; its reason stands above. Run again to resume."
        )


def environment(index: int, workers: int, device: str | None, devices: int, n_gpus: int) -> dict[str, str]:
    """Say which GPUs and how many threads a process gets.

    >>> environment(1, 2, None, 1, 2)["CUDA_VISIBLE_DEVICES"]
    '1'
    >>> environment(1, 2, None, 2, 4)["CUDA_VISIBLE_DEVICES"]
    '2,3'
    """
    found = dict(os.environ)
    if n_gpus and device in (None, "cuda"):
        visible = [one for one in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        names = visible or [str(number) for number in range(n_gpus)]
        chosen = [names[(index * devices + offset) % len(names)] for offset in range(devices)]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(chosen))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    return found


def _start(
    work: Work, index: int, workers: int, device: str | None, devices: int, trusted: bool
) -> subprocess.Popen[bytes]:
    import torch

    command = [sys.executable, "-P", "-m", __name__, str(work.store.folder)]
    command += ["--session", work.session, "--retries", str(work.retries), "--devices", str(devices)]
    command += ["--device", device] if device else []
    command += ["--trust-remote-code"] if trusted else []
    return subprocess.Popen(
        command,
        env=environment(index, workers, device, devices, torch.cuda.device_count()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # answers are this process's; what goes wrong is said on standard error
        start_new_session=True,  # Ctrl-C reaches this process only, which then asks the others to end
    )


def _blame(work: Work, pid: int, status: int) -> None:
    """Count a crash against the unit that the process held, so that it cannot crash one process after another."""
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    why = ", as the system does when memory runs out" if status == -signal.SIGKILL else ""
    held = work.claims.of(pid)
    work.events.tell("crashed", pid=pid, how=how, units=sorted(held))
    for unit in work.plan.units:
        if unit.digest in held and work.left(unit) and work.claims.bury(unit.digest):
            work.fail(unit, UnitFailed(f"the process that computed it ended by {how}{why}"))


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and end those that do not."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Compute units of a job folder in this process: what `engine` starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--session", required=True)
    parser.add_argument("--retries", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--trust-remote-code", action="store_true")
    given = parser.parse_args(arguments)
    parent = os.getppid()
    try:
        store = JobStore.open(given.folder)
        plan = make_plan(store.job, store, trust_remote_code=given.trust_remote_code)
        work = Work(
            store,
            plan,
            session=given.session,
            retries=given.retries,
            lease=plan.job.run.lease,
            stopping=lambda: os.getppid() != parent,  # whoever started this is gone
        )
        loop(work, Models(given.device, given.devices, trust_remote_code=given.trust_remote_code))
    except CannotWrite as error:
        print(printable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return _CANNOT_WRITE
    except HeadscopeError as error:
        print(printable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return _WRONG_CALL
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
