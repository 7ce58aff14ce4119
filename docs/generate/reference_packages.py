"""The page of each package: its docstring, and the public functions and classes of its modules."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

from reference_methods import circuit_methods, scores
from reference_parts import ROOT, dotted, first_line

ROOMS = ("datasets", "hooks", "organisms", "analysis", "jobs")


@cache
def packages() -> tuple[str, ...]:
    """Every folder of modules that is documented, by its dotted name."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    return tuple(name for name in listed if name.split(".")[1:2] and name.split(".")[1] in ROOMS)


def modules(package: str) -> list[Path]:
    """The files of a package's modules, in the order of their names."""
    return sorted(path for path in _folder(package).glob("*.py") if path.name != "__init__.py")


def about(package: str) -> str:
    """The docstring of a package."""
    file = _folder(package) / "__init__.py"
    if not file.exists():
        return "Prompts, and the generators that make them." if file.parent.name == "datasets" else ""
    return _docstring(file)


@cache
def public(package: str) -> dict[str, dict[str, str]]:
    """The public functions and classes of each module with their first lines, those of the methods' pages left out."""
    found = {}
    elsewhere = _on_methods_pages()
    for file in modules(package):
        module = f"{package}.{file.stem}"
        lines = {
            node.name: first_line(ast.get_docstring(node) or "")
            for node in _tree(file).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and f"{module}.{node.name}" not in elsewhere
        }
        if lines:
            found[module] = lines
    return found


def package_page(package: str) -> str:
    """The docstring of a package, and below it every module with its public names."""
    parts = [f"# `{package}`", "", about(package), ""]
    for module, names in public(package).items():
        stem = module.split(".")[-1]
        parts += [f"## {stem} {{#{module}}}", "", _docstring(_folder(package) / f"{stem}.py"), ""]
        for name in names:
            parts += [f"::: {module}.{name}", ""]
    return "\n".join(parts)


@cache
def _on_methods_pages() -> frozenset[str]:
    """Functions that have an entry among the scores or the methods that find circuits."""
    return frozenset(dotted(one.function) for one in (*scores().values(), *circuit_methods().values()))


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def _docstring(file: Path) -> str:
    return ast.get_docstring(_tree(file)) or ""


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
