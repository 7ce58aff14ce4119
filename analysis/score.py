"""Score the heads of a model: the one entrance to every method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptSet
from ..errors import EmptyPromptSet, MissingData
from ..hooks.capture import each_pattern
from ..hooks.check import reads_only_images
from ..hooks.encode import Batch, encode, some_of, unknown_words
from ..hooks.info import describe
from ..hooks.sweep import Progress
from ..hooks.tokens import Codec
from ..hooks.tower import refuse_pieces
from .defaults import as_prompt_set, default_prompts
from .registry import Measured, Method, get
from .scores import FROM_ATTENTION, HeadScores, Source

__all__ = ["as_prompt_set", "default_prompts", "score", "score_patterns"]

_PATTERN_BYTES = 2**26  # of one layer's attention at a time; eager attention holds a few copies of it


def score(
    model: Any,
    method: str,
    prompts: Any = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> HeadScores:
    """Score every head of a model by one method.

    Args:
        model: A bridge, as `load` gives it.
        method: A name from `methods()`.
        prompts: A `PromptSet`, prompts or texts; by default those that the method asks for, made for this model.
        seed: Of the default prompts, the method and the intervals.
        progress: Called with the work done and all of it, in prompts or in the method's own steps, where no hook is
            on the model. A method that does its work in one go calls it at the end only.
        **options: Of the method; text is converted to the option's type.

    Returns:
        The scores. Their `causal` is False until `verify` has run, unless the method itself intervenes.

    Raises:
        UnknownMethod: There is no such method.
        UnknownOption: The method has no such option.
        BadOption: An option has a value of the wrong type.
        EmptyPromptSet: There is no prompt.
    """
    chosen = get(method)
    resolved = chosen.resolve(options)
    if chosen.kind == "pattern":
        return score_patterns(model, prompts, {method: resolved}, seed=seed, progress=progress)[method]
    if chosen.data != "pictures":
        refuse_pieces(model, method)
    data = _data(model, prompts, chosen.data, seed)
    given: dict[str, Any] = {"seed": seed} if chosen.seeded else {}
    if chosen.reports:
        given["progress"] = progress
    measured = chosen.function(model, data, **given, **resolved)
    if progress and not chosen.reports:
        progress(len(data), len(data))
    return _named(model, chosen, resolved, data, measured, seed)


def score_patterns(
    model: Any,
    prompts: Any,
    methods: Iterable[str] | Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, HeadScores]:
    """Score every head by several pattern methods in one pass over the model.

    Each layer's attention is reduced to one number per prompt, head and method as soon as it is computed, so that
    memory is one layer of a few prompts, however long the prompt set is.

    Args:
        model: A bridge.
        prompts: As for `score`; by default those of the first method.
        methods: Names, or names with their options.
        seed: As for `score`.
        progress: Called with the number of prompts done and of all after every batch.

    Returns:
        Scores by method name.

    Raises:
        MissingData: A method is not computed from attention patterns.
    """
    asked = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    chosen = {name: get(name) for name in asked}
    resolved = {name: chosen[name].resolve(options) for name, options in asked.items()}
    for name, one in chosen.items():
        if one.kind != "pattern":
            raise MissingData(f"{name} is not computed from attention patterns alone: call score for it.")
    if not chosen:
        return {}
    refuse_pieces(model, ", ".join(chosen))
    data = _data(model, prompts, next(iter(chosen.values())).data, seed)
    shape = (len(data), int(model.cfg.n_layers), int(model.cfg.n_heads))
    samples = {name: np.full(shape, np.nan) for name in chosen}
    chance = {name: np.full(len(data), np.nan) for name in chosen}
    done = 0
    for rows in groups(model, data):
        batch = encode(model, [data[row] for row in rows])

        def visit(layer: int, pattern: Tensor, rows: list[int] = rows, batch: Batch = batch) -> None:
            pattern = pattern.float()
            for name, one in chosen.items():
                values = one.function(pattern, batch, **resolved[name])
                samples[name][rows, layer] = values.double().cpu().numpy()

        each_pattern(model, batch, visit)
        uniform = uniform_pattern(batch)
        for name, one in chosen.items():
            if one.alternative is not None:
                values = one.function(uniform, batch, **resolved[name])
                chance[name][rows] = values[:, 0].double().cpu().numpy()
        done += len(rows)
        if progress:
            progress(done, len(data))
    return {
        name: _named(
            model,
            one,
            resolved[name],
            data,
            Measured(samples[name], chance[name] if one.alternative is not None else None),
            seed,
        )
        for name, one in chosen.items()
    }


def uniform_pattern(batch: Batch) -> Float[Tensor, "prompt 1 query_pos key_pos"]:
    """Spread every real query's attention evenly over the real tokens up to itself: the chance level of a method."""
    real = batch.attention_mask.bool()
    allowed = (real[:, :, None] & real[:, None, :]).tril().float()
    return (allowed / allowed.sum(-1, keepdim=True).clamp_min(1))[:, None]


def _data(model: Any, prompts: Any, kind: str, seed: int) -> PromptSet:
    data = default_prompts(model, kind, seed) if prompts is None else as_prompt_set(prompts)
    if not len(data):
        raise EmptyPromptSet(f"{data.name!r} holds no prompt; give at least one.")
    return data


def groups(model: Any, data: PromptSet) -> Iterator[list[int]]:
    """Split the prompts into batches of similar length whose attention, one layer at a time, stays small."""
    lengths = encode(model, data).lengths.tolist()
    n_heads = int(model.cfg.n_heads)
    group: list[int] = []
    for row in sorted(range(len(data)), key=lambda row: lengths[row], reverse=True):
        widest = lengths[group[0]] if group else lengths[row]
        if group and (len(group) + 1) * n_heads * widest**2 * 4 > _PATTERN_BYTES:
            yield group
            group = []
        group.append(row)
    yield group


def _named(
    model: Any, one: Method, options: Mapping[str, Any], data: PromptSet, measured: Measured, seed: int
) -> HeadScores:
    info = describe(model)
    samples = None if measured.samples is None else np.asarray(measured.samples, dtype=np.float64)
    assert samples is not None or measured.values is not None, f"{one.name} returned no scores"
    values = measured.values if samples is None or measured.values is not None else mean_over_prompts(samples)
    assert values is not None
    alone = () if one.intervenes else (FROM_ATTENTION,)
    notes = (*measured.notes, *_uncounted(samples, measured), *unknown_note(model, data), *alone)
    return HeadScores(
        values=values,
        samples=samples,
        method=one.name,
        options=dict(options),
        model=Source(info.name, info.digest),
        data=Source(data.name, data.digest),
        seed=seed,
        higher=one.higher,
        chance=measured.chance,
        alternative=one.alternative or "two-sided",
        causal=one.intervenes,
        notes=notes,
        interval=measured.interval,
        n_resampled=measured.n_resampled,
    )


def unknown_note(model: Any, data: PromptSet) -> tuple[str, ...]:
    """Say which words of the prompts the model cannot read; nothing if it can read them all."""
    if reads_only_images(model):
        return ()
    words, n_prompts = unknown_words(Codec.of(model), data)
    if not words:
        return ()
    return (
        f"{n_prompts} of {len(data)} prompts of {data.name} hold words that the model has no token for and reads as "
        f"{model.tokenizer.unk_token}: {some_of(words)}.",
    )


def mean_over_prompts(samples: Float[np.ndarray, "example layer head"]) -> Float[np.ndarray, "layer head"]:
    """Average over the prompts that count; NaN for a head that no prompt counts for."""
    n = np.isfinite(samples).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(n > 0, np.nansum(samples, axis=0) / n, np.nan)


def _uncounted(samples: np.ndarray | None, measured: Measured) -> tuple[str, ...]:
    """Say how many prompts gave no score, unless the method has said so in its own words."""
    if measured.notes or samples is None:
        return ()
    missing = int((~np.isfinite(samples).any(axis=(1, 2))).sum())
    if not missing:
        return ()
    return (
        f"{missing} of {len(samples)} prompts gave no score: what the method asks about does not occur in them.",
    )
