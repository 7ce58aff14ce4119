"""What a model writes when the heads of a concept are turned around or reinforced: Head Pursuit's test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..datasets.prompts import PromptSet
from ..errors import BadOption, MissingData
from ..hooks.generate import generate
from ..hooks.heads import Head, all_heads
from ..hooks.info import describe
from ..hooks.interventions import scale
from .controls import draw_controls
from .files import write_atomically, write_json, write_table
from .outcomes import word_recall
from .score import score
from .scores import FROM_ATTENTION, HeadScores, Source
from .statistics import bootstrap_mean

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CLEAN, TOP, RANDOM = "clean", "top", "same-layers"
GAINS = (-1.0, 5.0)
"""Turned around, and reinforced, as published."""


@dataclass(frozen=True)
class Concept:
    """Texts with and without the heads of a concept as they are.

    Attributes:
        words: Of the concept.
        rows: One row an arm (`clean`, `top`, `same-layers`), gain, k and draw: `mentions`, words of the concept in a
            text; `kept`, the share of the clean text's other words that are still there; `words` in a text; each a mean
            over prompts with a bootstrap interval.
        scores: By `pursuit`, on training prompts.
        model, data: What it was done with.
        seed: Of random heads and intervals.
        examples: Clean text, and with the most heads turned around, of the first prompts.
    """

    words: tuple[str, ...]
    rows: pd.DataFrame
    scores: HeadScores
    model: Source
    data: Source
    seed: int
    examples: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return one row an arm, gain, k and draw."""
        return self.rows.copy()

    def conclusion(self) -> str:
        """Say what each gain does to the mentions of the concept and to the other words, beside random heads."""
        clean = self.rows[self.rows.arm == CLEAN].iloc[0]
        said = [
            f"{self.data.name} (n={int(clean.n)}): {clean.mentions:.2f} words of the concept in a text, "
            f"{clean['words']:.1f} words in all."
        ]
        changed: Any = self.rows[self.rows.arm != CLEAN]
        for (gain, k), rows in changed.groupby(["gain", "k"]):
            top, others = (rows[rows.arm == arm] for arm in (TOP, RANDOM))
            one = top.iloc[0]
            heads = ", ".join(map(str, self.scores.top(int(k))))
            text = (
                f"Gain {gain:g}, {heads}: {one.mentions:.2f} mentions, {one.kept:.0%} of the other words kept"
            )
            if len(others):
                text += (
                    f"; as many random heads of the same layers: {others.mentions.min():.2f} to "
                    f"{others.mentions.max():.2f}, {others.kept.min():.0%} to {others.kept.max():.0%}"
                )
            said.append(text + ".")
        return "\n".join(said)

    def figure(self, *, dark: bool = False) -> Figure:
        """Draw mentions and what is kept of the rest against k, for every gain."""
        from .figures.concept import concept_figure

        title = (
            f"Heads of {', '.join(self.words[:6])}{' …' if len(self.words) > 6 else ''} in {self.model.name}"
        )
        return concept_figure(self.rows, title=title, dark=dark)

    def save(self, folder: str | Path) -> Path:
        """Write `concept.parquet`, `concept.json` and `concept.html` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder = Path(folder)
        write_table(folder / "concept.parquet", self.rows)
        record = {
            "words": list(self.words),
            "heads": list(map(str, self.scores.top(8))),
            "options": dict(self.scores.options),
            "model": self.model._asdict(),
            "data": self.data._asdict(),
            "seed": self.seed,
            "conclusion": self.conclusion(),
            "examples": [list(pair) for pair in self.examples],
            "notes": list(self.notes),
        }
        write_json(folder / "concept.json", record)
        page = self.figure().to_html(include_plotlyjs=True, full_html=True)
        write_atomically(folder / "concept.html", page)
        return folder


def concept_study(
    model: Any,
    words: Sequence[str],
    train: PromptSet,
    test: PromptSet,
    *,
    gains: Iterable[float] = GAINS,
    k: Iterable[int] = (1, 2, 4, 8),
    atoms: int = 8,
    draws: int = 3,
    max_new_tokens: int = 32,
    stop: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Concept:
    """Find the heads of a concept on training prompts, multiply what they write, and count its words in new texts.

    Heads are ranked by `pursuit` at the places where the model, continuing the training prompts, is about to write a
    word of the concept. Then z := gain * z of the top k at every token, while other prompts are continued.

    Direction: heads write the concept if at gain −1 it is mentioned less, the other words stay, and random heads of the
        same layers do not do that.
    Reference: Basile et al. 2025, arXiv:2510.21518, known from notes of others: gains −1 and 5, 8 to 32 of a thousand
        heads, random heads of the same layers. Where heads are ranked, and what counts as kept, is ours.

    Args:
        model: The bridge.
        words: Of the concept.
        train: Prompts to rank heads on; images are welcome.
        test: Prompts to continue.
        gains: Factors on what the heads write.
        k: Numbers of heads.
        atoms: Of the pursuit.
        draws: Random sets at each gain and k.
        max_new_tokens: Longest text.
        stop: Text that ends one.
        seed: Of the pursuit, random heads and intervals.
        progress: Called with the number of measurements done and of all.

    Raises:
        BadOption: There is no word.
        MissingData: The model writes too few of the words to rank heads.
    """
    listed = tuple(dict.fromkeys(word.strip().lower() for word in words if word.strip()))
    if not listed:
        raise BadOption("concept: no word is named; give some, such as red,green,blue.")
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop}
    ranking = before_words(model, train, listed, **settings)
    if len(ranking) <= atoms:
        raise MissingData(
            f"concept: continuing {len(train)} prompts, {model.cfg.model_name} writes a word of the concept in "
            f"{len(ranking)} of them, and {atoms} atoms need more. Give more prompts, fewer atoms, or other words."
        )
    scores = score(model, "pursuit", ranking, concept=",".join(listed), atoms=atoms, seed=seed)
    sizes = sorted(set(k))
    ranked = scores.top(sizes[-1])
    pool = set(all_heads(model)) - set(ranked)
    notes = [note for note in scores.notes if note != FROM_ATTENTION]
    plan: list[tuple[str, float, int, int, tuple[Head, ...]]] = [(CLEAN, 1.0, 0, 0, ())]
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        sets, problems = draw_controls(ranked[:size], pool, RANDOM, draws=draws, rng=rng)
        notes += problems
        for gain in gains:
            plan.append((TOP, gain, size, 0, ranked[:size]))
            plan += [(RANDOM, gain, size, draw, heads) for draw, heads in enumerate(sets, 1)]
    clean: list[str] = []
    examples: tuple[tuple[str, str], ...] = ()
    rows = []
    for done, (arm, gain, size, draw, heads) in enumerate(plan, 1):
        changes = (scale(heads, gain),) if heads else ()
        texts = [one.text for one in generate(model, test, interventions=changes, **settings)]
        clean = clean or texts
        if arm == TOP and gain == min(gains) and size == sizes[-1]:
            examples = tuple(zip(clean[:4], texts[:4], strict=True))
        rows.append({"arm": arm, "gain": gain, "k": size, "draw": draw, **_count(listed, clean, texts, seed)})
        if progress:
            progress(done, len(plan))
    info = describe(model)
    return Concept(
        listed, pd.DataFrame(rows), scores, Source(info.name, info.digest), Source(test.name, test.digest), seed,
        examples, tuple(notes),
    )  # fmt: skip


def before_words(model: Any, prompts: PromptSet, words: Sequence[str], **settings: Any) -> PromptSet:
    """Continue prompts, and cut each where the model is about to write one of some words; the word is the answer.

    Of several such places in a text one is taken, another in each text. Texts without any are left out.
    """
    cut = []
    for index, one in enumerate(generate(model, prompts, **settings)):
        places = list(_pattern(words).finditer(one.text))
        if places:
            place = places[index % len(places)]
            before = one.text[: place.start()].rstrip()
            answer = one.text[len(before) : place.end()]
            cut.append(
                replace(
                    one.prompt, text=one.prompt.text + before, answer=answer, foil="", corrupted="", spans={}
                )
            )
    return PromptSet(f"{prompts.name}-before-words", tuple(cut))


def _count(words: Sequence[str], clean: Sequence[str], texts: Sequence[str], seed: int) -> dict[str, float]:
    pattern = _pattern(words)
    each = {
        "mentions": [len(pattern.findall(text)) for text in texts],
        "kept": [
            word_recall(pattern.sub(" ", before), pattern.sub(" ", after))
            for before, after in zip(clean, texts, strict=True)
        ],
        "words": [len(text.split()) for text in texts],
    }
    row: dict[str, float] = {"n": len(texts)}
    for name, values in each.items():
        known = np.array(values, dtype=float)
        low, high = bootstrap_mean(known, seed=seed)
        # A text may hold no other words; nothing is kept of none.
        mean = float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")
        row |= {name: mean, f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)
