"""What a model that sees is asked with and without an image, to tell heads for seeing from heads for all else."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...datasets.prompts import PromptSet
from ...datasets.scenes import questions
from ...datasets.skills import SKILLS
from ...errors import MissingData
from ..defaults import default_prompts
from ..sees import sees_images

VISUAL = ("exists", "color", "where", "count")
TEXT_ONLY = ("memory", "repeated", "ioi")
"""What `organism/vision` was trained on without images."""


class Skills(NamedTuple):
    """Prompts by task.

    Attributes:
        rank: Questions of all visual tasks in turn, training split: heads are scored on these.
        train: The visual tasks, training split, other questions: how many heads to take is chosen on these.
        visual: The visual tasks, held-out split.
        text: Tasks without an image.
    """

    rank: PromptSet
    train: dict[str, PromptSet]
    visual: dict[str, PromptSet]
    text: dict[str, PromptSet]


def skills(model: Any, n: int = 200, seed: int = 0, *, rank_on: str = "all") -> Skills:
    """Draw questions about scenes that break the prior, and prompts without an image.

    Args:
        model: `organism/vision` gets its own text skills; others repeated tokens and English sentences (`ioi`).
        n: Held-out prompts a task; half as many to choose on, and 32 a task to rank heads on.
        seed: Of scenes and prompts.
        rank_on: A single visual task to rank heads on, in place of all in turn.

    Raises:
        MissingData: The model sees no images, or there is no such task.
    """
    if not sees_images(model):
        raise MissingData(f"{model.cfg.model_name} takes text only; choose a model that sees images.")
    if rank_on not in ("all", *VISUAL):
        raise MissingData(f"{rank_on}: no visual task; name all, or one of {', '.join(VISUAL)}.")
    tasks = VISUAL if rank_on == "all" else (rank_on,)
    ranking = [questions(task, 32, seed + 1, split="train", keep=False) for task in tasks]
    rank = PromptSet(f"scenes-breaking-train-{seed + 1}", tuple(one[i] for i in range(32) for one in ranking))
    train = {task: questions(task, max(2, n // 2), seed, split="train", keep=False) for task in VISUAL}
    visual = {task: questions(task, n, seed, keep=False) for task in VISUAL}
    if str(model.cfg.model_name) == "organism/vision":
        text = {task: SKILLS[task](n, seed=seed, split="test") for task in TEXT_ONLY}
    else:
        text = {task: default_prompts(model, task, seed, n=n) for task in ("repeated", "ioi")}
    return Skills(rank, train, visual, text)


def to_describe(model: Any, n: int = 100, seed: int = 0) -> tuple[PromptSet, PromptSet]:
    """Draw scenes to describe: of the training split, and held-out ones.

    Raises:
        MissingData: The model sees no images.
    """
    if not sees_images(model):
        raise MissingData(
            f"{model.cfg.model_name} takes text only; give prompts to continue, or a model that sees."
        )
    return questions("describe", n, seed, split="train"), questions("describe", n, seed)
