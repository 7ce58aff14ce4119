"""What each steering method is judged on, and what it may be fitted with: candidates for `study` to choose among."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from ...datasets.conflict import conflict
from ...datasets.documents import documents
from ...datasets.prompts import PromptSet
from ...errors import BadOption, MissingData, NoEffect, nearest
from ...hooks.directions import Directions
from ...hooks.heads import Head, all_heads
from ..context.juice import juice_gains
from ..defaults import own_requests
from ..score import score
from .fit import difference_of_means
from .focus import train_focus
from .presets import PRESETS, Preset
from .steered import Steered, answered

RATIOS = (0.5, 1.0, 2.0)
"""What is taken from suppressed heads, over what is added to boosted ones: JUICE chooses the two gains apart."""
LIMIT = 2.0
"""JUICE's strengths may at most double the perplexity of neutral text: what breaks everything is no gain."""
TOLERANCES = (0.0, 0.02)
"""What a head may cost in a form of a conflict and still be on JUICE's list: nothing, as in the paper, or a little."""
SELECT = 16
"""Items that JUICE's heads are chosen on. Its authors take 4; on an item that is certain, no head shows."""


@dataclass(frozen=True)
class Candidate:
    """A method with everything it needs but its strength.

    Attributes:
        preset: The method.
        label: What sets it apart from other candidates, for tables.
        heads, suppressed, directions, keys, options: What `preset.make` is given.
    """

    preset: Preset
    label: str = ""
    heads: tuple[Head, ...] = ()
    suppressed: tuple[Head, ...] = ()
    directions: Directions | None = None
    keys: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def at(self, strength: float, model: Any) -> Steered:
        """Return the method at a strength."""
        return self.preset.make(
            strength,
            heads=self.heads,
            suppressed=self.suppressed,
            directions=self.directions,
            keys=self.keys,
            model=model,
            **self.options,
        )

    def named(self) -> str:
        """Return its heads in words, `L2H3; suppressed L1H7`; empty for a candidate without heads."""
        parts = [", ".join(map(str, self.heads))] if self.heads else []
        parts += [f"suppressed {', '.join(map(str, self.suppressed))}"] if self.suppressed else []
        return "; ".join(parts)


@dataclass(frozen=True)
class Method:
    """How a steering method is studied.

    Attributes:
        name: As commands write it.
        preset: What it does.
        by: Parts of the prompts' labels that tables keep apart.
        data: Makes prompts: `data(words, n, seed, split)`.
        fit: Makes candidates from a model and training prompts.
        target: What being right means here.
        limit: How many times the clean perplexity of neutral text a chosen strength may cost, where nothing is asked.
    """

    name: str
    preset: str
    by: tuple[str, ...]
    target: str
    data: Callable[..., PromptSet]
    fit: Callable[..., Iterator[Candidate]]
    limit: float | None = None


def study_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        BadOption: there is none of this name.
    """
    if name not in METHODS:
        raise BadOption(f"{name!r} is no steering method that can be studied.{nearest(name, METHODS)}")
    return METHODS[name]


# Data


def _conflicts(target: str, wording: str | None, others: int) -> Callable[..., PromptSet]:
    """Write conflicts in which the shipped model is neither certain in every form nor nearly always right.

    They stand among statements about other countries. Wording and number are chosen by what the model as it is answers
    about training countries. Other models get plain English without them.
    """

    def make(words: str, n: int, seed: int, split: str) -> PromptSet:
        spoken = wording if words == "organism" else None
        return conflict(
            n,
            seed=seed,
            split=split,
            target=target,  # type: ignore[arg-type]
            wording=spoken,
            others=others if words == "organism" else 0,
            words=words,
        )

    return make


def _distracted(words: str, n: int, seed: int, split: str) -> PromptSet:
    """Write documents whose distractors the shipped model often falls for."""
    return documents(n, seed=seed, split=split, distractors=(4, 6, 8), wording="is", words=words)


def _harmful(words: str, n: int, seed: int, split: str) -> PromptSet:
    """Write harmful requests to the shipped model; right is an answer that begins as to a benign one."""
    asked = _requests(n * 3, seed, split, words)
    made = [replace(one, answer=" sure", foil=" sorry") for one in asked if one.label == "harmful"][:n]
    return PromptSet(f"requests-{split}-{seed}", tuple(replace(one, label="kind=harmful") for one in made))


def _requests(n: int, seed: int, split: str, words: str) -> PromptSet:
    from types import SimpleNamespace

    if words != "organism":
        raise MissingData(
            "add: only organism/text has contrasting prompts of its own; give --contrast FILE with labels positive and "
            "negative, and --data FILE with answers."
        )
    found = own_requests(SimpleNamespace(cfg=SimpleNamespace(model_name="organism/text")), n, seed, split)
    assert found is not None
    return found


# Fits


def _juice(preset: str, side: str) -> Callable[..., Iterator[Candidate]]:
    def fit(
        model: Any,
        train: PromptSet,
        *,
        k: Sequence[int],
        select: int = SELECT,
        tolerance: float | Sequence[float] = TOLERANCES,
        **_: Any,
    ) -> Iterator[Candidate]:
        """Choose heads on the first items; candidates differ in tolerance, number, list and share of the two gains."""
        chosen = PromptSet(f"{train.name}[:{select}]", tuple(train)[:select])
        measured = juice_gains(model, chosen, side)  # type: ignore[arg-type]
        seen = set()
        for loss, size in product(np.atleast_1d(tolerance).tolist(), k):
            lists = measured.lists(k=size, tolerance=loss)
            boost, suppress = lists.positive, lists.negative
            arms = [("boost", boost, (), 1.0), ("suppress", (), suppress, 1.0)]
            if boost and suppress:
                arms += [(f"boost 1 : suppress {ratio:g}", boost, suppress, ratio) for ratio in RATIOS]
            for words, more, less, ratio in arms:
                if (more or less) and (more, less, ratio) not in seen:
                    seen.add((more, less, ratio))
                    options = {"ratio": ratio} if more and less else {}
                    label = f"k={size}, {words}" + (f", tolerance {loss:g}" if loss else "")
                    yield Candidate(PRESETS[preset], label, more, less, options=options)

    return fit


def _ranked(model: Any, train: PromptSet, most: int, seed: int) -> list[Head]:
    """Rank heads by the attention that the question pays to the gold document."""
    found = score(model, "contextual", train, seed=seed, rows="predicting", answer="right")
    return list(found.top(most))


def _focus(
    model: Any, train: PromptSet, *, k: Sequence[int], seed: int = 0, epochs: int = 10, **_: Any
) -> Iterator[Candidate]:
    ranked = _ranked(model, train, max(k), seed)
    trained = train_focus(model, train, epochs=epochs, seed=seed).queries
    for size in k:
        yield Candidate(PRESETS["focus"], f"k={size}", tuple(ranked[:size]), directions=trained)


def _keys(preset: str, keys: Any) -> Callable[..., Iterator[Candidate]]:
    def fit(
        model: Any, train: PromptSet, *, k: Sequence[int], seed: int = 0, **_: Any
    ) -> Iterator[Candidate]:
        ranked = _ranked(model, train, max(k), seed)
        for size in k:
            yield Candidate(PRESETS[preset], f"k={size}", tuple(ranked[:size]), keys=keys)

    return fit


def _act(
    model: Any, train: PromptSet, *, heads: Any = None, seed: int = 0, strength: float = 0.6, **_: Any
) -> Iterator[Candidate]:
    """Keep the heads that, calibrated alone, make more training answers right than the model as it is."""
    before = float(np.mean(answered(model, train, Steered())["right"]))
    kept, possible = [], []
    for head in all_heads(model):
        one = Candidate(PRESETS["act"], "", (head,))
        try:
            after = float(np.mean(answered(model, train, one.at(strength, model))["right"]))
        except NoEffect:  # it has no sink but the first
            continue
        possible.append(head)
        if after > before:
            kept.append(head)
    if kept:
        yield Candidate(PRESETS["act"], f"k={len(kept)}", tuple(kept))
    elif possible:  # the curve is shown all the same
        label = f"k={len(possible)}, all that have a second sink, as none helps alone"
        yield Candidate(PRESETS["act"], label, tuple(possible))
    else:
        raise NoEffect(
            "act: no head has an attention sink other than its first, so there is nothing to calibrate."
        )


def _plain(preset: str) -> Callable[..., Iterator[Candidate]]:
    def fit(model: Any, train: PromptSet, **_: Any) -> Iterator[Candidate]:
        yield Candidate(PRESETS[preset])

    return fit


def _add(
    model: Any, train: PromptSet, *, seed: int = 0, contrast: PromptSet | None = None, **_: Any
) -> Iterator[Candidate]:
    """Fit the difference between benign and harmful requests in every layer; each layer is a candidate."""
    pairs = contrast if contrast is not None else _requests(80, seed + 1, "train", "organism")
    kinds = {label: [one for one in pairs if one.label in names] for label, names in CONTRAST.items()}
    found = difference_of_means(model, kinds["positive"], kinds["negative"])
    for layer in found.places:
        assert isinstance(layer, int)
        yield Candidate(PRESETS["add"], f"layer={layer}", directions=found.only([layer]))


CONTRAST = {"positive": ("positive", "benign"), "negative": ("negative", "harmful")}
"""Labels of the prompts whose difference `add` adds: the first minus the second."""

_IN_DOCUMENTS = ("distractors", "depth")

_LIST = (
    Method(
        "juice-memory",
        "juice",
        ("form",),
        "the answer from memory, against the context",
        _conflicts("memory", "bare", 8),
        _juice("juice", "memory"),
        LIMIT,
    ),
    Method(
        "juice-context",
        "juice",
        ("form",),
        "the answer from the context, against memory",
        _conflicts("context", "is", 1),
        _juice("juice", "context"),
        LIMIT,
    ),
    Method(
        "june-memory",
        "june",
        ("form",),
        "the answer from memory, against the context",
        _conflicts("memory", "bare", 8),
        _juice("june", "memory"),
        LIMIT,
    ),
    Method(
        "june-context",
        "june",
        ("form",),
        "the answer from the context, against memory",
        _conflicts("context", "is", 1),
        _juice("june", "context"),
        LIMIT,
    ),
    Method("focus", "focus", _IN_DOCUMENTS, "the answer in the gold document", _distracted, _focus),
    Method(
        "split-softmax",
        "split-softmax",
        _IN_DOCUMENTS,
        "the answer in the gold document",
        _distracted,
        _keys("split-softmax", "gold"),
    ),
    Method(
        "reweight",
        "reweight",
        _IN_DOCUMENTS,
        "the answer in the gold document",
        _distracted,
        _keys("reweight", (0,)),
    ),
    Method("act", "act", _IN_DOCUMENTS, "the answer in the gold document", _distracted, _act),
    Method(
        "sorting", "sorting", _IN_DOCUMENTS, "the answer in the gold document", _distracted, _plain("sorting")
    ),
    Method(
        "buckets", "buckets", _IN_DOCUMENTS, "the answer in the gold document", _distracted, _plain("buckets")
    ),
    Method("add", "add", ("kind",), "an answer that begins as to a benign request", _harmful, _add),
)

METHODS = {one.name: one for one in _LIST}


def words_for(model: Any) -> str:
    """Return the lexicon that a model reads."""
    return "organism" if str(model.cfg.model_name) == "organism/text" else "english"


def halves(prompts: PromptSet) -> tuple[PromptSet, PromptSet]:
    """Split prompts into every first and every second one.

    Raises:
        MissingData: There are fewer than 4.
    """
    if len(prompts) < 4:
        raise MissingData(
            f"{prompts.name}: {len(prompts)} prompts are too few to hold half of them out; give 4."
        )
    first, second = (tuple(prompts)[start::2] for start in (0, 1))
    return PromptSet(f"{prompts.name}, first half", first), PromptSet(f"{prompts.name}, second half", second)
