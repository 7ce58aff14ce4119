"""The audit of the dependencies, and the page of their licences that it writes."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    return script("audit")


@pytest.fixture(scope="module")
def rows(audit: ModuleType) -> dict[str, tuple[str, str, str]]:
    """Version, licence and where it is needed, by name, as the page has them."""
    text = audit.LICENCES.read_text(encoding="utf-8")
    found = re.findall(r"^\| ([\w.-]+) \| ([\w.]+) \| (.+) \| (.+) \|$", text, flags=re.MULTILINE)
    return {name: (number, said, where) for name, number, said, where in found if name != "distribution"}


def test_every_pin_stands_on_the_page_in_its_version(audit, rows):
    assert {name: row[0] for name, row in rows.items()} == audit.pins()


def test_the_page_says_of_every_installed_pin_what_it_says_of_itself(audit, rows):
    names, held = audit.needed(), audit.pins()
    here = {
        name: one for name, one in audit.installed(names) if held.get(name) == one.version.partition("+")[0]
    }
    if len(here) < 80:
        pytest.skip(f"only {len(here)} distributions are installed in their pinned versions")
    assert {name: audit.licence(one) for name, one in here.items()} == {name: rows[name][1] for name in here}
    assert not [name for name, row in rows.items() if row[1] == "unknown"]


def test_the_page_names_whatever_is_not_permissive(audit, rows):
    asking = {name for name, row in rows.items() if re.search("GPL|MPL", row[1])}
    text = audit.LICENCES.read_text(encoding="utf-8")
    assert asking
    assert f"All but {len(asking)} of {len(rows)} are permissive." in text
    assert all(f"{name} (" in text for name in asking)
    assert not [name for name, row in rows.items() if re.search(r"(?<!L)GPL|AGPL|SSPL", row[1])], (
        "ask a lawyer"
    )


def test_the_audit_tells_other_versions_and_what_nobody_pinned(audit):
    names = {"numpy": "", "pandas": ""}
    right = {name: version(name) for name in names}
    assert audit.differing(names, right) == []
    assert audit.differing(names, right | {"numpy": "0.1"}) == [
        f"numpy: {version('numpy')} is installed, 0.1 is pinned"
    ]
    del right["pandas"]
    assert audit.differing(names, right) == [f"pandas {version('pandas')}: not pinned"]


def test_a_database_that_knows_nothing_is_no_clean_bill(audit, monkeypatch):
    def answer(text: str, error: str = "", code: int = 0):
        done = type("Done", (), {"stdout": text, "stderr": error, "returncode": code})
        monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
        return audit.vulnerable()

    assert answer("", "No module named pip_audit", 1)[0] is None
    assert answer("", "ConnectionError: no route", 1)[0] is None
    assert answer('{"dependencies": [{"name": "x", "skip_reason": "not found"}]}')[0] is None
    assert answer('{"dependencies": [{"name": "x", "version": "1", "vulns": []}]}')[0] is True
    bad, said = answer(
        '{"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "CVE-1"}]}]}', code=1
    )
    assert bad is False and "x 1: CVE-1" in said


def test_the_lowest_versions_are_those_of_every_direct_dependency():
    lowest = script("compatibility").lowest()
    assert re.search(r"^torch==[\d.]+$", lowest, flags=re.MULTILINE)
    assert re.search(r"^pyright==[\d.]+$", lowest, flags=re.MULTILINE)
    assert len(lowest.splitlines()) > 30
