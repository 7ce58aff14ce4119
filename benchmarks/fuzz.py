"""Give mutated input to whatever reads input, and count what comes of it.

    python benchmarks/fuzz.py --target jobs --count 20000 --seed 0

Every input ends in a result or in one clear error with exit status 1 or 2. What does not is printed, and the exit
status is then 1: a traceback, more than 5 seconds, a file outside the output folder, a file that a refused call has
left behind, a process or a connection. `--first N --count 1` gives one input again.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_MEMORY = 14 << 30  # bytes of address space: who asks for more gets an error, and the machine stays alive


def main() -> int:
    args = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[0] = str(_TESTS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.disable(logging.WARNING)
    from fuzz import TARGETS, target
    from fuzz.judge import Tally, fuzz

    faults, begun = 0, time.monotonic()
    for name in args.target or TARGETS:
        last, told = time.monotonic(), 0

        def say(done: int, tally: Tally, name: str = name) -> None:
            nonlocal last, told
            for index, fault, _ in tally.faults[told:]:
                print(f"  {name}: input {index}: {fault[:300]}", file=sys.stderr, flush=True)
            told = len(tally.faults)
            if time.monotonic() - last > 60:
                last = time.monotonic()
                print(
                    f"  {name}: {done} of {args.count}, {len(tally.faults)} faults",
                    file=sys.stderr,
                    flush=True,
                )

        with target(name) as made:
            tally = fuzz(made, args.count, seed=args.seed, first=args.first, said=say, stuck=True)
        faults += len(tally.faults)
        _print(name, args.seed, tally)
    print(f"{faults} faults, {time.monotonic() - begun:.0f} s")
    return 1 if faults else 0


def _print(name: str, seed: int, tally: Any) -> None:
    total = sum(tally.outcomes.values())
    print(
        f"{name}: {total:,} inputs, seed {seed}: {tally.valid / max(1, total):.0%} gave a result, "
        f"{len(tally.faults)} faults, {tally.seconds:.0f} s"
    )
    for outcome, count in tally.outcomes.most_common():
        print(f"  {count:>7,} {outcome}")
    seconds, index, what = tally.slowest
    print(f"  slowest: {seconds:.2f} s, input {index}: {what[:300]}")
    for index, fault, what in tally.faults:
        print(f"  FAULT at input {index}: {fault}\n    {what}")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", action="append", help="jobs, prompts, heads, arguments, runs or weights; all by default"
    )
    parser.add_argument("--count", type=int, default=20_000, help="inputs of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
