"""What the commands about refusals share: which requests, and how they are put and judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MissingData
from .arguments import one_of, prompts_from_file

if TYPE_CHECKING:
    from ..analysis.safety.settings import Asking

_JUDGES, _FORMS = ("corrected", "published"), ("direct", "template")

Data = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.csv|FILE.jsonl", help="Harmful requests; the shipped models have their own by default."
    ),
]
Column = Annotated[str | None, typer.Option(help="Column of a CSV file; by default goal, input, prompt, ...")]
Benign = Annotated[
    Path | None,
    typer.Option(metavar="FILE.csv", help="Matched benign requests, in the same rows as --data."),
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Labelled requests to evaluate on; by default every second one of --data."
    ),
]
Neutral = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Neutral texts for perplexity; the shipped models have their own by default."
    ),
]
JudgeName = Annotated[str, typer.Option(help="corrected or published.")]
Form = Annotated[str, typer.Option(help="How requests are put: direct, template, or both with a comma.")]
Temperature = Annotated[
    list[float] | None, typer.Option(min=0.0, help="0 takes the likeliest token; repeatable.")
]
TopK = Annotated[
    int | None,
    typer.Option(min=1, help="Above temperature 0, draw from this many tokens; the paper takes 5."),
]
Draws = Annotated[int, typer.Option(min=0, help="Random sets of heads beside each group.")]
Number = Annotated[int, typer.Option("-n", min=8, max=100_000, help="Requests, where they are generated.")]
MaxNew = Annotated[int, typer.Option(min=1)]
Stop = Annotated[str | None, typer.Option(help="Text that ends an answer.")]


def asking(
    judge: str,
    form: str,
    temperature: list[float] | None,
    top_k: int | None,
    draws: int,
    new: int,
    stop: str | None,
) -> Asking:
    """Put the options into one value.

    Raises:
        BadOption: There is no such judge or form.
    """
    from ..analysis.safety.settings import Asking

    one_of(judge, _JUDGES, "--judge")
    forms = tuple(form.split(","))
    for one in forms:
        one_of(one, _FORMS, "--form")
    return Asking(judge, forms, tuple(temperature or (0.0,)), top_k, draws, new, stop)


def read_requests(data: str | None, column: str | None, benign: Path | None) -> Any:
    """Read --data; the options that speak of a CSV file need one.

    Raises:
        MissingData: The file is not there, or is no file of requests.
    """
    if data is not None and data.endswith(".csv"):
        from ..datasets.csv_files import from_csv

        return from_csv(Path(data).expanduser(), column=column, matched=benign)
    if column is not None or benign is not None:
        raise MissingData("--column and --benign belong to a CSV file: give --data FILE.csv with them.")
    prompts = prompts_from_file(data)
    if data is not None and prompts is None:
        raise MissingData(f"--data {data}: expected a file that ends in .csv or .jsonl.")
    return prompts
