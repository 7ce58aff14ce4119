"""Writes the pages of the reference from the package itself, so that they cannot say what is not there.

`pages()` gives each page's Markdown; `names()` lists what they must describe, which a test compares with the site.
A line such as `::: headscope.hooks.load.load` is filled in by mkdocstrings from the docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("datasets", "hooks", "organisms", "analysis", "jobs")
_WITHOUT_HEADING = "    options: {show_root_heading: false, show_root_toc_entry: false}"


@cache
def packages() -> dict[str, str]:
    """Every folder of modules that is documented, by its dotted name, with the summary of its page."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    return {name: _folder(name) for name in listed if name.split(".")[1:2] and name.split(".")[1] in ROOMS}


def _folder(name: str) -> str:
    return "/".join(name.split(".")[1:])


@cache
def public(package: str) -> dict[str, tuple[str, ...]]:
    """The public functions and classes of each module of a package, those of the methods' pages left out."""
    found = {}
    elsewhere = set(described_elsewhere())
    for file in sorted((ROOT / _folder(package)).glob("*.py")):
        if file.name == "__init__.py":
            continue
        body = ast.parse(file.read_text(encoding="utf-8")).body
        module = f"{package}.{file.stem}"
        here = (node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))
        names = tuple(n for n in here if not n.startswith("_") and f"{module}.{n}" not in elsewhere)
        if names:
            found[module] = names
    return found


@cache
def described_elsewhere() -> dict[str, str]:
    """Functions that have an entry on a page of their own kind, with that page."""
    from headscope.analysis.circuits.discover import discoveries
    from headscope.analysis.registry import methods

    scored = {_path(one.function): "methods" for one in methods().values() if _ours(one.function)}
    found = {_path(one.function): "circuit-methods" for one in discoveries().values() if _ours(one.function)}
    return {**scored, **found}


def _ours(function: Any) -> bool:
    return function.__module__.startswith("headscope.")


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def names() -> Iterator[tuple[str, str, str]]:
    """Every public name as (page, anchor, first line of its description)."""
    import headscope
    from headscope.analysis.circuits.discover import discoveries
    from headscope.analysis.registry import methods

    for name in headscope.__all__:
        yield "headscope", f"headscope.{name}", _first_line(inspect.getdoc(getattr(headscope, name)) or "")
    for page, found in (("methods", methods()), ("circuit-methods", discoveries())):
        yield from ((page, name, one.summary) for name, one in found.items() if _ours(one.function))
    for package in packages():
        for module in public(package):
            for name, line in _summaries(module).items():
                yield f"api/{package}", f"{module}.{name}", line
    yield from (
        ("interventions", cls.__name__, _first_line(inspect.getdoc(cls) or "")) for cls in interventions()
    )
    yield from (("steering", name, one.summary) for name, one in _presets().items())
    for words, text in commands():
        yield "command-line", "-".join(words), text.split("\n\n")[1]
    for name, kind in _kinds().items():
        yield "jobs", f"kind-{name}", _first_line(inspect.getdoc(kind) or "")
    yield from (("errors", name, line) for name, line in _errors().items())
    yield from (("recipes", path.stem, _first_line(path.read_text().lstrip("# "))) for path in recipes())


def _summaries(module: str) -> dict[str, str]:
    """The first line of each public function's and class's docstring."""
    package, _, stem = module.rpartition(".")
    body = ast.parse((ROOT / _folder(package) / f"{stem}.py").read_text(encoding="utf-8")).body
    wanted = public(package)[module]
    defined = (
        node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in wanted
    )
    return {node.name: _first_line(ast.get_docstring(node) or "") for node in defined}


def pages() -> dict[str, str]:
    """Every page, by its address under `reference/`."""
    made = {
        "headscope": _front_door(),
        "methods": _methods(),
        "circuit-methods": _circuit_methods(),
        "interventions": _interventions(),
        "steering": _steering(),
        "command-line": _command_line(),
        "jobs": _jobs(),
        "recipes": _recipes(),
        "errors": _errors_page(),
        **{f"api/{package}": _package(package) for package in packages()},
    }
    return {"index": _index(made), **made}


def _index(made: Mapping[str, str]) -> str:
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
    for package in packages():
        summary = _first_line(_docstring(ROOT / _folder(package) / "__init__.py"))
        table.append(f"| [`{package}`](api/{package}.md) | {summary} |")
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


def _methods() -> str:
    from headscope.analysis.registry import methods

    parts = [
        "# Scores",
        "",
        "What heads can be scored by: `headscope score NAME`, or `headscope.score(model, NAME)`. A score describes",
        "attention or the output of a head; whether the model needs it is for [`verify`](headscope.md) to say.",
        "",
    ]
    for name, one in methods().items():
        if not _ours(one.function):
            continue
        facts = [
            ("A high score", one.higher),
            ("Prompts, where none are given", f"`{one.data}`"),
            ("Causal check, where nothing else is said", f"metric `{one.metric}`, phase `{one.phase}`"),
            ("Tested against chance", one.alternative or "no"),
            ("Reference", _linked(one.reference)),
        ]
        parts += [f"## {name} {{#{name}}}", "", "| | |", "|---|---|"]
        parts += [f"| {key} | {_cell(value)} |" for key, value in facts]
        parts += ["", *_options(one.options), f"::: {_path(one.function)}", _WITHOUT_HEADING, ""]
    return "\n".join(parts)


def _circuit_methods() -> str:
    from headscope.analysis.circuits.discover import discoveries

    parts = [
        "# Circuits",
        "",
        "What finds circuits: `headscope circuit TASK --method NAME`, or `discover` of",
        "[`headscope.analysis.circuits`](api/headscope.analysis.circuits.md).",
        "",
    ]
    for name, one in discoveries().items():
        if not _ours(one.function):
            continue
        facts = [
            ("Scores", "edges and heads" if one.edges else "heads"),
            ("A score is", "a measured effect" if one.exact else "an estimate"),
            ("Reference", _linked(one.reference)),
        ]
        parts += [f"## {name} {{#{name}}}", "", "| | |", "|---|---|"]
        parts += [f"| {key} | {_cell(value)} |" for key, value in facts]
        parts += ["", *_options(one.options), f"::: {_path(one.function)}", _WITHOUT_HEADING, ""]
    return "\n".join(parts)


def _options(options: Mapping[str, Any]) -> list[str]:
    if not options:
        return []
    rows = []
    for one in options.values():
        hint = inspect.formatannotation(one.type) if one.type is not None else ""
        default = getattr(one.default, "__name__", None) or repr(one.default)
        rows.append(f"| `{one.name}` | `{_cell(hint.replace('typing.', ''))}` | `{_cell(default)}` |")
    return ["| option | type | default |", "|---|---|---|", *rows, ""]


@cache
def interventions() -> tuple[type, ...]:
    """Every kind of change, in the order of their names."""
    import importlib

    from headscope.hooks.decoding import Decoding
    from headscope.hooks.interventions import Intervention

    for package in packages():
        for file in sorted((ROOT / _folder(package)).glob("*.py")):
            text = file.read_text(encoding="utf-8")
            if re.search(r"^class \w+\((Intervention|PointEdit|PatternEdit|Decoding)\)", text, flags=re.M):
                importlib.import_module(f"{package}.{file.stem}")
    found, todo = set(), [Intervention, Decoding]
    while todo:
        for cls in todo.pop().__subclasses__():
            if _ours(cls) and not cls.__name__.startswith("_"):
                todo.append(cls)
                found.add(cls)
    return tuple(sorted(found, key=lambda cls: cls.__name__))


def _interventions() -> str:
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
    rows = [(cls.__name__, _first_line(inspect.getdoc(cls) or "")) for cls in interventions()]
    parts += [f"| [`{name}`](#{name}) | {_cell(summary)} |" for name, summary in rows]
    for cls in interventions():
        parts += [
            "",
            f"## {cls.__name__} {{#{cls.__name__}}}",
            "",
            f"`{_path(cls)}`; {_made_by(cls)}",
            "",
            f"::: {_path(cls)}",
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


def _presets() -> Mapping[str, Any]:
    from headscope.analysis.steering import presets

    return presets.PRESETS


def _steering() -> str:
    from headscope.analysis.steering.presets import NEEDS

    parts = [
        "# Steering",
        "",
        "Methods that are turned up and down by one number: `headscope generate --steer NAME=STRENGTH`, and",
        "`headscope steer NAME`, which chooses the strength on some prompts and reports on others.",
        "",
    ]
    for name, one in _presets().items():
        needs = "; ".join(NEEDS[need] for need in one.needs) or "nothing"
        facts = [
            ("What it does", one.summary),
            ("Needs", needs),
            ("The number", one.strength),
            ("Changes nothing at", f"`{one.neutral}`"),
            ("Usual numbers", f"`{', '.join(map(str, one.strengths))}`"),
            ("Reference", _linked(one.reference)),
        ]
        parts += [f"## {name} {{#{name}}}", "", "| | |", "|---|---|"]
        parts += [f"| {key} | {_cell(value)} |" for key, value in facts] + [""]
    return "\n".join(parts)


@cache
def commands() -> tuple[tuple[tuple[str, ...], str], ...]:
    """Every command, as its words, with its help."""
    import typer
    from typer.testing import CliRunner

    from headscope.cli import app

    found: list[tuple[tuple[str, ...], str]] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        done = CliRunner().invoke(app, [*words[1:], "--help"], prog_name="headscope", env={"COLUMNS": "80"})
        found.append((words, done.stdout.strip("\n")))
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))

    walk(typer.main.get_command(app), ("headscope",))
    return tuple(found)


def _command_line() -> str:
    parts = ["# Command line", ""]
    for words, text in commands():
        level = "##" if len(words) < 3 else "###"
        parts += [f"{level} {' '.join(words)} {{#{'-'.join(words)}}}", "", "```text", text, "```", ""]
    return "\n".join(parts)


def _kinds() -> Mapping[str, Any]:
    from headscope.jobs.steps import kinds

    return {name: kind for name, kind in kinds().items() if _ours(kind)}


def _jobs() -> str:
    from headscope.jobs.spec import JobHead, RunSettings
    from headscope.jobs.steps import Data, Step

    parts = [
        "# Job files",
        "",
        "What a job file may say. `headscope jobs schema` prints the same as a JSON schema; [Batch jobs](../jobs.md)",
        "has examples.",
        "",
        "## The job",
        "",
        *_fields(JobHead),
        "## `data`",
        "",
        (inspect.getdoc(Data) or ""),
        "",
        *_fields(Data),
        "## `run`",
        "",
        (inspect.getdoc(RunSettings) or ""),
        "",
        *_fields(RunSettings),
        "## Every step",
        "",
        *_fields(Step),
    ]
    for name, kind in _kinds().items():
        parts += [f"## kind: {name} {{#kind-{name}}}", "", _first_paragraph(inspect.getdoc(kind) or ""), ""]
        parts += _fields(kind, without=set(Step.model_fields))
    return "\n".join(parts)


def _fields(model: Any, without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    rows = []
    for name, info in model.model_fields.items():
        if name in without:
            continue
        value = None if info.is_required() else info.get_default(call_default_factory=True)
        default = f"`{_cell(repr(value))}`" if not hasattr(type(value), "model_fields") else "see below"
        default = "needed" if info.is_required() else default
        hint = re.sub(
            r"\b(headscope|typing|[a-z_]+)\.(\w+\.)*", "", inspect.formatannotation(info.annotation)
        )
        rows.append(f"| `{name}` | `{_cell(hint)}` | {default} | {_cell(info.description or '')} |")
    return ["| key | type | default | |", "|---|---|---|---|", *rows, ""]


@cache
def recipes() -> tuple[Path, ...]:
    """The jobs that come with the package."""
    return tuple(sorted((ROOT / "jobs" / "recipes").glob("*.yaml")))


def _recipes() -> str:
    parts = [
        "# Recipes",
        "",
        "Jobs with the settings of published studies, in `jobs/recipes/`. Each begins with what is as in the paper and",
        "what is not. [How to run one](../how-to/reproduce-a-study.md).",
        "",
    ]
    for path in recipes():
        parts += [f"## {path.stem} {{#{path.stem}}}", "", "```yaml", path.read_text().strip(), "```", ""]
    return "\n".join(parts)


def _errors() -> dict[str, str]:
    """Every error that is meant for a user, with its first line."""
    from headscope import errors

    found = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and _ours(kind)}
    return {name: _first_line(inspect.getdoc(kind) or "") for name, kind in found.items()}


def _errors_page() -> str:
    from headscope import errors

    parts = [
        "# Errors",
        "",
        "All are in `headscope.errors`. A `CallError` ends a command with exit status 2, a `RunError` with 1.",
        "[Troubleshooting](../how-to/troubleshooting.md) says what to do.",
        "",
    ]
    for name, line in _errors().items():
        (base,) = getattr(errors, name).__bases__
        parts += [f"## {name} {{#{name}}}", "", line, "", f"A kind of `{base.__name__}`.", ""]
    return "\n".join(parts)


def _package(package: str) -> str:
    doc = _docstring(ROOT / _folder(package) / "__init__.py")
    parts = [f"# `{package}`", "", doc, ""]
    for module in public(package):
        file = ROOT / _folder(package) / f"{module.split('.')[-1]}.py"
        parts += [f"## {module.split('.')[-1]} {{#{module}}}", "", _docstring(file), ""]
        for name in public(package)[module]:
            parts += [f"::: {module}.{name}", ""]
    return "\n".join(parts)


def _docstring(file: Path) -> str:
    if not file.exists():
        return "Prompts, and the generators that make them." if file.parent.name == "datasets" else ""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _first_paragraph(text: str) -> str:
    return text.split("\n\n")[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace(" | ", " or ").replace("|", "\\|")


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
