"""The pages of jobs: the keys of a job file, every kind of step, and the recipes that come with the package."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from reference_parts import ROOT, cell, is_ours


def step_kinds() -> dict[str, Any]:
    """Every kind of step, as registered by the package itself."""
    from headscope.jobs.steps import kinds

    return {name: kind for name, kind in kinds().items() if is_ours(kind)}


def jobs_page() -> str:
    """Every key of a job file, of its parts and of each kind of step."""
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
    for name, kind in step_kinds().items():
        first_paragraph = (inspect.getdoc(kind) or "").split("\n\n")[0]
        parts += [f"## kind: {name} {{#kind-{name}}}", "", first_paragraph, ""]
        parts += _fields(kind, without=Step.model_fields)
    return "\n".join(parts)


def _fields(model: Any, without: Collection[str] = ()) -> list[str]:
    rows = []
    for name, info in model.model_fields.items():
        if name in without:
            continue
        value = None if info.is_required() else info.get_default(call_default_factory=True)
        default = f"`{cell(repr(value))}`" if not hasattr(type(value), "model_fields") else "see below"
        default = "needed" if info.is_required() else default
        hint = re.sub(
            r"\b(headscope|typing|[a-z_]+)\.(\w+\.)*", "", inspect.formatannotation(info.annotation)
        )
        rows.append(f"| `{name}` | `{cell(hint)}` | {default} | {cell(info.description or '')} |")
    return ["| key | type | default | |", "|---|---|---|---|", *rows, ""]


@cache
def recipes() -> tuple[Path, ...]:
    """The jobs that come with the package."""
    return tuple(sorted((ROOT / "jobs" / "recipes").glob("*.yaml")))


def recipes_page() -> str:
    """Every recipe as it is in its file."""
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
