"""Images whose objects are known, from COCO-style annotations or drawn scenes, and the questions made of them.

POPE asks of each image whether objects are there: as many that are as that are not, and the absent ones are drawn at
random, from the most frequent objects, or from those that mostly stand together with what is there.
Reference: Li et al. 2023, arXiv:2305.10355.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from ..errors import BadPrompts, EmptyPromptSet, MissingData
from .plain import plain
from .prompts import Boxes, Prompt, PromptSet
from .scenes import Scene

Absent = Literal["random", "popular", "adversarial"]
QUESTION = "is there a {} :"  # as scenes are asked about
DESCRIBE = "describe the scene :"


@dataclass(frozen=True)
class Annotated:
    """One image and what stands in it.

    Attributes:
        image: As in a prompt's `image`.
        objects: Name to boxes (left, top, right, bottom) in pixels; perhaps none.
    """

    image: str
    objects: Boxes = field(default_factory=dict, hash=False)


def of_scene(scene: Scene) -> Annotated:
    """Return a drawn scene with its shapes."""
    return Annotated(str(scene), {item.shape: (item.box,) for item in scene.items})


def from_coco(path: str | Path, images: str | Path) -> tuple[Annotated, ...]:
    """Read a COCO-style annotation file: `images`, `categories` and `annotations` with `bbox` = [x, y, width, height].

    Args:
        path: The JSON file.
        images: Folder of the image files; `file_name` may not lead out of it.

    Returns:
        One entry for every image that has an annotation, in the file's order.

    Raises:
        MissingData: There is no such file.
        BadPrompts: It is not JSON of this form; the message names the entry.
    """
    path, folder = Path(path), Path(images).resolve()
    try:
        data = json.loads(plain(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingData(f"{path}: no such file.") from None
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: no UTF-8, no JSON, a number of 5,000 digits
        raise BadPrompts(f"{path}: not a JSON file that can be read: {error}") from None
    parts = {name: _listed(data, name, path) for name in ("images", "categories", "annotations")}
    names = {_field(one, "id", path, "categories", i): str(_field(one, "name", path, "categories", i))
             for i, one in enumerate(parts["categories"])}  # fmt: skip
    found: dict[Any, dict[str, list[tuple[int, int, int, int]]]] = {}
    for i, one in enumerate(parts["annotations"]):
        category = _field(one, "category_id", path, "annotations", i)
        if category not in names:
            raise BadPrompts(f"{path}: annotations[{i}]: category_id {category!r} is none of the categories.")
        box = _box(_field(one, "bbox", path, "annotations", i), path, i)
        found.setdefault(_field(one, "image_id", path, "annotations", i), {}).setdefault(
            names[category], []
        ).append(box)
    listed = []
    for i, one in enumerate(parts["images"]):
        objects = found.get(_field(one, "id", path, "images", i))
        if not objects:
            continue
        named = str(_field(one, "file_name", path, "images", i))
        try:
            file = (folder / named).resolve()
        except (
            ValueError,
            OSError,
            RuntimeError,
        ) as error:  # a NUL, half of a surrogate pair, links in a circle
            raise BadPrompts(
                f"{path}: images[{i}]: file_name {ascii(named)[:80]} is no path: {error}."
            ) from None
        if not file.is_relative_to(folder):
            raise BadPrompts(f"{path}: images[{i}]: file_name leads out of the folder of images.")
        listed.append(Annotated(str(file), {name: tuple(boxes) for name, boxes in objects.items()}))
    if not listed:
        raise EmptyPromptSet(f"{path} annotates no image.")
    return tuple(listed)


def descriptions(
    annotated: Sequence[Annotated], *, text: str = DESCRIBE, name: str = "descriptions"
) -> PromptSet:
    """Ask for a description of every image; the objects stand as boxes."""
    return PromptSet(name, tuple(Prompt(text, image=one.image, boxes=one.objects) for one in annotated))


def pope(
    annotated: Sequence[Annotated],
    absent: Absent,
    *,
    among: Sequence[Annotated] | None = None,
    per_image: int = 3,
    seed: int = 0,
    question: str = QUESTION,
    answers: tuple[str, str] = (" yes", " no"),
) -> PromptSet:
    """Ask of every image whether objects are there, as many that are as that are not.

    Args:
        annotated: The images.
        absent: How absent objects are drawn: any (`random`), the most frequent ones (`popular`), or those that most
            often stand together with the objects that are there (`adversarial`).
        among: Images from which frequencies are counted; None for the images themselves.
        per_image: At most so many objects that are there, and as many that are not.
        seed: Of the objects drawn.
        question: Text with {} for the object's name.
        answers: What is right for an object that is there, and for one that is not.

    Returns:
        Prompts with the right answer, the other as foil, the label `present` or the way absent objects were drawn, and
        the box of an object that is there as `object`.
    """
    counted = annotated if among is None else among
    frequency = Counter(name for one in counted for name in one.objects)
    together = Counter(pair for one in counted for pair in permutations(one.objects, 2))
    every = sorted({*frequency, *(name for one in annotated for name in one.objects)})
    rng = random.Random(f"pope/{absent}/{seed}")
    prompts = []
    for one in annotated:
        missing = [name for name in every if name not in one.objects]
        size = min(per_image, len(one.objects), len(missing))
        here = rng.sample(sorted(one.objects), size)
        rng.shuffle(missing)  # ties fall by chance
        if absent == "popular":
            missing.sort(key=lambda name: -frequency[name])
        elif absent == "adversarial":
            missing.sort(key=lambda name: -max(together[other, name] for other in one.objects))
        for name in here:
            box = {"object": one.objects[name]} if one.objects[name] else {}
            prompts.append(
                Prompt(
                    question.format(name), answers[0], answers[1], label="present", image=one.image, boxes=box
                )
            )
        for name in missing[:size]:
            prompts.append(
                Prompt(question.format(name), answers[1], answers[0], label=absent, image=one.image)
            )
    return PromptSet(f"pope-{absent}-{seed}", tuple(prompts))


def _listed(data: Any, name: str, path: Path) -> list[Any]:
    part = data.get(name) if isinstance(data, Mapping) else None
    if not isinstance(part, list):
        raise BadPrompts(f"{path}: {name}: expected a list, as COCO annotations have it.")
    return part


def _field(one: Any, name: str, path: Path, part: str, index: int) -> Any:
    value = one.get(name) if isinstance(one, Mapping) else None
    if value is None or (name.endswith("id") and isinstance(value, list | dict)):
        raise BadPrompts(f"{path}: {part}[{index}]: {name} is missing or wrong.")
    return value


def _box(given: Any, path: Path, index: int) -> tuple[int, int, int, int]:
    """Turn x, y, width, height into whole pixels that hold at least one."""
    try:
        x, y, width, height = (float(value) for value in given)
        left, top = max(0, int(x)), max(0, int(y))
        right, bottom = max(left + 1, round(x + width)), max(top + 1, round(y + height))
    except (TypeError, ValueError, OverflowError):
        raise BadPrompts(
            f"{path}: annotations[{index}]: bbox is {str(given)[:40]}, expected [x, y, width, height]."
        ) from None
    return left, top, right, bottom
