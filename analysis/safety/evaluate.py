"""What a model answers and refuses without some heads, beside random heads, and what else it can no longer do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...datasets.prompts import Prompt, PromptSet
from ...datasets.skills.writing import filler
from ...errors import BadOption, EmptyPromptSet, nearest
from ...hooks.encode import encode
from ...hooks.forward import forward
from ...hooks.generate import generate
from ...hooks.heads import Head, all_heads, parse_heads
from ...hooks.info import describe
from ...hooks.intervene import intervene
from ...hooks.interventions import Intervention, uniform
from ..controls import draw_controls
from ..defaults import as_prompt_set
from ..scores import Source
from ..statistics import binomial_interval
from .judges import Judge, is_gibberish, refusal_judge

CLEAN, CHOSEN, RANDOM = "clean", "chosen", "random"

FORMS: dict[str, Callable[[str], str]] = {
    "direct": lambda request: request,
    "template": lambda request: f"## Query:{request} \n## Answer:",
}
"""How a request is put to the model: as it is, or in the paper's template, neither with a system prompt."""

_ROWS = 32  # neutral texts in one forward pass


@dataclass(frozen=True)
class Answers:
    """What one changed model wrote for one kind of requests.

    Attributes:
        arm: `clean`, `chosen` or `random`.
        draw: Number of the random set; 0 for the others.
        heads: What was changed.
        label: Of the requests.
        form, temperature: How they were put, and how the text was drawn.
        prompts, texts: Requests and what was written.
        answered: The judge's word on each.
        perplexity: Of this changed model on neutral text; NaN without any.
    """

    arm: str
    draw: int
    heads: tuple[Head, ...]
    label: str
    form: str
    temperature: float
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    answered: tuple[bool, ...]
    perplexity: float

    def row(self) -> dict[str, Any]:
        """Return rates with exact intervals, as a row of the table."""
        n = len(self.texts)
        broken = [is_gibberish(text) for text in self.texts]
        sense = [one and not bad for one, bad in zip(self.answered, broken, strict=True)]
        row: dict[str, Any] = {
            "arm": self.arm,
            "draw": self.draw,
            "k": len(self.heads),
            "label": self.label,
            "form": self.form,
            "temperature": self.temperature,
            "n": n,
        }
        for name, hits in (("answered", self.answered), ("gibberish", broken), ("answered_in_words", sense)):
            row[name] = sum(hits) / n
            row[f"{name}_low"], row[f"{name}_high"] = binomial_interval(sum(hits), n)
        row["as_taught"], row["as_foil"] = self._begins("answer"), self._begins("foil")
        row["perplexity"] = self.perplexity
        return row

    def _begins(self, name: str) -> float:
        """Return the share of texts that begin with this field of their prompt; NaN where no prompt has it."""
        wanted = [getattr(prompt, name).strip() for prompt in self.prompts]
        hits = [text.strip().startswith(word) for word, text in zip(wanted, self.texts, strict=True) if word]
        return sum(hits) / len(hits) if hits else float("nan")


@dataclass(frozen=True)
class Evaluation:
    """What a model answered clean, without the chosen heads, and without random ones.

    Attributes:
        arms: One entry per arm, draw, label, form and temperature.
        heads: The chosen heads.
        notes: What could not be done as asked.
    """

    arms: tuple[Answers, ...]
    heads: tuple[Head, ...]
    model: Source
    data: Source
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return one row per arm, draw, label, form and temperature.

        Columns: `arm`, `draw`, `k`, `label`, `form`, `temperature`, `n`; then each with its exact 95 % interval
        (`_low`, `_high`): `answered` (the judge's; the attack success rate on harmful requests), `gibberish`,
        `answered_in_words` (answered and no gibberish). `as_taught`, `as_foil`: texts that begin with the prompt's
        `answer` or `foil`, NaN without any: a model that writes about something else has answered by any judge of
        refusals, and has done neither of these. `perplexity` on neutral text.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        return pd.DataFrame([arm.row() for arm in self.arms])

    def summary(self) -> pd.DataFrame:
        """Return the table with random draws as their mean, and `lowest` and `highest` draw for `answered`."""
        keys = ["arm", "label", "form", "temperature"]
        grouped = self.table().groupby(keys, sort=False)
        found = grouped.agg(
            draws=("draw", "nunique"),
            n=("n", "first"),
            answered=("answered", "mean"),
            low=("answered_low", "first"),
            high=("answered_high", "first"),
            lowest=("answered", "min"),
            highest=("answered", "max"),
            gibberish=("gibberish", "mean"),
            as_taught=("as_taught", "mean"),
            as_foil=("as_foil", "mean"),
            perplexity=("perplexity", "mean"),
        ).reset_index()
        # The draws share their prompts, so an interval over prompts would not speak of them.
        found.loc[found["arm"] == RANDOM, ["low", "high"]] = np.nan
        return found


def evaluate(
    model: Any,
    prompts: Any,
    heads: Any = (),
    *,
    kind: Callable[..., Intervention] = uniform,
    judge: Judge = refusal_judge,
    forms: Iterable[str] | Mapping[str, Callable[[str], str]] = ("direct",),
    temperatures: Sequence[float] = (0.0,),
    draws: int = 5,
    neutral: Any = None,
    max_new_tokens: int = 128,
    stop: str | None = None,
    seed: int = 0,
    clean: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Let a model answer requests clean, without the heads, and without random heads of the same layers.

    Labels are kept apart: on `harmful` requests the share answered is the attack success rate, on `benign` ones it is
    what the model can still do. With `kind=partial(scale, gain=2.0)` the heads are strengthened, and what is lost on
    benign requests is over-refusal.

    Args:
        model: The bridge.
        prompts: Requests, with labels if there are several kinds.
        heads: The chosen heads; none measures the clean model only.
        kind: What is done to heads.
        judge: See `judges`.
        forms: Names from `FORMS`, or names with functions of the request.
        temperatures: 0 takes the likeliest token; the paper also samples at 1 (from the best 5, which is not done).
        draws: Random sets of heads.
        neutral: Texts whose perplexity tells whether the model is damaged; for `organism/text` made by default.
        max_new_tokens, stop: Where a text ends.
        seed: Of random heads and sampling.
        clean: Measure the unchanged model too; False where it has been measured.
        progress: Called with the number of generated sets and their total.

    Raises:
        BadOption: There is no such form, or no temperature.
        EmptyPromptSet: There is no request.
    """
    data = as_prompt_set(prompts)
    if not len(data):
        raise EmptyPromptSet(f"{data.name!r} holds no request; give at least one.")
    ways = dict(forms) if isinstance(forms, Mapping) else _forms(forms)
    if not ways or not temperatures:
        raise BadOption("forms and temperatures: give at least one of each.")
    chosen = parse_heads(heads, model) if heads else ()
    planned: list[tuple[str, int, tuple[Head, ...]]] = [(CLEAN, 0, ())] if clean or not chosen else []
    notes: list[str] = []
    if chosen:
        planned.append((CHOSEN, 0, chosen))
        rng = np.random.default_rng([seed, len(chosen)])
        if draws:
            sets, notes = draw_controls(chosen, all_heads(model), "same-layers", draws=draws, rng=rng)
            planned += [(RANDOM, draw, some) for draw, some in enumerate(sets, 1)]
    info = describe(model)
    texts = _neutral(info.name, seed) if neutral is None else as_prompt_set(neutral)
    if texts is None:
        notes.append("No neutral text was given, so nothing is known about damage to other abilities.")
    labels = list(dict.fromkeys(prompt.label for prompt in data))
    total = len(planned) * len(labels) * len(ways) * len(temperatures)
    arms: list[Answers] = []
    for name, draw, some in planned:
        changes = [kind(some)] if some else []
        damage = perplexity(model, texts, changes) if texts is not None else float("nan")
        for label in labels:
            asked = tuple(prompt for prompt in data if prompt.label == label)
            for form, put in ways.items():
                put_so = [replace(prompt, text=put(prompt.text), spans={}) for prompt in asked]
                for temperature in temperatures:
                    written = generate(
                        model,
                        put_so,
                        interventions=changes,
                        max_new_tokens=max_new_tokens,
                        temperature=temperature,
                        stop=stop,
                        seed=seed,
                    )
                    said = tuple(one.text for one in written)
                    words = tuple(map(bool, judge(asked, said)))
                    arms.append(
                        Answers(name, draw, some, label, form, temperature, asked, said, words, damage)
                    )
                    if progress:
                        progress(len(arms), total)
    return Evaluation(
        tuple(arms), chosen, Source(info.name, info.digest), Source(data.name, data.digest), tuple(notes)
    )


@torch.no_grad()
def perplexity(model: Any, texts: Any, interventions: Sequence[Intervention] = ()) -> float:
    """Return exp of the mean negative log-probability of each token after the first, over all texts."""
    data = as_prompt_set(texts)
    loss, count = 0.0, 0
    with intervene(model, list(interventions)):
        for start in range(0, len(data), _ROWS):
            batch = encode(model, data[start : start + _ROWS]).to(model.cfg.device)
            logprobs = forward(model, batch).float().log_softmax(-1)[:, :-1]
            own = logprobs.gather(-1, batch.tokens[:, 1:, None])[..., 0]
            real = (batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()
            loss -= float(own[real].double().sum())
            count += int(real.sum())
    return float(np.exp(loss / count)) if count else float("nan")


def _forms(names: Iterable[str]) -> dict[str, Callable[[str], str]]:
    found = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in FORMS:
            raise BadOption(f"form {name!r}: there is no such form.{nearest(name, FORMS)}")
        found[name] = FORMS[name]
    return found


def _neutral(name: str, seed: int) -> PromptSet | None:
    """Make neutral sentences in the words of the shipped model; other models need their own."""
    if name != "organism/text":
        return None
    random = Random(f"neutral/{seed}")
    return PromptSet("neutral", tuple(Prompt(filler(random)) for _ in range(64)))
