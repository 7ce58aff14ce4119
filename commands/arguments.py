"""What commands are given, read: options as text, prompt files, heads and what to do to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadOption, MissingData, nearest

if TYPE_CHECKING:
    from ..analysis.changes import Change
    from ..analysis.run import Run
    from ..datasets.prompts import Prompt, PromptSet
    from ..hooks.interventions import Intervention

Number = TypeVar("Number", int, float)


def pairs(items: Sequence[str], where: str) -> dict[str, str]:
    """Read `key=value` items."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise BadOption(f"{where} {item!r}: expected key=value, such as {where} threshold=0.1")
        if key in found:
            raise BadOption(f"{where} {item!r}: {key} stands twice; give it once")
        found[key] = value
    return found


def prompts_from_file(data: str | None) -> PromptSet | None:
    """Read a prompt file, JSON lines or CSV; None where `data` is no file but a name, or not given."""
    if data is None:
        return None
    path = Path(data).expanduser()
    if path.suffix == ".csv":
        from ..datasets.csv_files import from_csv

        return from_csv(path)
    if path.suffix == ".jsonl" or path.exists() or len(path.parts) > 1:
        from ..datasets.prompts import PromptSet

        if path.exists() and path.suffix != ".jsonl" and path.is_file():
            raise MissingData(f"{data}: expected a file that ends in .jsonl, one prompt a line")
        return PromptSet.from_jsonl(path)
    return None


def kinds() -> dict[str, Any]:
    """Return the interventions that need nothing but heads, by name."""
    from ..hooks.interventions import uniform, zero

    return {"uniform": uniform, "zero": zero}


def one_of(name: str, choices: Iterable[str], where: str) -> str:
    """Return the name if it is one of the choices."""
    known = list(choices)
    if name not in known:
        raise BadOption(f"{where} {name}: no such choice.{nearest(name, known)}")
    return name


def numbers(text: str, option: str, example: str, *, least: float = -math.inf) -> tuple[float, ...]:
    """Read numbers with commas between."""
    return _listed(float, text, f"{option} {text}: expected numbers", example, least)


def sizes(text: str, option: str = "--k", example: str = "1,2,4,8", *, least: int = 1) -> tuple[int, ...]:
    """Read whole numbers with commas between."""
    return _listed(int, text, f"{option} {text}: expected whole numbers", example, least)


def _listed(
    read: Callable[[str], Number], text: str, expected: str, example: str, least: float
) -> tuple[Number, ...]:
    try:
        found = tuple(read(one) for one in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(one >= least for one in found):
        bound = "" if least == -math.inf else f"{least:g} or more, "
        raise BadOption(f"{expected} with commas between, {bound}such as {example}.")
    return found


def marked_prompts(
    texts: Sequence[str], corrupted: Sequence[str], spans: Sequence[str], image: str = ""
) -> list[Prompt]:
    """Make the prompts of `--prompt`, each with its `--corrupted` text, the only one with its `--span`, all with the
    `--image`."""
    from ..datasets.prompts import Prompt

    if corrupted and len(corrupted) != len(texts):
        raise BadOption(
            f"--corrupted is given {len(corrupted)} times for {len(texts)} prompts; give it once for each, in order"
        )
    if spans and len(texts) > 1:
        raise BadOption(f"--span marks letters of one prompt, and {len(texts)} are given; give one --prompt")
    marked: dict[str, list[tuple[int, int]]] = {}
    for item in spans:
        name, _, place = item.partition("=")
        try:
            start, stop = (int(end) for end in place.split(":"))
        except ValueError:
            name = ""
        if not name:
            raise BadOption(
                f"--span {item}: expected NAME=START:STOP in letters, such as --span needle=12:40"
            )
        marked.setdefault(name, []).append((start, stop))
    others = corrupted or [""] * len(texts)
    return [
        Prompt(text, corrupted=other, spans=marked, image=image)
        for text, other in zip(texts, others, strict=True)
    ]


def interventions(
    ablate: str | None,
    how: str,
    scales: Sequence[str],
    phase: str,
    prompts: Sequence[Prompt],
    positions: Any = None,
) -> list[Intervention]:
    """Read `--ablate`, `--how` and `--scale`; the mean is over the prompts given."""
    from functools import partial

    from ..hooks.interventions import mean, resample, scale

    choices = {**kinds(), "mean": partial(mean, reference=prompts), "resample": resample}
    kind = choices[one_of(how, choices, "--how")]
    if ablate is None and how != "uniform":
        raise BadOption(f"--how {how}: says what to do to heads, and none are named; add --ablate L5H1,L6H0")
    where: dict[str, Any] = {"phase": phase, "positions": positions}
    changes: list[Intervention] = [] if ablate is None else [kind(ablate, **where)]
    for item in scales:
        heads, _, gain = item.rpartition("=")
        try:
            number = float(gain)
        except ValueError:
            heads = ""
        if not heads:
            raise BadOption(f"--scale {item}: expected heads=gain, such as --scale L5H1=2")
        changes.append(scale(heads, number, **where))
    return changes


def steered_by(
    steer: str | None,
    heads: str | None,
    suppress: str | None,
    keys: str | None,
    directions: str | None,
    phase: str,
    positions: Any,
) -> Change | None:
    """Read `--steer METHOD=STRENGTH` and what belongs to it; None where it is not given."""
    from ..analysis.changes import STEERED, Change, read_positions

    beside = {"--heads": heads, "--suppress": suppress, "--keys": keys, "--directions": directions}
    if steer is None:
        given = next((name for name, value in beside.items() if value is not None), None)
        if given:
            raise BadOption(f"{given} belongs to --steer, and no method is named; add --steer juice=1")
        return None
    name, _, written = steer.partition("=")
    one_of(name, STEERED, "--steer")
    try:
        strength = float(written)
    except ValueError:
        raise BadOption(f"--steer {steer}: expected METHOD=STRENGTH, such as --steer {name}=1") from None
    return Change(
        name,
        heads or (),
        gain=strength,
        suppressed=suppress or (),
        keys=read_positions(keys or ""),
        directions=directions or "",
        phase=phase,
        positions=positions,
    )


def fresh_prompts(model: Any, run: Run, n: int | None) -> PromptSet:
    """Make prompts of the kind that was scored from the next seed; the run's own where they were not generated."""
    from ..analysis.registry import get
    from ..analysis.score import default_prompts

    kind, seed, size = get(run.scores.method).data, run.scores.seed, len(run.prompts)
    if default_prompts(model, kind, seed, n=size).digest != run.prompts.digest:
        return run.prompts
    return default_prompts(model, kind, seed + 1, n=n or size)
