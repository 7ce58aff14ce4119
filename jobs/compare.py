"""Runs against runs: which of their scores ask the same thing, how far they agree, and where they differ."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..analysis.compare_runs import Agreement, agree, describe_overlap
from ..analysis.run import Run
from ..errors import BadRun
from .listing import Opened, latest
from .paired import leading_heads

SIZES = (1, 2, 4, 8, 16)
_MOST_PAIRS = 60
_LIBRARIES = ("headscope", "torch", "transformer-lens", "transformers")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two scores of the same heads.

    Attributes:
        one, two: The runs.
        names: What they are called beside each other: `A`, `B`, or what tells them apart within one job.
        agreement: How far they agree.
        differs: What they do not have in common besides the score: weights, prompts, options, seed, versions.
        heads: One row per head that leads either: `head`, `layer`, `index`; `rank_one`, `score_one`, `low_one`,
            `high_one`, the same for `two`; for the same method on the same prompts, the paired difference two − one
            as `difference`, `difference_low`, `difference_high`, `p` (sign flip over prompts), `q` (over all heads).
    """

    one: Run
    two: Run
    names: tuple[str, str]
    agreement: Agreement
    differs: tuple[str, ...]
    heads: pd.DataFrame

    @property
    def title(self) -> str:
        """What is compared."""
        methods = tuple(dict.fromkeys((self.one.scores.method, self.two.scores.method)))
        models = tuple(dict.fromkeys((self.one.scores.model.name, self.two.scores.model.name)))
        data = tuple(dict.fromkeys((self.one.scores.data.name, self.two.scores.data.name)))
        return " · ".join(" against ".join(words) for words in (methods, models, data))

    @property
    def paired(self) -> bool:
        """Whether there is a difference prompt by prompt."""
        return bool(self.heads["difference"].notna().any()) if len(self.heads) else False

    @property
    def answer(self) -> str:
        """How far they agree, in words."""
        found = self.agreement
        if found.low > 0:
            return f"They order heads alike. {found.words}"
        if found.high < 0:
            return f"They order heads against each other. {found.words}"
        return f"That they order heads alike cannot be said. {found.words}"

    @property
    def overlap(self) -> str:
        """Whether the first heads are the same, beside chance, in words."""
        return describe_overlap(self.agreement)

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found = self.agreement
        return {
            "title": self.title,
            "one": self.one.folder,
            "two": self.two.folder,
            "rank_correlation": found.rank_correlation,
            "low": found.low,
            "high": found.high,
            "n_heads": found.n_heads,
            "overlap": found.overlap.to_dict("records"),
            "differs": self.differs,
            "heads": self.heads.drop(columns=["layer", "index"]).to_dict("records"),
        }


@dataclass(frozen=True, eq=False)
class Compared:
    """Two folders side by side, or the scores of one.

    Attributes:
        names: The folders' names; one name where a job is compared with itself.
        pairs: What could be compared.
        alone: What could not, each with its reason.
    """

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]
    alone: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per pair: `pair`, `rank_correlation`, `low`, `high`, and the largest top's overlap."""
        rows = []
        for pair in self.pairs:
            found = pair.agreement
            last = found.overlap.iloc[-1].to_dict() if len(found.overlap) else {}
            names = ("k", "both", "expected", "chance_low", "chance_high", "p")
            rows.append(
                {"pair": pair.title, "rank_correlation": found.rank_correlation}
                | {"low": found.low, "high": found.high, "n_heads": found.n_heads}
                | {name: last.get(name, float("nan")) for name in names}
            )
        return pd.DataFrame(rows)


def compare_folders(one: Opened, two: Opened, *, k: Iterable[int] = SIZES, seed: int = 0) -> Compared:
    """Compare two folders, each a run or a job.

    Single runs are compared whatever they are. Results of jobs are matched by model, method, data, options and seed,
    then by fewer and fewer of these, as long as it is clear which belongs to which; a single run is matched with the
    results of its method, or with all of them if there is none.

    Args:
        one: The first folder.
        two: The second.
        k: Sizes of the tops.
        seed: Of the intervals.

    Raises:
        BadRun: Nothing in them can be compared; the reasons are given.
    """
    matched, alone = _match(latest(one.runs), latest(two.runs))
    sizes = tuple(k)
    pairs = []
    for a, b in matched:
        try:
            pairs.append(_pair(a, b, ("A", "B"), sizes, seed))
        except BadRun as error:
            alone.append(str(error))
    alone += [*one.problems, *two.problems]
    if not pairs:
        raise BadRun(
            f"{one.name} and {two.name} have nothing in common to compare. {' '.join(alone[:3])}".rstrip()
        )
    return Compared((one.name, two.name), tuple(pairs), tuple(alone))


def compare_within(one: Opened, *, k: Iterable[int] = SIZES, seed: int = 0) -> Compared:
    """Compare the scores of one job with each other, two of the same model or of models with as many heads at a time.

    Raises:
        BadRun: There are fewer than two scores with the same heads.
    """
    sizes, pairs, alone = tuple(k), [], list(one.problems)
    both = [
        (a, b)
        for a, b in itertools.combinations(latest(one.runs), 2)
        if a.scores.values.shape == b.scores.values.shape
    ]
    for a, b in both[:_MOST_PAIRS]:
        try:
            pairs.append(_pair(a, b, _told_apart(a, b), sizes, seed))
        except BadRun as error:
            alone.append(str(error))
    if len(both) > _MOST_PAIRS:
        alone.append(f"{len(both) - _MOST_PAIRS} more pairs are not shown: compare two folders at a time.")
    if not pairs:
        raise BadRun(
            f"{one.name}: it has {len(one.runs)} scores, and no two with the same heads. Name two runs."
        )
    return Compared((one.name,), tuple(pairs), tuple(alone))


def _match(ones: Sequence[Run], twos: Sequence[Run]) -> tuple[list[tuple[Run, Run]], list[str]]:
    if len(ones) == 1 and len(twos) == 1:
        return [(ones[0], twos[0])], []
    if len(ones) == 1 or len(twos) == 1:
        (single,), many = (ones, twos) if len(ones) == 1 else (twos, ones)
        alike = [run for run in many if run.scores.method == single.scores.method] or list(many)
        return [(single, run) if len(ones) == 1 else (run, single) for run in alike], []
    left, right, matched = list(ones), list(twos), []
    for key in _KEYS:
        keys = [Counter(map(key, side)) for side in (left, right)]
        for run in list(left):
            wanted = key(run)
            if keys[0][wanted] == keys[1][wanted] == 1:
                other = next(one for one in right if key(one) == wanted)
                matched.append((run, other))
                left.remove(run)
                right.remove(other)
    matched.sort(key=lambda pair: ones.index(pair[0]))
    alone = [
        f"Only in {name}: {run.scores.method} of {run.scores.model.name} on {run.scores.data.name}."
        for name, side in (("A", left), ("B", right))
        for run in side
    ]
    return matched, alone


def _options(run: Run) -> str:
    options = {key: getattr(value, "__name__", value) for key, value in run.scores.options.items()}
    return json.dumps(options, sort_keys=True, default=str)


_KEYS: tuple[Callable[[Run], tuple[Any, ...]], ...] = (
    lambda run: (*run.scores.model, run.scores.method, run.scores.data, _options(run), run.scores.seed),
    lambda run: (*run.scores.model, run.scores.method, run.scores.data.name, _options(run)),
    lambda run: (run.scores.model.name, run.scores.method, run.scores.data.name),
    lambda run: (run.scores.model.name, run.scores.method),
    lambda run: (run.scores.method, run.scores.data.name),
    lambda run: (run.scores.method,),
)


def _pair(one: Run, two: Run, names: tuple[str, str], k: tuple[int, ...], seed: int) -> Pair:
    agreement = agree(one.scores, two.scores, k=k, seed=seed)
    return Pair(one, two, names, agreement, _differs(one, two), leading_heads(one.scores, two.scores, seed))


def _told_apart(one: Run, two: Run) -> tuple[str, str]:
    """Name two runs by the first of method, data, model, options in which they differ."""
    named: tuple[Callable[[Run], str], ...] = (
        lambda run: run.scores.method,
        lambda run: run.scores.data.name,
        lambda run: run.scores.model.name,
        lambda run: run.folder.name,
    )
    return next(((name(one), name(two)) for name in named if name(one) != name(two)), ("A", "B"))


def _differs(one: Run, two: Run) -> tuple[str, ...]:
    a, b = one.scores, two.scores
    found = []
    if a.model.digest != b.model.digest:
        found.append(f"Other weights: {a.model} and {b.model}.")
    elif one.manifest["model"].get("dtype") != two.manifest["model"].get("dtype"):
        found.append(
            f"Other precision: {one.manifest['model'].get('dtype')} and {two.manifest['model'].get('dtype')}."
        )
    if a.data.digest != b.data.digest:
        found.append(f"Other prompts: {a.data} ({len(one.prompts)}) and {b.data} ({len(two.prompts)}).")
    if a.method != b.method:
        found.append(f"Other methods: {a.method} and {b.method}; to agree is that the same heads lead both.")
    elif _options(one) != _options(two):
        options = [json.loads(_options(run)) for run in (one, two)]
        names = [key for key in {**options[0], **options[1]} if options[0].get(key) != options[1].get(key)]
        found.append(
            "Other options: "
            + ", ".join(f"{key}={options[0].get(key)!r} and {options[1].get(key)!r}" for key in names)
            + "."
        )
    if a.seed != b.seed:
        found.append(f"Other seeds: {a.seed} and {b.seed}.")
    said = [run.manifest.get("versions") for run in (one, two)]
    versions = [of if isinstance(of, dict) else {} for of in said]
    for library in _LIBRARIES:
        if versions[0].get(library) != versions[1].get(library):
            found.append(
                f"Other versions: {library} {versions[0].get(library)} and {versions[1].get(library)}."
            )
    return tuple(found)
