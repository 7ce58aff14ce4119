"""Turns the notebooks into pages: their words, their code, and the outputs that are stored in them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORDER = (
    "start_here",
    "retrieval_and_contextual",
    "safety",
    "vision",
    "circuits",
    "steering",
    "bring_your_own",
    "batch_results",
)


def notebooks() -> list[Path]:
    """The notebooks in reading order; new ones come last."""
    found = (ROOT / "notebooks").glob("*.ipynb")
    return sorted(found, key=lambda p: (ORDER.index(p.stem) if p.stem in ORDER else len(ORDER), p.stem))


def pages() -> dict[str, str | bytes]:
    """Every page and picture, by its address under `notebooks/`."""
    made: dict[str, str | bytes] = {}
    rows = []
    for path in notebooks():
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [f"*`notebooks/{path.name}`, with the outputs that are stored in it.*\n"]
        pictures: dict[str, bytes] = {}
        for cell in content["cells"]:
            parts += _cell(cell, path.stem, pictures)
        text = "\n".join(parts)
        first = re.search(r"^# (.+)$", text, flags=re.M)
        title = first[1] if first else path.stem
        if first:
            text = f"{first[0]}\n\n{text[: first.start()]}{text[first.end() :]}"
        rows.append((title, path.stem, _second_line(text)))
        made[f"{path.stem}.md"] = text
        made |= pictures
    table = [f"| [{title}]({stem}.md) | {about} |" for title, stem, about in rows]
    intro = "Executed in the tests, each on a model that comes with the package, in minutes on a CPU.\n"
    made["index.md"] = "\n".join(["# Notebooks", "", intro, "| notebook | begins |", "|---|---|", *table, ""])
    return made


def _second_line(text: str) -> str:
    paragraphs = [part for part in text.split("\n\n")[2:] if part and not part.startswith(("*", "#", "`"))]
    return (
        re.split(r"(?<=[.:])\s", " ".join(paragraphs[0].split()))[0].replace("|", "\\|") if paragraphs else ""
    )


def _cell(cell: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source + "\n"
        return
    if source.strip():
        yield f"```python\n{source}\n```\n"
    for number, output in enumerate(cell.get("outputs", [])):
        yield from _output(output, f"{stem}-{cell['id']}-{number}.png", pictures)


def _output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    data = output.get("data", {})
    if output["output_type"] == "stream" and output.get("name") == "stdout":
        yield _text("".join(output["text"]))
    elif "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        yield f"![The figure that the cell above makes]({name})\n"
    elif "text/plain" in data:
        yield _text("".join(data["text/plain"]))


def _text(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()
    return f"````text\n{plain}\n````\n" if plain else ""
