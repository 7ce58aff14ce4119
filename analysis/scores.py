"""One number per head, with its interval, its test against chance, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..errors import BadOption, BadRun, UnknownHead
from ..hooks.heads import Head
from .files import jsonable, read_json, read_table, write_json, write_table
from .statistics import Alternative, benjamini_hochberg, bootstrap_mean, sign_flip

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLUMNS = ["layer", "head", "score", "low", "high", "p", "q", "n"]
_FORMAT = "headscope-scores/1"
FROM_ATTENTION = "The scores describe attention alone: no intervention has been made."


class Source(NamedTuple):
    """A model or a prompt set: its name, and a digest of its content."""

    name: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else self.name


UNNAMED = Source("")


@dataclass(frozen=True, eq=False)
class HeadScores:
    """The scores of all heads of one model by one method on one prompt set.

    Attributes:
        values: The score of each head; NaN where the head was not run, which is never the same as 0.
        samples: The score on each prompt, whose mean over prompts is `values` unless the method says otherwise;
            NaN rows for prompts that did not count. None where the method has no score per prompt.
        method: Name of the method.
        options: Its options, with defaults filled in.
        model: Name and weight digest of the model.
        data: Name and content digest of the prompts.
        seed: Of the data, the method and the intervals.
        higher: What a high score says, in words.
        chance: Per prompt, the score of a head that does nothing particular; None where there is no such level.
        alternative: Which side of chance `p` tests.
        causal: Whether an intervention has confirmed these scores. False: they describe attention alone.
        notes: What was skipped, rejected or approximated.
        interval: Lower and upper end for each head, where a method without samples has resampled the prompts itself.
        n_resampled: Prompts that it resampled.
    """

    values: Float[np.ndarray, "layer head"]
    samples: Float[np.ndarray, "example layer head"] | None
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Source = UNNAMED
    data: Source = UNNAMED
    seed: int = 0
    higher: str = ""
    chance: Float[np.ndarray, " example"] | None = None
    alternative: Alternative = "greater"
    causal: bool = False
    notes: tuple[str, ...] = ()
    interval: Float[np.ndarray, "end layer head"] | None = None
    n_resampled: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise BadOption(
                f"{self.method}: seed is {self.seed}; intervals are drawn with a seed of 0 or more."
            )
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 2:
            raise BadRun(f"{self.method}: values have the shape {values.shape}, expected [layer, head].")
        object.__setattr__(self, "values", values)
        for name, cells in (("samples", values.shape), ("chance", ())):
            given = getattr(self, name)
            if given is None:
                continue
            array = np.asarray(given, dtype=np.float64)
            if array.ndim != 1 + len(cells) or array.shape[1:] != cells:
                expected = "[example, layer, head]" if cells else "[example]"
                raise BadRun(
                    f"{self.method}: {name} have the shape {array.shape} beside values {values.shape}, "
                    f"expected {expected}."
                )
            if not len(array):
                raise BadRun(f"{self.method}: {name} hold no prompt; give one or more, or None.")
            object.__setattr__(self, name, array)
        if self.samples is not None and self.chance is not None and len(self.samples) != len(self.chance):
            raise BadRun(
                f"{self.method}: there are {len(self.samples)} samples and {len(self.chance)} levels of chance, "
                "expected one for each."
            )
        if self.interval is not None:
            ends = np.asarray(self.interval, dtype=np.float64)
            if ends.shape != (2, *values.shape):
                raise BadRun(
                    f"{self.method}: interval has the shape {ends.shape} beside values {values.shape}, "
                    "expected [2, layer, head]."
                )
            object.__setattr__(self, "interval", ends)
        object.__setattr__(self, "model", Source(*self.model))
        object.__setattr__(self, "data", Source(*self.data))
        object.__setattr__(self, "notes", tuple(self.notes))

    def __repr__(self) -> str:
        n_layers, n_heads = self.values.shape
        best = (
            ", ".join(f"{head} {self.values[head]:.3f}" for head in self._ranked[:3]) or "no head has a score"
        )
        state = "confirmed by intervention" if self.causal else "from attention alone"
        return f"HeadScores({self.method} of {self.model}, {n_layers}×{n_heads} heads, {state}: {best})"

    def table(self) -> pd.DataFrame:
        """Return one row per head, highest score first, heads that were not run last.

        Columns: `layer`, `head`; `score`; `low`, `high`: 95 % bootstrap interval over prompts; `p`: sign-flip test of
        the prompts' distance from chance; `q`: the same after Benjamini-Hochberg over heads; `n`: prompts that
        counted. `low` to `q` are NaN where the method has no samples or no chance level; a method may give `low` and
        `high` without samples, from its own resampling.
        """
        return self._table.copy()

    def top(self, k: int = 8) -> tuple[Head, ...]:
        """Return the k heads with the highest scores, highest first; `table().head(k)` has their numbers.

        Raises:
            BadOption: k is below 1, or fewer heads than k have a score.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise BadOption(f"k={k!r}: expected a whole number of heads, 1 or more.")
        if k > len(self._ranked):
            if len(self._ranked) == self.values.size:
                raise BadOption(f"k={k}: there are only {self.values.size} heads.")
            why = f" {' '.join(self.notes)}" if self.notes else ""
            raise BadOption(
                f"k={k}: only {len(self._ranked)} of {self.values.size} heads have a score for {self.method}.{why}"
            )
        return self._ranked[:k]

    def in_layers(self, layers: Iterable[int]) -> HeadScores:
        """Return the scores of the heads of some layers; the others have none, as if they had not been run.

        Raises:
            UnknownHead: There is no such layer.
            BadOption: No layer was named.
        """
        chosen, n_layers = sorted(set(layers)), len(self.values)
        if not chosen:
            raise BadOption("layers: none was named; name at least one.")
        if wrong := [layer for layer in chosen if not 0 <= layer < n_layers]:
            raise UnknownHead(f"layer {wrong[0]}: {self.model.name} has layers 0-{n_layers - 1}.")
        left_out = ~np.isin(np.arange(n_layers), chosen)
        parts: dict[str, Any] = {name: getattr(self, name) for name in ("values", "samples", "interval")}
        for name, part in parts.items():
            if part is not None:
                parts[name] = np.where(left_out[:, None], np.nan, part)
        note = f"Only heads of layers {', '.join(map(str, chosen))} are ranked."
        return replace(self, **parts, notes=(*self.notes, note))

    def heatmap(self, *, dark: bool = False) -> Figure:
        """Draw the scores as a grid, layer by head; heads that were not run are marked as such."""
        from .figures import head_grid

        table = self.table().sort_values(["layer", "head"])
        low, high, n = (table[name].to_numpy().reshape(self.values.shape) for name in ("low", "high", "n"))
        return head_grid(self.values, name=self.method, low=low, high=high, n=n, dark=dark)

    def save(self, folder: str | Path) -> Path:
        """Write `scores.parquet`, `samples.parquet` and, last, `scores.json` into a folder.

        Raises:
            CannotWrite: The folder cannot be written; no partial file is left.
        """
        folder = Path(folder)
        table = self.table()
        table.insert(0, "model", self.model.name)
        table.insert(1, "method", self.method)
        write_table(folder / "scores.parquet", table)
        if self.samples is not None:
            write_table(folder / "samples.parquet", _long(self.samples))
        meta = {
            "format": _FORMAT,
            "method": self.method,
            "options": {name: getattr(value, "__name__", value) for name, value in self.options.items()},
            "model": self.model._asdict(),
            "data": self.data._asdict(),
            "seed": self.seed,
            "higher": self.higher,
            "alternative": self.alternative,
            "causal": self.causal,
            "notes": self.notes,
            "n_layers": self.values.shape[0],
            "n_heads": self.values.shape[1],
            "n_examples": None if self.samples is None else len(self.samples),
            "chance": None if self.chance is None else self.chance.tolist(),
            "n_resampled": self.n_resampled,
        }
        write_json(folder / "scores.json", jsonable(meta))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> HeadScores:
        """Read what `save` wrote. Only JSON and parquet are read.

        Raises:
            BadRun: The folder or a file is missing, unreadable, or does not fit the others.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BadRun(f"{folder}: no such folder. Give a folder that `HeadScores.save` has written.")
        path = folder / "scores.json"
        meta = read_json(path)
        if meta.get("format") != _FORMAT:
            raise BadRun(f"{path}: format {meta.get('format')!r}, expected {_FORMAT!r}. Score again.")
        try:
            shape = (_size(meta, "n_layers"), _size(meta, "n_heads"))
            n_examples = None if meta["n_examples"] is None else _size(meta, "n_examples")
            values = _grid(folder / "scores.parquet", ["layer", "head"], "score", shape)
            n_resampled = int(meta.get("n_resampled", 0))
            interval = None
            if n_resampled:
                ends = (
                    _grid(folder / "scores.parquet", ["layer", "head"], end, shape) for end in ("low", "high")
                )
                interval = np.stack(list(ends))
            samples = None
            if n_examples is not None:
                axes = ["example", "layer", "head"]
                samples = _grid(folder / "samples.parquet", axes, "score", (n_examples, *shape))
            return cls(
                values=values,
                samples=samples,
                method=str(meta["method"]),
                options=dict(meta["options"]),
                model=read_source(meta, "model"),
                data=read_source(meta, "data"),
                seed=int(meta["seed"]),
                higher=str(meta["higher"]),
                chance=None if meta["chance"] is None else np.array(meta["chance"], dtype=np.float64),
                alternative=cast(Alternative, str(meta["alternative"])),
                causal=meta["causal"] is True,
                notes=tuple(map(str, meta["notes"])),
                interval=interval,
                n_resampled=n_resampled,
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise BadRun(
                f"{path}: {type(error).__name__}: {error}. The file is damaged: score again."
            ) from error

    @cached_property
    def _ranked(self) -> tuple[Head, ...]:
        ran = np.flatnonzero(np.isfinite(self.values))
        order = ran[np.argsort(-self.values.ravel()[ran], kind="stable")]
        return tuple(Head(*map(int, divmod(cell, self.values.shape[1]))) for cell in order)

    @cached_property
    def _table(self) -> pd.DataFrame:
        missing = np.full(self.values.shape, np.nan)
        low = high = p = missing
        n = np.zeros(self.values.shape, dtype=np.int64)
        if self.samples is not None:
            n = np.isfinite(self.samples).sum(axis=0)
            low, high = bootstrap_mean(self.samples, seed=self.seed)
            if self.chance is not None:
                distance = self.samples - self.chance[:, None, None]
                p = sign_flip(distance, alternative=self.alternative, seed=self.seed)
        elif self.interval is not None:
            low, high = self.interval
            n = np.where(np.isfinite(self.values), self.n_resampled, 0)
        layer, head = np.divmod(np.arange(self.values.size), self.values.shape[1])
        columns = (self.values, low, high, p, benjamini_hochberg(p), n)
        table = pd.DataFrame(
            dict(zip(COLUMNS, [layer, head, *(column.ravel() for column in columns)], strict=True))
        )
        return table.sort_values(
            "score", ascending=False, kind="stable", na_position="last", ignore_index=True
        )


def _long(samples: np.ndarray) -> pd.DataFrame:
    example, layer, head = np.indices(samples.shape).reshape(3, -1)
    return pd.DataFrame({"example": example, "layer": layer, "head": head, "score": samples.ravel()})


def _size(meta: dict, name: str) -> int:
    size = meta[name]
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= 100_000:
        raise ValueError(f"{name} is {size!r}, expected a count")
    return size


def read_source(meta: dict[str, Any], name: str) -> Source:
    """Read a name and a digest from what a file says; a ValueError or TypeError if they are none."""
    source = Source(**meta[name])
    if not all(isinstance(word, str) for word in source):
        raise ValueError(f"{name} is {tuple(source)!r}, expected a name and a digest")
    return source


def _grid(path: Path, axes: list[str], value: str, shape: tuple[int, ...]) -> np.ndarray:
    """Turn a long table back into an array, and refuse one that does not fill it exactly once."""
    table = read_table(path)
    lacking = [name for name in (*axes, value) if name not in table.columns]
    if lacking:
        raise BadRun(
            f"{path}: column {lacking[0]!r} is missing; it has {', '.join(map(str, table.columns))}."
        )
    if len(table) != np.prod(shape):
        raise BadRun(f"{path}: {len(table)} rows, expected {np.prod(shape)} ({' × '.join(map(str, shape))}).")
    index = tuple(table[name].to_numpy(dtype=np.int64) for name in axes)
    for name, column, size in zip(axes, index, shape, strict=True):
        if column.min() < 0 or column.max() >= size:
            raise BadRun(f"{path}: {name} {column.min()} to {column.max()}, expected 0 to {size - 1}.")
    cell = np.ravel_multi_index(index, shape)
    if len(np.unique(cell)) != len(cell):
        raise BadRun(f"{path}: the same {' and '.join(axes)} stand in two rows.")
    array = np.empty(shape)
    array[index] = table[value].to_numpy(dtype=np.float64)
    return array
