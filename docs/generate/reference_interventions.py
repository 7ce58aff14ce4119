"""The page of interventions: every kind of change, found among the subclasses in the package."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

from reference_packages import modules, packages
from reference_parts import cell, dotted, first_line, is_ours


@cache
def interventions() -> tuple[type, ...]:
    """Every kind of change, in the order of their names."""
    from headscope.hooks.decoding import Decoding
    from headscope.hooks.interventions import Intervention

    for package in packages():
        for file in modules(package):
            text = file.read_text(encoding="utf-8")
            if re.search(r"^class \w+\((Intervention|PointEdit|PatternEdit|Decoding)\)", text, flags=re.M):
                importlib.import_module(f"{package}.{file.stem}")
    found, todo = set(), [Intervention, Decoding]
    while todo:
        for cls in todo.pop().__subclasses__():
            if is_ours(cls) and not cls.__name__.startswith("_"):
                todo.append(cls)
                found.add(cls)
    return tuple(sorted(found, key=lambda cls: cls.__name__))


def interventions_page() -> str:
    """A table of all kinds, and each with its docstring and what makes it."""
    parts = [
        "# Interventions",
        "",
        "Frozen values that say what to change in which heads, at which positions, in which phase. Give one or several",
        "to [`intervene`](headscope.md), [`generate`](headscope.md) or a sweep. Each replaces activations, never",
        "weights. [A new one](../how-to/add-an-intervention.md) is a small class.",
        "",
        "| kind | what it does |",
        "|---|---|",
    ]
    rows = [(cls.__name__, first_line(inspect.getdoc(cls) or "")) for cls in interventions()]
    parts += [f"| [`{name}`](#{name}) | {cell(summary)} |" for name, summary in rows]
    for cls in interventions():
        parts += [
            "",
            f"## {cls.__name__} {{#{cls.__name__}}}",
            "",
            f"`{dotted(cls)}`; {_made_by(cls)}",
            "",
            f"::: {dotted(cls)}",
            "    options: {show_root_heading: false, show_root_toc_entry: false, members: false}",
        ]
    return "\n".join([*parts, ""])


def _made_by(cls: type) -> str:
    """Which functions return one."""
    file = Path(inspect.getsourcefile(cls) or "")
    made = [
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and node.returns is not None
        and ast.unparse(node.returns) == cls.__name__
    ]
    module = cls.__module__.split(".")[-1]
    if made:
        return "made by " + ", ".join(f"`{module}.{name}`" for name in made) + "."
    return "a base for others." if inspect.isabstract(cls) else "made by calling the class."
