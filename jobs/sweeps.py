"""One job file, many points: `sweep:` blocks and `--set`, both by places such as `steps.score.options.form`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import BadJob
from .tree import Place, Tree, half_of_a_pair, scalar

MOST = 100_000  # points of one sweep


def place_of(text: str, tree: Any) -> Place:
    """Read `steps.score.options.form`: a list's entry is named by its number, from 0, or by its `name` or `kind`.

    Raises:
        BadJob: A part is empty, or names no entry of a list.
    """
    place: list[str | int] = []
    for part in text.split("."):
        if not part:
            raise BadJob(f"{text!r} is no place in a job; write names with dots between, such as run.shards.")
        if isinstance(tree, list):
            step = _entry(tree, part)
            if step is None:
                names = [str(_name(one)) for one in tree]
                raise BadJob(
                    f"{text}: no entry {part}; there are {', '.join(names)}, or 0 to {len(tree) - 1}."
                )
            place.append(step)
            tree = tree[step]
        else:
            place.append(part)
            tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tuple(place)


def set_values(tree: Tree, items: Sequence[str]) -> Tree:
    """Apply `--set a.b=c` items; the value is read as YAML.

    Raises:
        BadJob: An item is not of this form, or its place does not exist.
    """
    for item in items:
        text, equals, value = item.partition("=")
        if not equals or not text:
            raise BadJob(f"--set {item!r}: expected place=value, such as --set run.shards=4.")
        if half_of_a_pair(item):
            raise BadJob(f"--set {item!a}: is not UTF-8 text.")
        tree = tree.assign(place_of(text, tree.value), scalar(value), f"--set {item}")
    return tree


def points(tree: Tree, at: Place = ()) -> Iterator[tuple[dict[str, Any], Tree]]:
    """Go through the points of the `sweep:` block of the mapping at a place: the cartesian product of its lists.

    Yields:
        What is set, by the places as written, and the tree with these values and without the block. A mapping
        without a block has one point at which nothing is set.

    Raises:
        BadJob: The block is not a mapping of places to lists of at least one value, or has too many points.
    """
    holder = _at(tree.value, at)
    block = holder.get("sweep") if isinstance(holder, Mapping) else None
    if not isinstance(holder, Mapping) or "sweep" not in holder:
        yield {}, tree
        return
    where = (*at, "sweep")
    if not isinstance(block, Mapping) or not block:
        raise BadJob(
            f"{tree.origin(where)}: sweep: expected places with lists of values, such as seed: [0, 1]"
        )
    for key, values in block.items():
        if not isinstance(values, list) or not values:
            raise BadJob(f"{tree.origin((*where, key))}: sweep.{key}: expected a list of values")
    count = math.prod(len(values) for values in block.values())
    if count > MOST:
        raise BadJob(f"{tree.origin(where)}: sweep: {count:,} points; at most {MOST:,} are planned at once")
    bare = tree.assign(at, {key: value for key, value in holder.items() if key != "sweep"})
    bare = Tree(bare.value, tree.origins, tree.name)
    places = {key: (*at, *place_of(key, _at(bare.value, at))) for key in block}
    for chosen in itertools.product(*(range(len(values)) for values in block.values())):
        point, here = {}, bare
        for (key, values), index in zip(block.items(), chosen, strict=True):
            point[key] = values[index]
            here = here.assign(places[key], values[index], tree.origin((*where, key, index)))
        yield point, here


def _at(value: Any, place: Place) -> Any:
    for part in place:
        value = value[part]
    return value


def _entry(entries: Sequence[Any], part: str) -> int | None:
    if part.isdigit():
        return int(part) if int(part) < len(entries) else None
    return next((index for index, one in enumerate(entries) if _name(one) == part), None)


def _name(entry: Any) -> Any:
    return (entry.get("name") or entry.get("kind")) if isinstance(entry, Mapping) else None
