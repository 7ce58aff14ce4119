"""Read YAML into plain values, and remember on which line each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import BadJob, MissingData

Place = tuple[str | int, ...]

_LARGEST = 5_000_000  # bytes of a job file
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
_AS_TEXT = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class Tree:
    """Plain values with their origin.

    Attributes:
        value: Dicts, lists and scalars.
        origins: Where a value was written, by its place in the tree: `job.yaml:7`.
        name: What it was read from.
    """

    value: Any
    origins: Mapping[Place, str] = field(default_factory=dict)
    name: str = "job"

    def origin(self, place: Place) -> str:
        """Say where a value stands; where it was left out, where a part of it or the thing that lacks it stands."""
        if place not in self.origins:
            parts = [origin for key, origin in self.origins.items() if key[: len(place)] == place]
            if parts:
                return parts[0]
        for end in range(len(place), -1, -1):
            if place[:end] in self.origins:
                return self.origins[place[:end]]
        return self.name

    def assign(self, place: Place, value: Any, origin: str = "") -> Tree:
        """Return a copy with one value set; mappings that do not exist yet are made.

        Raises:
            BadJob: The place leads through something that is no mapping or list, or past a list's end.
        """
        origins = {key: text for key, text in self.origins.items() if key[: len(place)] != place}
        origins[place] = origin or self.origin(place)
        return replace(self, value=_assigned(self.value, place, value, place, origin), origins=origins)


def read_tree(path: Path) -> Tree:
    """Read a file.

    Raises:
        MissingData: There is no such file, or it cannot be read.
        BadJob: It is not YAML, or holds what a job file may not hold: all such places are named.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)  # a device would never end
    except OSError as error:
        raise MissingData(f"{path}: {error.strerror or error}. Give a job file, such as job.yaml.") from None
    if len(data) > _LARGEST:
        raise BadJob(
            f"{path}: more than {_LARGEST:,} bytes, the most that a job file has. Put prompts into files."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadJob(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    return parse(text, path.name)


def parse(text: str, name: str = "job") -> Tree:
    """Read YAML text; see `read_tree`."""
    try:
        node = _Composer(text).get_single_node()
        reader = _Reader(name)
        value = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadJob(f"{name}:{line}: not YAML: {error.problem or error}.") from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise BadJob(f"{name}: not YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise BadJob(f"{name}: nested too deeply.") from None
    complain(name, reader.wrong if node is not None else [])
    return Tree(value, reader.origins if node is not None else {}, name)


def scalar(text: str) -> Any:
    """Read one value as YAML would: `3`, `true`, `[1, 2]`; text that is no YAML stays text."""
    try:
        return parse(text).value
    except BadJob:
        return text


def complain(name: str, wrong: list[tuple[str, str]]) -> None:
    """Raise one error for all mistakes, each with its place; nothing if there is none."""
    ordered = sorted(dict.fromkeys(wrong), key=lambda one: _line(one[0]))
    listed = [f"{origin}: {message}" for origin, message in ordered]
    if listed:
        head = f"{name}: {len(listed)} mistake{'s' if len(listed) > 1 else ''}, nothing was run"
        more = [f"... and {len(listed) - 100} more"] if len(listed) > 100 else []
        raise BadJob("\n  ".join([head, *listed[:100], *more]))


class _Composer(yaml.SafeLoader):
    """Composes nodes only: nothing is constructed by a tag, and an alias cannot make a small file large."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read; write it out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.origins: dict[Place, str] = {}
        self.wrong: list[tuple[str, str]] = []

    def read(self, node: yaml.Node, place: Place) -> Any:
        here = self._at(node)
        self.origins.setdefault(place, here)
        if isinstance(node, yaml.MappingNode):
            if node.tag != "tag:yaml.org,2002:map":
                self.wrong.append((here, f"the tag {node.tag} is not read; leave it out"))
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                self.wrong.append((here, f"the tag {node.tag} is not read; leave it out"))
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        if node.tag == _AS_TEXT:
            return node.value
        if node.tag not in _PLAIN:
            self.wrong.append((here, f"the tag {node.tag} is not read; leave it out"))
            return node.value
        if half_of_a_pair(node.value):
            self.wrong.append((here, "holds half of a surrogate pair; write whole characters"))
            return ""
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, yaml.YAMLError):
            self.wrong.append((here, f"{node.value[:100]!r} is no {node.tag.rsplit(':', 1)[-1]}"))
            return node.value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = self._at(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                self.wrong.append((where, "a key must be a plain word"))
                continue
            key = key_node.value
            if half_of_a_pair(key):
                self.wrong.append((where, "a key holds half of a surrogate pair; write whole characters"))
                continue
            if key in found:
                self.wrong.append((where, f"{key} stands twice; give it once"))
                continue
            self.origins[(*place, key)] = where
            found[key] = self.read(value_node, (*place, key))
        return found

    def _at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


def half_of_a_pair(text: str) -> bool:
    """Whether text holds what no file can: YAML's `\\ud800`, or bytes that are no UTF-8, make such."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _assigned(tree: Any, place: Place, value: Any, whole: Place, origin: str) -> Any:
    if not place:
        return value
    first, *rest = place
    shown = ".".join(map(str, whole))
    if isinstance(tree, list):
        if not isinstance(first, int) or not 0 <= first < len(tree):
            raise BadJob(f"{origin or shown}: {shown}: there is no entry {first}; there are {len(tree)}.")
        return [
            _assigned(one, tuple(rest), value, whole, origin) if i == first else one
            for i, one in enumerate(tree)
        ]
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise BadJob(f"{origin or shown}: {shown}: {first} stands below {tree!r}, which has no parts.")
    return {**tree, first: _assigned(tree.get(first), tuple(rest), value, whole, origin)}


def _line(origin: str) -> int:
    number = origin.rpartition(":")[2]
    return int(number) if number.isdigit() else 0
