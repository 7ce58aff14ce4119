"""Writes the pages of the reference from the package itself, so that they cannot say what is not there.

`pages()` gives each page's Markdown, made here or in the module of its subject; `names()` lists what they must
describe, which a test compares with the site. A line such as `::: headscope.hooks.load.load` is filled in by
mkdocstrings from the docstring.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from reference_commands import command_line_page, commands, errors_page, user_errors
from reference_interventions import interventions, interventions_page
from reference_jobs import jobs_page, recipes, recipes_page, step_kinds
from reference_methods import (
    circuit_methods,
    circuit_methods_page,
    presets,
    scores,
    scores_page,
    steering_page,
)
from reference_packages import about, package_page, packages, public
from reference_parts import first_line


def pages() -> dict[str, str]:
    """Every page, by its address under `reference/`."""
    return {
        "index": _index(),
        "headscope": _front_door(),
        "methods": scores_page(),
        "circuit-methods": circuit_methods_page(),
        "interventions": interventions_page(),
        "steering": steering_page(),
        "command-line": command_line_page(),
        "jobs": jobs_page(),
        "recipes": recipes_page(),
        "errors": errors_page(),
        **{f"api/{package}": package_page(package) for package in packages()},
    }


def names() -> Iterator[tuple[str, str, str]]:
    """Every public name as (page, anchor, first line of its description)."""
    import headscope

    for name in headscope.__all__:
        yield "headscope", f"headscope.{name}", _summary(getattr(headscope, name))
    registered = {"methods": scores(), "circuit-methods": circuit_methods(), "steering": presets()}
    for page, found in registered.items():
        yield from ((page, name, one.summary) for name, one in found.items())
    for package in packages():
        for module, lines in public(package).items():
            yield from ((f"api/{package}", f"{module}.{name}", line) for name, line in lines.items())
    yield from (("interventions", cls.__name__, _summary(cls)) for cls in interventions())
    yield from (("command-line", "-".join(words), text.split("\n\n")[1]) for words, text in commands())
    yield from (("jobs", f"kind-{name}", _summary(kind)) for name, kind in step_kinds().items())
    yield from (("errors", name, _summary(kind)) for name, kind in user_errors().items())
    yield from (("recipes", path.stem, first_line(path.read_text().lstrip("# "))) for path in recipes())


def _index() -> str:
    rows = [
        ("headscope", "the front door", "what `import headscope` offers"),
        ("methods", "scores", "what heads can be scored by, as `headscope methods` lists"),
        ("circuit-methods", "circuits", "what finds circuits, as `headscope circuit methods` lists"),
        ("interventions", "interventions", "what can be done to heads, and where it acts"),
        ("steering", "steering", "methods of steering, with the number that is turned"),
        ("command-line", "command line", "every command with its help"),
        ("jobs", "job files", "every key of a job file and every kind of step"),
        ("recipes", "recipes", "jobs with the settings of published studies"),
        ("errors", "errors", "what can be caught, and what each means"),
    ]
    table = [f"| [{title}]({page}.md) | {what} |" for page, title, what in rows]
    table += [f"| [`{package}`](api/{package}.md) | {first_line(about(package))} |" for package in packages()]
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the package when this site was built: docstrings, registries, help texts and job schemas.",
            "",
            "| page | holds |",
            "|---|---|",
            *table,
            "",
        ]
    )


def _front_door() -> str:
    import headscope

    parts = ["# `headscope`", "", "What `import headscope` offers. Each is loaded on first use.", ""]
    for name in headscope.__all__:
        parts += [f"::: headscope.{name}", "    options: {heading_level: 2}", ""]
    return "\n".join(parts)


def _summary(thing: Any) -> str:
    return first_line(inspect.getdoc(thing) or "")
