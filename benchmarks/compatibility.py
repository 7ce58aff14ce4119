"""Install the package into fresh environments and run a smoke set of tests there: which Pythons, which versions.

    python benchmarks/compatibility.py                                # the Pythons on PATH, with constraints.txt
    python benchmarks/compatibility.py python3.11 --versions lowest   # the lowest that pyproject.toml allows
    python benchmarks/compatibility.py python3.13 --versions pinned newest --keep /tmp/environments

`pinned` installs with constraints.txt, `lowest` with every direct dependency at its lower bound, `newest` with neither.
Every environment is made in a temporary folder and removed; a PyTorch with its CUDA libraries takes some 6 GB of it
meanwhile. Needs a package index. Ends with 1 if anything failed, after a table of everything.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
SHOWN = ("torch", "transformers", "transformer-lens", "streamlit", "pandas", "numpy")
# One test or two of every part; `--tests tests` runs all.
SMOKE = (
    "tests/test_package.py::test_every_public_name_can_be_loaded",
    "tests/test_package.py::test_every_data_file_is_packaged",
    "tests/hooks/test_load.py::test_every_architecture_loads_in_evaluation_mode_and_is_described",
    "tests/hooks/test_generate.py::test_greedy_tokens_and_log_probabilities_are_those_of_whole_passes",
    "tests/hooks/test_sweep.py::test_shipped_attention_only_model_equals_the_loop",
    "tests/analysis/test_score.py::test_the_planted_heads_come_first_by_a_wide_gap",
    "tests/analysis/test_score.py::test_many_methods_share_one_pass",
    "tests/analysis/test_verify.py::test_the_planted_copying_head_is_causal",
    "tests/jobs/test_runs.py::test_a_job_is_one_line_and_a_run_another",
    "tests/jobs/test_runs.py::test_the_job_wrote_a_page_that_loads_nothing",
    "tests/app/test_main.py::test_the_app_opens_on_its_home_page_with_a_prompt",
    "tests/app/test_patterns.py::test_the_page_shows_all_heads_one_head_and_the_text",
)


@dataclass
class Leg:
    """One environment: what was asked for, and what came of it."""

    python: str
    versions: str
    found: dict[str, str] = field(default_factory=dict)
    installed: str = "-"
    consistent: str = "-"
    tests: str = "-"
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return (self.installed, self.consistent) == ("ok", "ok") and self.tests.endswith("0 failed")


def lowest() -> str:
    """Return constraints that hold every direct dependency, extras included, at its lower bound."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds: dict[str, str] = {}
    for item in (item for listed in lists for item in listed):
        read = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", item)
        if not read:
            raise SystemExit(f"pyproject.toml: {item!r} is not `name>=version`, so it has no lowest version.")
        name, version = read.groups()
        if bounds.setdefault(name, version) != version:
            raise SystemExit(f"pyproject.toml: {name} has two lower bounds, {bounds[name]} and {version}.")
    return "".join(f"{name}=={version}\n" for name, version in sorted(bounds.items()))


def examine(leg: Leg, folder: Path, tests: list[str]) -> None:
    """Make one environment, install, and run the tests; everything is noted in the leg."""
    started = time.monotonic()
    python = folder / "venv" / "bin" / "python"
    try:
        if not _did(leg, "venv", [leg.python, "-m", "venv", folder / "venv"], folder):
            return
        version = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:3], sep='.')"],
            capture_output=True,
            text=True,
        ).stdout.strip()
        leg.python = version
        source = folder / "source"
        shutil.copytree(CHECKOUT, source, ignore=IGNORED)
        held: list[str | Path] = []
        if leg.versions != "newest":
            text = lowest() if leg.versions == "lowest" else (CHECKOUT / "constraints.txt").read_text()
            (folder / "versions.txt").write_text(text, encoding="utf-8")
            held = ["--constraint", folder / "versions.txt"]
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        # A wheel is built and installed: what is not packaged is not there.
        asked = [*pip, "install", "--quiet", "--no-cache-dir", *held, f"{source}[test]"]
        leg.installed = "ok" if _did(leg, "install", asked, folder) else "failed"
        if leg.installed != "ok":
            return
        listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True).stdout
        leg.found = {one["name"].lower(): one["version"] for one in json.loads(listed)}
        leg.consistent = "ok" if _did(leg, "pip check", [*pip, "check"], folder) else "broken"
        leg.tests = _tested(leg, python, source, tests)
    finally:
        leg.seconds = time.monotonic() - started


def _tested(leg: Leg, python: Path, source: Path, tests: list[str]) -> str:
    """Run the tests against the installed package, and return their counts."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--tb=short", *tests]
    done = subprocess.run(list(map(str, command)), cwd=source, capture_output=True, text=True)
    (source.parent / "tests.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    leg.notes += [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    failed = counts.get("failed", 0) + counts.get("error", 0)
    if done.returncode and not failed:
        leg.notes.append((done.stdout + done.stderr)[-1500:])
        failed = 1
    return f"{counts.get('passed', 0)} passed, {counts.get('skipped', 0)} skipped, {failed} failed"


def _did(leg: Leg, what: str, command: list[str | Path], folder: Path) -> bool:
    """Run one command; if it fails, keep the end of what it said."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if line and "WARNING: Location" not in line
        ]
        leg.notes.append(f"{what}: " + "\n    ".join(said[-25:]))
    return done.returncode == 0


def pythons() -> list[str]:
    """Return the interpreters on PATH that this package allows and that start."""
    found = []
    for minor in range(11, 20):
        name = f"python3.{minor}"
        if (
            shutil.which(name)
            and not subprocess.run([name, "-c", "import venv"], capture_output=True).returncode
        ):
            found.append(name)
    return found


def table(legs: list[Leg]) -> str:
    """Return the outcome, a line an environment."""
    rows = [["Python", "versions", *SHOWN, "install", "pip check", "smoke tests", "minutes"]]
    for leg in legs:
        versions = [leg.found.get(name, "-") for name in SHOWN]
        rows.append(
            [
                leg.python,
                leg.versions,
                *versions,
                leg.installed,
                leg.consistent,
                leg.tests,
                f"{leg.seconds / 60:.1f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", nargs="*", help="interpreters; those on PATH if none is named")
    parser.add_argument("--versions", nargs="+", choices=["pinned", "lowest", "newest"], default=["pinned"])
    parser.add_argument("--tests", nargs="+", default=list(SMOKE), help="what pytest runs there")
    parser.add_argument("--keep", type=Path, help="make the environments in this folder and leave them")
    given = parser.parse_args()
    names = given.python or pythons()
    if not names:
        raise SystemExit("No Python 3.11 or later on PATH; name one.")
    legs = [Leg(python, versions) for python in names for versions in given.versions]
    for number, leg in enumerate(legs):
        print(f"{leg.python}, {leg.versions} ...", file=sys.stderr, flush=True)
        if given.keep:
            folder = given.keep.resolve() / f"{number}-{leg.versions}"
            folder.mkdir(parents=True)
            examine(leg, folder, given.tests)
        else:
            with tempfile.TemporaryDirectory() as made:
                examine(leg, Path(made), given.tests)
    print(table(legs))
    for leg in legs:
        for note in leg.notes:
            print(f"\n{leg.python}, {leg.versions}: {note}")
    return 0 if all(leg.good for leg in legs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
