"""Prompts as data: one frozen example, a named sequence of them, and their JSON-lines form.

Only the standard library is used, so that reading a file of prompts costs no import of torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, overload

from ..errors import BadPrompts, BadSpan, CannotWrite, EmptyPromptSet, MissingData, nearest
from .plain import plain
from .validate import FIELDS, problems, read_lines

Spans = Mapping[str, tuple[tuple[int, int], ...]]
Boxes = Mapping[str, tuple[tuple[int, int, int, int], ...]]

MAX_REPORTED = 200


@dataclass(frozen=True, kw_only=False)
class Prompt:
    """One example.

    Attributes:
        text: What the model reads.
        answer: The right continuation, literally: the full string is ``text + answer``, so it carries its own
            leading space where it needs one.
        foil: A wrong continuation of the same kind, for a logit difference.
        corrupted: The matched counterfactual text, in which ``answer`` is no longer right.
        spans: Name to character spans ``(start, end)`` of ``text``; ``end`` is exclusive.
        label: A class or condition, such as ``harmful``.
        image: Path of an image, a scene such as ``scene:17:red-circle@0``, or ""; of several images, one a line.
        boxes: Name to boxes ``(left, top, right, bottom)`` in pixels of the image; right and bottom are exclusive.
        variants: Name to another form of ``text``.

    Raises:
        BadSpan: A span is not inside the text.
        BadPrompts: Any other field is of the wrong type or empty where it must not be.

    >>> prompt = Prompt("The key is red.", answer=" red", spans={"needle": [(11, 14)]})
    >>> prompt.marked("needle")
    ('red',)
    """

    text: str
    answer: str = ""
    foil: str = ""
    corrupted: str = ""
    spans: Spans = field(default_factory=dict, hash=False)
    label: str = ""
    image: str = ""
    boxes: Boxes = field(default_factory=dict, hash=False)
    variants: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        found = problems({f.name: getattr(self, f.name) for f in fields(self)})
        if found:
            error = BadSpan if all(name.startswith("spans") for name, _ in found) else BadPrompts
            raise error("; ".join(f"{name}: {what}" for name, what in found))
        spans = {
            name: tuple((int(start), int(end)) for start, end in pairs) for name, pairs in self.spans.items()
        }
        boxes = {name: tuple(tuple(map(int, box)) for box in listed) for name, listed in self.boxes.items()}
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "variants", dict(self.variants))

    @property
    def images(self) -> tuple[str, ...]:
        """The images that ``image`` names, in order.

        >>> Prompt("a", image="one.png\\ntwo.png").images
        ('one.png', 'two.png')
        """
        lines = tuple(line.strip() for line in self.image.splitlines() if line.strip())
        return lines or ((self.image,) if self.image else ())

    def marked(self, span: str) -> tuple[str, ...]:
        """Return the pieces of text under a span name; none where the prompt lacks it."""
        return tuple(self.text[start:end] for start, end in self.spans.get(span, ()))

    def to_record(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, in declared order, as JSON types."""
        record: dict[str, Any] = {"text": self.text}
        for name in FIELDS[1:]:
            value = getattr(self, name)
            if value:
                record[name] = value
        if self.spans:
            record["spans"] = {name: [list(pair) for pair in pairs] for name, pairs in self.spans.items()}
        if self.boxes:
            record["boxes"] = {name: [list(box) for box in listed] for name, listed in self.boxes.items()}
        return record


@dataclass(frozen=True)
class PromptSet(Sequence[Prompt]):
    """An immutable, named sequence of prompts.

    >>> two = PromptSet("pair", (Prompt("a"), Prompt("b")))
    >>> len(two), two[0].text, two[1:].prompts[0].text
    (2, 'a', 'b')
    """

    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str | Prompt):
            kind = type(self.prompts).__name__
            raise BadPrompts(f"{self.name}: expected a sequence of Prompt, got one {kind}; put it in a list")
        prompts = tuple(self.prompts)
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, Prompt):
                kind = type(prompt).__name__
                raise BadPrompts(
                    f"{self.name}[{index}]: expected a Prompt, got {kind}; use Prompt(text, ...)"
                )
        object.__setattr__(self, "prompts", prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...
    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        if isinstance(index, slice):
            return PromptSet(self.name, self.prompts[index])
        return self.prompts[index]

    def __repr__(self) -> str:
        return f"PromptSet({self.name!r}, {len(self)} prompts, digest={self.digest!r})"

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the prompts' content, in order. The name does not count."""
        return hashlib.sha256(_lines(self, sort_keys=True).encode()).hexdigest()[:16]

    def filter(self, keep: Callable[[Prompt], bool]) -> PromptSet:
        """Return the prompts for which ``keep`` is true, under the same name."""
        return PromptSet(self.name, tuple(prompt for prompt in self.prompts if keep(prompt)))

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], *, name: str | None = None) -> PromptSet:
        """Read one prompt from each line of a UTF-8 file; blank lines are passed over.

        A byte-order mark and Windows line ends are accepted.

        Args:
            path: The file.
            name: Name of the set; the file's stem by default.

        Raises:
            MissingData: There is no such file, or it cannot be read.
            BadPrompts: At least one line is wrong. Every wrong line is listed as ``file:line: field: problem``.
            EmptyPromptSet: The file holds no prompt.
        """
        path = Path(path)
        records, wrong = read_lines(_read(path))
        if wrong:
            shown = [f"{path.name}:{line}: {where}{what}" for line, where, what in wrong[:MAX_REPORTED]]
            if len(wrong) > MAX_REPORTED:
                shown.append(f"... and {len(wrong) - MAX_REPORTED:,} more problems")
            lines = len({line for line, _, _ in wrong})
            head = f"{path}: {lines:,} bad line{'s' if lines > 1 else ''}, nothing was read"
            raise BadPrompts("\n  ".join([head, *shown]))
        if not records:
            raise EmptyPromptSet(
                f'{path} holds no prompt; write one JSON object a line, such as {{"text": "..."}}'
            )
        return cls(path.stem if name is None else name, tuple(Prompt(**record) for record in records))

    def to_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Write one JSON object a line; the file appears whole or not at all.

        Raises:
            CannotWrite: The folder is missing, read-only or full.
        """
        path = Path(path)
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                "wb", dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                temporary = Path(file.name)
                file.write(_lines(self).encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            raise CannotWrite(f"{path}: {error.strerror or error}; nothing was written") from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        return path


def _lines(prompts: PromptSet, *, sort_keys: bool = False) -> str:
    dump = (json.dumps(prompt.to_record(), ensure_ascii=False, sort_keys=sort_keys) for prompt in prompts)
    return "".join(f"{line}\n" for line in dump)


def _read(path: Path) -> bytes:
    try:
        return plain(path).read_bytes()
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        hint = nearest(path.name, near) if near else f" There is no .jsonl file in {path.parent}."
        raise MissingData(f"{path}: no such file.{hint}") from None
    except IsADirectoryError:
        raise MissingData(f"{path} is a folder; name one .jsonl file in it") from None
    except OSError as error:
        raise MissingData(f"{path}: {error.strerror or error}") from error
