"""Make the prompts that a method needs when the user gives none, from the model's own vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from ..datasets.conflict import conflict
from ..datasets.documents import documents
from ..datasets.ioi import ioi
from ..datasets.needle import needle
from ..datasets.prompts import Prompt, PromptSet
from ..datasets.scenes import COLORS, SHAPES, TASKS, Item, Scene, questions
from ..datasets.wiki import wiki
from ..errors import MissingData, nearest
from ..hooks.tower import Tower
from .sees import sees_images

_OF_CONTEXT = ("multi-document", "knowledge-conflict", "wiki")
_ABOUT_ONE_SHAPE = ("color", "where", "exists")
_OWN_SKILLS = "organism/text"  # has prompts of every kind in its vocabulary of a few hundred words
_COPY = 32  # tokens that are repeated, where the context holds them twice
_LONG_COPY = 64  # and where it holds them four times
_TRIES = 300  # random tokens tried for one place, before the prompt is begun anew
_BEGUN = 20


def default_prompts(model: Any, kind: str, seed: int = 0, *, n: int | None = None) -> PromptSet:
    """Make prompts of a kind for a model.

    Args:
        model: The bridge, or its `outline`; its tokenizer and context length decide what fits.
        kind: `repeated` (random tokens, then the same again), `repeated-4` (the same four times), `needle` (one fact in
            a long text), `multi-document` (one of several documents holds the answer), `knowledge-conflict` (the
            context contradicts a fact) or `wiki` (articles about invented people); for models that see, `scenes` or
            `scene-` and a task such as `scene-color`; for `organism/text`, all but the first and any of its skills.
            `refusal`: requests, half of them harmful. `ioi`: two names, one of them repeated.
        seed: Same model and seed, same prompts.
        n: Number of prompts; by default 32, 64 of `needle`, of which some may not count, 16 of
            `knowledge-conflict`, 8 of `repeated-4`.

    Raises:
        MissingData: There are no such prompts for this model.
    """
    n = n or {"needle": 64, "knowledge-conflict": 16, "repeated-4": 8}.get(kind, 32)
    own_words = str(model.cfg.model_name) == _OWN_SKILLS
    if kind == "pictures":
        # A tower's model is asked something about them.
        return scenes(model, "scenes", n, seed) if isinstance(model, Tower) else pictures(n, seed)
    if model.tokenizer is None:
        raise MissingData(f"{kind}: {model.cfg.model_name} reads images alone; its methods ask for pictures.")
    if kind == "scenes" or kind.removeprefix("scene-") in TASKS:
        return scenes(model, kind, n, seed)
    if kind == "repeated-4":
        return repeated_tokens(model, n, seed, copies=4)
    if kind in _OF_CONTEXT:
        return _of_context(model, kind, n, seed, "organism" if own_words else "english")
    if own_words:
        from ..datasets.skills import SKILLS

        if kind in SKILLS:
            return SKILLS[kind](n, seed=seed, split="test")
        raise MissingData(
            f"{kind}: {_OWN_SKILLS} has no prompts of this kind.{nearest(kind, [*SKILLS, *_OF_CONTEXT])}"
        )
    if kind == "refusal":
        return own_requests(model, n, seed)
    if kind == "repeated":
        return repeated_tokens(model, n, seed)
    if kind == "needle":
        return _needles(model, n, seed)
    if kind == "ioi":
        return ioi(n, seed=seed, third=True, count=lambda text: len(model.tokenizer(text)["input_ids"]))
    known = ["repeated", "repeated-4", "needle", "ioi", "refusal", *_OF_CONTEXT]
    raise MissingData(
        f"{kind}: there are no such prompts for {model.cfg.model_name}.{nearest(kind, known)} "
        "Or give a file of prompts."
    )


def own_requests(model: Any, n: int, seed: int = 0, split: str = "test") -> PromptSet:
    """Make harmful and benign requests: for the shipped models those that they were made to refuse and answer.

    Other models get generic ones in plain English, without answers. Requests of the splits `train` and `test` share no
    combination of verb, thing and setting.
    """
    from ..datasets.requests import requests
    from ..datasets.skills.safety import refusal, request
    from ..datasets.skills.writing import prompt_set

    writers = {"organism/text": refusal, "organism/planted": request}
    name = str(model.cfg.model_name)
    if name not in writers:
        return requests(n, seed=seed, split=split)
    return prompt_set("refusal", writers[name], n, seed, split)


def pictures(n: int, seed: int = 0) -> PromptSet:
    """Draw held-out scenes of one shape each, with the shape as label: what a model of images alone is shown."""
    random = Random(f"pictures/{seed}")
    drawn = []
    for _ in range(n):
        shape, color = random.choice(SHAPES), random.choice(list(COLORS))
        scene = Scene((Item(color, shape, random.randrange(9)),), random.randrange(10**9))
        drawn.append(Prompt("picture", image=str(scene), label=shape))
    return PromptSet(f"pictures-{seed}", tuple(drawn))


def scenes(model: Any, kind: str, n: int, seed: int = 0) -> PromptSet:
    """Ask about held-out scenes of coloured shapes that keep the prior: `scenes`, for all tasks about one shape, or one
    task, such as `scene-color`.

    Raises:
        MissingData: The model sees no images.
    """
    if not sees_images(model):
        raise MissingData(f"{kind}: {model.cfg.model_name} takes text only; choose a model that sees images.")
    if kind != "scenes":
        return questions(kind.removeprefix("scene-"), n, seed, keep=True)
    asked = [questions(task, n, seed, keep=True) for task in _ABOUT_ONE_SHAPE]
    return PromptSet(f"scenes-{seed}", tuple(asked[i % len(asked)][i] for i in range(n)))


def repeated_tokens(model: Any, n: int, seed: int = 0, *, copies: int = 2) -> PromptSet:
    """Repeat random tokens of the vocabulary: what induction and previous-token heads are measured on.

    Tokens are drawn one by one and kept if the text so far turns back into exactly these tokens; bytes and pieces
    that a tokenizer would merge with their neighbour are passed over, and so is what cannot be printed. No token
    stands twice within a copy. The last token of the last copy is left out as the answer; `corrupted` has another
    token in its place in the earlier copies.
    Spans: `first`, `repeat` (the first copy and the others), and `target`, the token that an induction head at the end
    attends to, in the first copy.

    Raises:
        MissingData: The tokenizer has too few tokens that survive this.
    """
    longest = _COPY if copies == 2 else _LONG_COPY
    length = min(longest, (int(model.cfg.n_ctx) - 2) // copies, (len(model.tokenizer) - 1) // 2)
    if length < 2:
        raise MissingData(
            f"{model.cfg.model_name}: too few tokens or too short a context to repeat anything."
        )
    tokenizer = model.tokenizer
    special = set(tokenizer.all_special_ids)
    drawn = [i for i in range(len(tokenizer)) if i not in special]
    made = []
    for index in range(n):
        random = Random(f"repeated-tokens/{seed}/{index}")
        for _ in range(_BEGUN):
            prompt = _repeat(tokenizer, drawn, length, random, copies)
            if prompt is not None:
                made.append(prompt)
                break
        else:
            raise MissingData(
                f"{model.cfg.model_name}: found no {length} random tokens that stay themselves when their text is "
                "encoded again. Give prompts that repeat something."
            )
    return PromptSet("repeated" if copies == 2 else f"repeated-{copies}", tuple(made))


def _repeat(tokenizer: Any, drawn: Sequence[int], length: int, random: Random, copies: int) -> Prompt | None:
    """Write one prompt, or None where the copies do not fit together."""
    copy: list[int] = []
    for _ in range(length + 1):  # one more than needed: the foil
        for _ in range(_TRIES):
            token = random.choice(drawn)
            if token in copy or not _text(tokenizer, [token]).strip().isprintable():
                continue
            if _survives(tokenizer, [*copy, token]):
                copy.append(token)
                break
        else:
            return None
    *copy, foil = copy
    wrong = [*copy[:-1], foil]
    earlier = copies - 1
    shown, corrupted = copy * earlier + copy[:-1], wrong * earlier + copy[:-1]
    if not all(_survives(tokenizer, ids) for ids in (copy * copies, [*shown, foil], shown, corrupted)):
        return None
    text = _text(tokenizer, shown)
    whole, whole_foil = _text(tokenizer, copy * copies), _text(tokenizer, [*shown, foil])
    if not (whole.startswith(text) and whole_foil.startswith(text)):
        return None
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans = {
        "first": ((offsets[0][0], offsets[length - 1][1]),),
        "repeat": ((offsets[length][0], offsets[-1][1]),),
        "target": (tuple(offsets[length - 1]),),
    }
    return Prompt(text, whole[len(text) :], whole_foil[len(text) :], _text(tokenizer, corrupted), spans)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _survives(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether the text of these tokens is encoded as these tokens again."""
    return tokenizer(_text(tokenizer, ids), add_special_tokens=False)["input_ids"] == list(ids)


def _needles(model: Any, n: int, seed: int) -> PromptSet:
    """Hide one fact in as much generated text as the context holds, up to 512 tokens."""
    tokenizer = model.tokenizer

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    longest = min(512, int(model.cfg.n_ctx) - 50)  # the answer must still fit behind the prompt
    return needle(n, seed=seed, length=longest, count=count)


def _of_context(model: Any, kind: str, n: int, seed: int, words: str) -> PromptSet:
    """Write prompts in which the answer has to be found in the context, or contradicts what is known."""
    if kind == "multi-document":
        return documents(n, seed=seed, words=words)
    tokenizer = model.tokenizer

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    if kind == "knowledge-conflict":
        return conflict(n, seed=seed, words=words, count=count)
    longest = min(512, int(model.cfg.n_ctx) - 50)  # the answer must still fit behind the prompt
    return wiki(n, seed=seed, words=words, length=longest, count=count)


def as_prompt_set(prompts: Any) -> PromptSet:
    """Name what the user gave: a `PromptSet` as it is; one text, one `Prompt` or a list of either as `prompts`."""
    if isinstance(prompts, PromptSet):
        return prompts
    listed: Sequence[Any] = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
    return PromptSet("prompts", tuple(Prompt(item) if isinstance(item, str) else item for item in listed))
