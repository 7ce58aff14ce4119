"""Check the installed dependencies: pins, origin, files, conflicts, licences, vulnerabilities where they can be asked.

    python benchmarks/audit.py              # everything; ends with 1 if anything is wrong
    python benchmarks/audit.py --files      # also every installed file against the hash that its wheel recorded
    python benchmarks/audit.py --licences   # writes docs/licences.md

Vulnerabilities are looked up by pip-audit, which asks a database over the network. Where it is not installed or the
database cannot be reached, that is said, and nothing is claimed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[1]
PINS, LICENCES = CHECKOUT / "constraints.txt", CHECKOUT / "docs" / "licences.md"
EXTRAS = ("", "png", "distributed", "test", "docs")  # in which a dependency is first needed
# What distributions write who do not use an SPDX expression.
_SPDX = {
    r"apache.*": "Apache-2.0",
    r"(the )?mit( license.*)?": "MIT",
    r"(3-clause bsd|bsd[ -]3-clause)( license)?": "BSD-3-Clause",
    r"isc( license.*)?": "ISC",
    r"mozilla public license 2\.0.*": "MPL-2.0",
    r"bsd( license)?": "BSD",
}
# A licence that asks for more than a notice when the package is changed or passed on.
_COPYLEFT = re.compile(
    r"GPL|MPL|EPL|CDDL|EUPL|OSL|CC-BY-(SA|NC)|SSPL|BUSL|proprietary|unknown", re.IGNORECASE
)


def pins() -> dict[str, str]:
    """Return the pinned versions by name."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)$", PINS.read_text(encoding="utf-8"), flags=re.MULTILINE))


def needed() -> dict[str, str]:
    """Return every distribution that the project needs here, by the first extra that brings it ("" for the core)."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()

    def add(requirement: Requirement, first: str) -> None:
        name = canonicalize_name(requirement.name)
        found.setdefault(name, first)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                listed = [Requirement(text) for text in distribution(name).requires or []]
            except PackageNotFoundError:
                return
            for one in listed:
                # What stands under no extra was taken with the extra "".
                if one.marker is None or one.marker.evaluate({"extra": extra}):
                    add(one, first)

    for extra in EXTRAS:
        listed = project["optional-dependencies"].get(extra, []) if extra else project["dependencies"]
        for text in listed:
            add(Requirement(text), extra)
    return dict(sorted(found.items()))


def licence(one: Distribution) -> str:
    """Return a distribution's licence: its SPDX expression, or what it says otherwise, as SPDX where that is plain."""
    told = one.metadata
    expression = told.get("License-Expression")
    if expression:
        return expression
    classes = [
        text.split(" :: ")[-1] for text in told.get_all("Classifier") or [] if text.startswith("License ::")
    ]
    first = (told.get("License") or "").strip().splitlines()[:1]
    says = [
        text for text in first if len(text) < 60 and not re.match(r"copyright|unknown", text, re.IGNORECASE)
    ]
    said = [
        next((s for form, s in _SPDX.items() if re.fullmatch(form, t, re.IGNORECASE)), t)
        for t in says + classes
    ]
    # A text that says which BSD is meant goes before a class that does not.
    known = sorted(dict.fromkeys(said), key=lambda text: text == "BSD")
    return known[0] if known else "unknown"


def installed(names: dict[str, str]) -> Iterator[tuple[str, Distribution]]:
    for name in names:
        try:
            yield name, distribution(name)
        except PackageNotFoundError:
            continue


def table() -> str:
    """Return docs/licences.md for what is installed here and pinned."""
    names, held = needed(), pins()
    rows = [
        (name, held[name], licence(one), f"`{names[name]}`" if names[name] else "core")
        for name, one in installed(names)
        if name in held
    ]
    asking = [f"{name} ({said})" for name, _, said, _ in rows if _COPYLEFT.search(said)]
    lines = [
        "# Licences of the dependencies",
        "",
        "Written by `python benchmarks/audit.py --licences` from what the installed distributions say of themselves; a",
        "test compares it with what is installed. Headscope itself is under the MIT licence and contains none of them.",
        "",
        f"All but {len(asking)} of {len(rows)} are permissive. These ask for more when their own files are changed and",
        f"passed on: {', '.join(asking)}.",
        "",
        "PyTorch for GPUs, as PyPI has it, also installs NVIDIA's CUDA libraries, which are under NVIDIA's own terms",
        "and are not pinned here.",
        "",
        "| distribution | version | licence | needed by |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def differing(names: dict[str, str], held: dict[str, str]) -> list[str]:
    """List what is not as it is pinned, or not pinned, or pinned and needed by nothing."""
    found, here = [], dict(installed(names))
    for name, one in here.items():
        version = one.version.partition("+")[0]  # a build of the same release, such as 2.13.0+cpu
        if name not in held:
            found.append(f"{name} {version}: not pinned")
        elif version != held[name]:
            found.append(f"{name}: {version} is installed, {held[name]} is pinned")
    complete = all(extra in names.values() for extra in EXTRAS)
    found += [f"{name}: pinned, and nothing needs it" for name in held if complete and name not in names]
    return found


def foreign(names: dict[str, str]) -> list[str]:
    """List what was installed from a repository, an address or a checkout, not from an index or a folder of wheels."""
    found = []
    for name, one in installed(names):
        text = one.read_text("direct_url.json")
        url = json.loads(text).get("url", "") if text else ""
        if text and not url.endswith(".whl"):
            found.append(f"{name}: installed from {url}")
    return found


def changed(names: dict[str, str]) -> list[str]:
    """List installed files that are not what their wheel recorded."""
    found = []
    for name, one in installed(names):
        for file in one.files or []:
            if file.hash is None or file.hash.mode != "sha256":
                continue
            try:
                with open(file.locate(), "rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").digest()
            except OSError as error:
                found.append(f"{name}: {file}: {error.strerror}")
                continue
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                found.append(f"{name}: {file}: changed since it was installed")
    return found


def vulnerable() -> tuple[bool | None, str]:
    """Ask pip-audit: whether all is well, or None where nobody could be asked; and what it said."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", PINS, "--no-deps", "--disable-pip"]
    command += ["--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if "No module named pip_audit" in done.stderr:
        return None, "not looked up: pip-audit is not installed here (pip install pip-audit)"
    try:
        told = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return None, f"not looked up: the database could not be asked ({last[:200]})"
    asked = [one for one in told if "skip_reason" not in one]
    found = [f"{one['name']} {one['version']}: {v['id']}" for one in asked for v in one["vulns"]]
    if not asked:  # pip-audit passes over what its database does not know, and is content
        return None, f"not looked up: the database that was asked knows none of the {len(told)} pins"
    said = f"{len(found)} found in {len(asked)} pins, {len(told) - len(asked)} not known to the database"
    return not found, "\n  ".join([said, *found])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--files", action="store_true", help="check every installed file; reads some gigabytes"
    )
    parser.add_argument("--licences", action="store_true", help="write docs/licences.md and do nothing else")
    given = parser.parse_args()
    if given.licences:
        LICENCES.write_text(table(), encoding="utf-8")
        print(f"File: {LICENCES}")
        return 0
    names, held = needed(), pins()
    here = dict(installed(names))
    print(
        f"{len(held)} pins; {len(here)} distributions needed and installed here, {len(names) - len(here)} not installed"
    )
    checks = {"pins": differing(names, held), "origin": foreign(names)}
    if given.files:
        checks["files"] = changed(names)
    pip = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    checks["pip check"] = [] if pip.returncode == 0 else pip.stdout.strip().splitlines()
    checks["licences"] = (
        [] if LICENCES.read_text(encoding="utf-8") == table() else ["docs/licences.md is not of today"]
    )
    for name, wrong in checks.items():
        print(f"{name}: {'ok' if not wrong else f'{len(wrong)} found'}", *wrong, sep="\n  ")
    well, said = vulnerable()
    print(f"vulnerabilities: {said}")
    return 1 if any(checks.values()) or well is False else 0


if __name__ == "__main__":
    raise SystemExit(main())
