"""Does a method make a model hallucinate less? A curve over its strength, with length, recall and questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from ...datasets.annotated import descriptions
from ...datasets.prompts import PromptSet
from ...datasets.scenes import questions
from ...errors import BadOption, MissingData, NoEffect, nearest
from ...hooks.generate import generate
from ...hooks.info import describe
from ..figures.mitigation import mitigation_figure
from ..files import write_atomically, write_json, write_table
from ..scores import Source
from ..sees import sees_images
from ..statistics import binomial_interval, bootstrap_mean, sign_flip
from .card import SYNONYMS, held_out_scenes
from .hallucination import Synonyms, describe_and_count
from .mitigation_methods import METHODS, Changed, Method, changes, threshold_with_sinks
from .tracing import Tracing

CHOSEN, RANDOM, LOWERED = "chosen", "random", "lower threshold"


@dataclass(frozen=True)
class Mitigation:
    """What was measured.

    Attributes:
        method: Which.
        wrong: Per row of `rows`, which descriptions hold an object that is not there.
        rows: One row an arm, draw and strength: CHAIR_S, CHAIR_I, recall and words of descriptions with intervals, and
            the share of right answers to questions (`right`). Arms are the method as published (`chosen`), its control
            (`random`), and, for `var` where the published threshold finds no sink, `lower threshold`.
        model, data: What it was done with.
        seed: Of controls and intervals.
        notes: What could not be done as asked.
    """

    method: Method
    wrong: Bool[np.ndarray, "row description"]
    rows: pd.DataFrame
    model: Source
    data: Source
    seed: int
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return one row an arm, draw and strength."""
        return self.rows.copy()

    def conclusion(self) -> str:
        """Say in sentences what happens at the published strength, and whether that is less hallucination."""
        if not (self.rows.arm == LOWERED).any():
            return self._conclusion(CHOSEN)
        at_rest = self.rows[self.rows.strength == self.method.neutral].CHAIR_S.iloc[0]
        return (
            f"{self.method.name} on {self.data.name}: at the published threshold no token is a sink, so at every "
            f"strength {at_rest:.0%} of the descriptions hold an object that is not there, as without it. Exploratory, "
            f"with a lower threshold (ours): {self._conclusion(LOWERED)}"
        )

    def _conclusion(self, arm: str) -> str:
        rows: Any = self.rows
        at_rest = (rows.arm == CHOSEN) & (rows.strength == self.method.neutral)
        asked = min(rows[rows.arm == arm].strength.tolist(), key=lambda s: abs(s - self.method.published))
        here = (rows.arm == arm) & (rows.strength == asked)
        clean, at = rows[at_rest].iloc[0], rows[here].iloc[0]
        text = (
            f"{self.method.name} on {self.data.name} (n={int(clean.n)}): at strength {asked:g} {at.CHAIR_S:.0%} of the "
            f"descriptions hold an object that is not there, {clean.CHAIR_S:.0%} without it (95 % interval "
            f"{clean.CHAIR_S_low:.0%} to {clean.CHAIR_S_high:.0%}); objects found {at.recall:.0%} (without "
            f"{clean.recall:.0%}), {at.words:.1f} words (without {clean.words:.1f}), questions right {at.right:.0%} "
            f"(without {clean.right:.0%})."
        )
        mine = self._of(here)
        change = mine - self._of(at_rest)
        p = float(sign_flip(change, seed=self.seed))
        low, high = bootstrap_mean(change, seed=self.seed)
        text += (
            f" Change {100 * change.mean():+.0f} points ({100 * low:+.0f} to {100 * high:+.0f}, p={p:.2g})."
        )
        fewer = change.mean() < 0 and p < 0.05
        control = (rows.arm == RANDOM) & (rows.strength == asked)
        if bool(control.any()):
            beyond = mine - self._of(control)
            q = float(sign_flip(beyond, seed=self.seed))
            text += (
                f" With {self.method.control}: {rows[control].CHAIR_S.min():.0%} to {rows[control].CHAIR_S.max():.0%} "
                f"(p={q:.2g} against them), objects found {rows[control].recall.min():.0%} to "
                f"{rows[control].recall.max():.0%}."
            )
            fewer = fewer and beyond.mean() < 0 and q < 0.05
        harmed = at.recall < clean.recall_low or at.words < 0.8 * clean.words or at.right < clean.right_low
        if not fewer:
            return f"{text} It is not shown to reduce hallucination here."
        return text + (
            " It does so by saying or knowing less." if harmed else " It reduces hallucination here."
        )

    def _of(self, rows: pd.Series) -> Float[np.ndarray, " description"]:
        """Return, per description, the share of some rows in which it is wrong."""
        return self.wrong[rows.to_numpy(bool)].astype(float).mean(0)

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw hallucination, recall, length and questions against strength."""
        return mitigation_figure(
            self.rows,
            neutral=self.method.neutral,
            published=self.method.published,
            strength=self.method.strength,
            control=self.method.control,
            title=f"{self.method.name} on {self.model.name}",
            dark=dark,
        )

    def save(self, folder: str | Path) -> Path:
        """Write `mitigation.parquet`, `mitigation.json` and `mitigation.html` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder = Path(folder)
        write_table(folder / "mitigation.parquet", self.rows)
        record = {
            "method": self.method.name, "reference": self.method.reference, "model": self.model._asdict(),
            "data": self.data._asdict(), "seed": self.seed, "conclusion": self.conclusion(), "notes": list(self.notes),
        }  # fmt: skip
        write_json(folder / "mitigation.json", record)
        write_atomically(
            folder / "mitigation.html", self.figure().to_html(include_plotlyjs=True, full_html=True)
        )
        return folder


def mitigate(
    model: Any,
    method: str,
    described: PromptSet,
    asked: PromptSet,
    synonyms: Synonyms,
    *,
    strengths: Sequence[float] | None = None,
    traced: Tracing | None = None,
    draws: int = 3,
    max_new_tokens: int = 32,
    stop: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Mitigation:
    """Measure a method at several strengths, beside random controls.

    Args:
        model: The bridge.
        method: A key of `METHODS`.
        described: Images to describe, their objects as boxes.
        asked: Questions with answers, of images that should not become harder.
        synonyms: Object names to the words for them.
        strengths: None for the usual ones; the neutral one is added.
        traced: For `iri`, recovery rates on other images.
        draws: Random controls at each strength but the neutral one.
        max_new_tokens: Longest description.
        stop: Text that ends a description.
        seed: Of controls and intervals.
        progress: Called with the number of measurements done and of all.

    Raises:
        BadOption: There is no such method, or `iri` without recovery rates.
    """
    if method not in METHODS:
        raise BadOption(f"{method}: no such method.{nearest(method, METHODS)}")
    own = METHODS[method]
    if method == "iri" and traced is None:
        raise BadOption("iri needs recovery rates: give traced=trace(model, other_prompts).")
    chosen = sorted({own.neutral, *(own.strengths if strengths is None else strengths)})
    notes, tau, acting = [], None, CHOSEN
    if method == "var":
        published, tau = threshold_with_sinks(model, described)
        if tau < published:
            acting = LOWERED
            notes.append(
                f"{LOWERED}: at the published threshold of sinks (20 at a width of 4096, {published:.3g} here) the "
                "first token is massive in no dimension, so no token is a sink and nothing moves. Lowered "
                f"by tenths until it is, the threshold is {tau:.3g}: exploratory, ours; the random arm is its control."
            )
    dosed = [strength for strength in chosen if strength != own.neutral]
    plan = [(CHOSEN, 0, strength) for strength in chosen]
    plan += [(LOWERED, 0, strength) for strength in dosed if acting == LOWERED]
    if own.control != "none":
        plan += [(RANDOM, draw, strength) for draw in range(draws) for strength in dosed]
    clean = _measure(model, described, asked, synonyms, ((), None), max_new_tokens, stop, seed)
    rows, wrong = [], []
    for index, (arm, draw, strength) in enumerate(plan):
        rng = np.random.default_rng([seed, draw + 1]) if arm == RANDOM else None
        found, flags = clean
        if strength != own.neutral and not (arm == CHOSEN and acting == LOWERED):
            try:
                changed = changes(model, method, strength, described, traced, rng, tau)
                found, flags = _measure(
                    model, described, asked, synonyms, changed, max_new_tokens, stop, seed
                )
            except NoEffect as error:
                notes.append(f"{arm}, strength {strength:g}: {error}")
        wrong.append(flags)
        rows.append({"arm": arm, "draw": draw, "strength": strength, **found})
        if progress:
            progress(index + 1, len(plan))
    info = describe(model)
    source, data = Source(info.name, info.digest), Source(described.name, described.digest)
    return Mitigation(own, np.array(wrong), pd.DataFrame(rows), source, data, seed, tuple(notes))


def _measure(
    model: Any,
    described: PromptSet,
    asked: PromptSet,
    synonyms: Synonyms,
    changed: Changed,
    max_new_tokens: int,
    stop: str | None,
    seed: int,
) -> tuple[dict[str, Any], Bool[np.ndarray, " description"]]:
    """Return a row, and which descriptions hold an object that is not there."""
    interventions, decoding = changed
    found = describe_and_count(
        model, described, synonyms, interventions=interventions, decoding=decoding,
        max_new_tokens=max_new_tokens, stop=stop, seed=seed,
    )  # fmt: skip
    row: dict[str, Any] = {"n": len(described)}
    for one in found.summary().to_dict("records"):
        name = str(one["measure"])
        row |= {name: one["value"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
    longest = max(len(prompt.answer.split()) for prompt in asked) + 1
    written = generate(model, asked, interventions=interventions, decoding=decoding, max_new_tokens=longest)
    right = sum(
        one.text.split()[: len(prompt.answer.split())] == prompt.answer.split()
        for prompt, one in zip(asked, written, strict=True)
    )
    low, high = binomial_interval(right, len(asked))
    row |= {
        "right": right / len(asked),
        "right_low": low,
        "right_high": high,
        "n_questions": len(asked),
    }
    return row, found.table.hallucinated.to_numpy() > 0


def scenes_for(model: Any, n: int, seed: int = 0) -> tuple[PromptSet, PromptSet, Synonyms, PromptSet]:
    """Draw what `organism/vision` is measured on.

    Returns:
        Held-out scenes that break the prior, to describe; questions about others that keep it; the words for shapes;
        and questions whether a shape is there, of the training split, on which recovery rates are found.

    Raises:
        MissingData: The model sees no images.
    """
    if not sees_images(model):
        raise MissingData(f"{model.cfg.model_name} takes text only; choose a model that sees images.")
    described = descriptions(held_out_scenes(n, seed, keep=False), name=f"scenes-breaking-{seed}")
    asked = [questions(task, n, seed, keep=True) for task in ("color", "where", "count")]
    mixed = PromptSet(f"scene-questions-{seed}", tuple(asked[i % 3][i] for i in range(n)))
    traced = questions("exists", 96, seed, split="train", keep=True).filter(lambda one: bool(one.boxes))
    return described, mixed, SYNONYMS, traced[:24]
