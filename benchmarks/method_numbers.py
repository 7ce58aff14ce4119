"""Run every command of docs/methods.md, and hold what it prints against the numbers on the page.

    python benchmarks/method_numbers.py [WORD ...] [--quick]

With words, only rows in which one of them stands. Prints a line for each command: its seconds, and which numbers of the
page it did not print. Ends with 1 if there were any. All commands together take about an hour on one core;
`--quick` leaves out all but the scores.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from method_tables import PAGE, commands_of, printed, rows


def main() -> int:
    args = _arguments()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for command, wanted in _claims(args.words).items():
            if args.quick and command.split()[1] != "score":
                continue
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", *shlex.split(command)],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            missing = [one for one in wanted if not printed(one, done.stdout)]
            failed = f"; ended with {done.returncode}: {done.stderr[-300:]}" if done.returncode else ""
            told = f"not printed: {'; '.join(missing)}" if missing else f"{len(wanted)} printed"
            print(f"{time.perf_counter() - start:6.1f} s  {command}: {told}{failed}", flush=True)
            wrong += bool(missing or failed)
    return int(wrong > 0)


def _claims(words: list[str]) -> dict[str, list[str]]:
    """Return what each command shall print, without commands that are only mentioned.

    Numbers of a row without a command belong to its section's command.
    """
    page, found = PAGE.read_text(encoding="utf-8"), {}
    for row in rows():
        if words and not any(word in cell for word in words for cell in row.cells):
            continue
        for command, what in row.claims():
            found.setdefault(command, []).extend(what)
        if row.section == "Circuits" and row.table == "name":
            (command,) = [one for one in commands_of(page, row.section) if "compare" in one]
            found.setdefault(command, []).extend(row.numbers())
    return {command: wanted for command, wanted in found.items() if wanted}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only rows in which one of these stands")
    parser.add_argument("--quick", action="store_true", help="only commands that score")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
