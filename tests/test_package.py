"""The package as an installed thing: what it contains, what it imports, and what it declares."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import headscope

ROOT = Path(headscope.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
NOT_PACKAGED = {"tests", "benchmarks", "notebooks", "docs", "build", "dist", "runs"}


def run(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folders() -> list[Path]:
    """Every folder of the checkout that holds Python modules of the package."""
    tracked = [path for path in CHECKOUT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    rooms = [
        path for path in tracked if path.name not in NOT_PACKAGED and not path.name.endswith(".egg-info")
    ]
    return sorted({module.parent for room in rooms for module in room.rglob("*.py")})


def test_the_package_list_names_every_folder_of_modules():
    on_disk = [
        "headscope",
        *(".".join(["headscope", *path.relative_to(CHECKOUT).parts]) for path in folders()),
    ]
    assert PYPROJECT["tool"]["setuptools"]["packages"] == on_disk


def test_every_data_file_is_packaged():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    for room in {path.relative_to(CHECKOUT).parts[0] for path in folders()}:
        for file in (CHECKOUT / room).rglob("*"):
            if file.is_dir() or file.suffix in {".py", ".pyc"}:
                continue
            name = file.relative_to(CHECKOUT / room).as_posix()
            matches = [fnmatch.fnmatch(name, pattern) for pattern in patterns.get(f"headscope.{room}", [])]
            assert any(matches), f"{room}/{name} would be missing from the wheel"
    assert (CHECKOUT / "py.typed").exists() and "py.typed" in patterns["headscope"]


def test_the_version_stands_in_two_places_and_agrees():
    assert headscope.__version__ == PYPROJECT["project"]["version"]
    assert f"## {headscope.__version__}" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_every_public_name_can_be_loaded():
    for name in headscope.__all__:
        assert getattr(headscope, name).__name__ == name
        assert name in dir(headscope)
    assert set(headscope._HOME) == set(headscope.__all__)


def test_a_wrong_public_name_lists_the_nearest():
    with pytest.raises(AttributeError, match=r"no attribute 'laod'\. Nearest: load"):
        headscope.laod  # noqa: B018
    with pytest.raises(AttributeError, match="Public names: load, describe"):
        headscope.zzzzzz  # noqa: B018
    with pytest.raises(ImportError):
        from headscope import verfiy  # noqa: F401


def test_importing_headscope_imports_nothing_heavy():
    code = "import sys, json, headscope, headscope.cli; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(run(code, CHECKOUT)))
    heavy = {
        "torch",
        "pandas",
        "numpy",
        "transformers",
        "transformer_lens",
        "plotly",
        "scipy",
        "pyarrow",
        "datasets",
    }
    assert not heavy & modules


def test_from_the_repository_root_datasets_is_hugging_faces_library():
    out = run("import datasets; print(datasets.Dataset.__module__, datasets.__file__)", CHECKOUT)
    assert out.startswith("datasets.arrow_dataset") and "site-packages" in out
    assert not (CHECKOUT / "datasets" / "__init__.py").exists()


def third_party_imports() -> dict[str, str]:
    """Top-level names that the package's modules import, each with one file that does.

    The app's pages are scripts that Streamlit runs, so they import `headscope` by its name, as a user does.
    """
    found = {}
    for file in [*CHECKOUT.glob("*.py"), *(module for folder in folders() for module in folder.glob("*.py"))]:
        by_name = file.parent == CHECKOUT / "app"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                if not (by_name and node.module.split(".")[0] == "headscope"):
                    found[node.module.split(".")[0]] = str(file)
            elif isinstance(node, ast.Import):
                found.update({alias.name.split(".")[0]: str(file) for alias in node.names})
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


def declared(*, test: bool) -> set[str]:
    """Names in pyproject.toml, in the form that pip compares them in."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    lists = [
        PYPROJECT["project"]["dependencies"],
        *(extras[name] for name in extras if test or name not in ("test", "docs")),
    ]
    return {re.split(r"[<>=\[ ]", item)[0].lower().replace("_", "-") for items in lists for item in items}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    named = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn"}  # not called as they are imported
    imported = {named.get(name, name.replace("_", "-")): file for name, file in third_party_imports().items()}
    assert "headscope" not in imported, f"{imported['headscope']} imports its own package by name"
    assert not {name: file for name, file in imported.items() if name not in declared(test=False)}
    by_pandas = {"pyarrow"}  # what pandas reads and writes parquet with
    assert not declared(test=False) - set(imported) - by_pandas, "declared, but nothing imports it"


def test_every_declared_dependency_is_pinned_and_no_pin_names_a_place():
    pins = (CHECKOUT / "constraints.txt").read_text()
    assert declared(test=True) <= set(re.findall(r"^([\w-]+)==[\w.]+$", pins, flags=re.M))
    assert not re.search(r"://|file:|--|\+", pins)


def test_imports_go_down_the_rooms_only():
    order = ["datasets", "hooks", "organisms", "analysis", "jobs", "app", "commands"]
    wrong = []
    for folder in folders():
        parts = folder.relative_to(CHECKOUT).parts
        for module in folder.glob("*.py"):
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == len(parts) + 1 and node.module:
                    room = node.module.split(".")[0]
                    if room in order and order.index(room) > order.index(parts[0]):
                        wrong.append(f"{module.relative_to(CHECKOUT)}:{node.lineno} imports {room}")
    assert not wrong
