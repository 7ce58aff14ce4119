"""The pages of what is registered by name: scores of heads, what finds circuits, presets of steering."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from reference_parts import cell, dotted, entry, is_ours, linked

_WITHOUT_HEADING = "    options: {show_root_heading: false, show_root_toc_entry: false}"


def scores() -> dict[str, Any]:
    """What heads can be scored by, as registered by the package itself."""
    from headscope.analysis.registry import methods

    return {name: one for name, one in methods().items() if is_ours(one.function)}


def scores_page() -> str:
    """Every score with its facts, options and docstring."""
    parts = [
        "# Scores",
        "",
        "What heads can be scored by: `headscope score NAME`, or `headscope.score(model, NAME)`. A score describes",
        "attention or the output of a head; whether the model needs it is for [`verify`](headscope.md) to say.",
        "",
    ]
    for name, one in scores().items():
        facts = [
            ("A high score", one.higher),
            ("Prompts, where none are given", f"`{one.data}`"),
            ("Causal check, where nothing else is said", f"metric `{one.metric}`, phase `{one.phase}`"),
            ("Tested against chance", one.alternative or "no"),
            ("Reference", linked(one.reference)),
        ]
        parts += [*entry(name, facts), *_function(one)]
    return "\n".join(parts)


def circuit_methods() -> dict[str, Any]:
    """What finds circuits, as registered by the package itself."""
    from headscope.analysis.circuits.discover import discoveries

    return {name: one for name, one in discoveries().items() if is_ours(one.function)}


def circuit_methods_page() -> str:
    """Everything that finds circuits, with its facts, options and docstring."""
    parts = [
        "# Circuits",
        "",
        "What finds circuits: `headscope circuit TASK --method NAME`, or `discover` of",
        "[`headscope.analysis.circuits`](api/headscope.analysis.circuits.md).",
        "",
    ]
    for name, one in circuit_methods().items():
        facts = [
            ("Scores", "edges and heads" if one.edges else "heads"),
            ("A score is", "a measured effect" if one.exact else "an estimate"),
            ("Reference", linked(one.reference)),
        ]
        parts += [*entry(name, facts), *_function(one)]
    return "\n".join(parts)


def _function(one: Any) -> list[str]:
    """The options of a score or a finder of circuits, and the docstring of its function."""
    return [*_options(one.options), f"::: {dotted(one.function)}", _WITHOUT_HEADING, ""]


def _options(options: Mapping[str, Any]) -> list[str]:
    if not options:
        return []
    rows = []
    for one in options.values():
        hint = inspect.formatannotation(one.type) if one.type is not None else ""
        default = getattr(one.default, "__name__", None) or repr(one.default)
        rows.append(f"| `{one.name}` | `{cell(hint.replace('typing.', ''))}` | `{cell(default)}` |")
    return ["| option | type | default |", "|---|---|---|", *rows, ""]


def presets() -> Mapping[str, Any]:
    """The methods of steering that are turned by one number."""
    from headscope.analysis.steering.presets import PRESETS

    return PRESETS


def steering_page() -> str:
    """Every preset of steering with its facts."""
    from headscope.analysis.steering.presets import NEEDS

    parts = [
        "# Steering",
        "",
        "Methods that are turned up and down by one number: `headscope generate --steer NAME=STRENGTH`, and",
        "`headscope steer NAME`, which chooses the strength on some prompts and reports on others.",
        "",
    ]
    for name, one in presets().items():
        facts = [
            ("What it does", one.summary),
            ("Needs", "; ".join(NEEDS[need] for need in one.needs) or "nothing"),
            ("The number", one.strength),
            ("Changes nothing at", f"`{one.neutral}`"),
            ("Usual numbers", f"`{', '.join(map(str, one.strengths))}`"),
            ("Reference", linked(one.reference)),
        ]
        parts += entry(name, facts)
    return "\n".join(parts)
