"""What makes a prompt valid: the rules for one record, and the reading of many JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

from ..errors import nearest

FIELDS = ("text", "answer", "foil", "corrupted", "spans", "label", "image", "boxes", "variants")

Problem = tuple[str, str]  # the field, and what is wrong with it and was expected


def problems(record: Mapping[str, Any]) -> list[Problem]:
    """List everything that is wrong with the fields of one prompt; an empty list means that it is valid.

    >>> problems({"text": "abc", "spans": {"needle": [[1, 9]]}})
    [('spans.needle[0]', 'ends at 9, expected at most 3, the length of the text')]
    """
    found: list[Problem] = []
    for name in record:
        if name not in FIELDS:
            found.append(
                (str(name), f"unknown field, expected one of the fields of a prompt.{nearest(name, FIELDS)}")
            )
    if "text" not in record:
        found.append(("text", "is missing, expected a string"))
    for name in ("text", "answer", "foil", "corrupted", "label", "image"):
        if name in record:
            found += _string(name, record[name], empty=name != "text")
    variants = record.get("variants", {})
    if isinstance(variants, Mapping):
        for name, value in variants.items():
            found += _half("variants", name)
            found += _string(f"variants.{name}", value, empty=False)
    else:
        found.append(("variants", f"is {_shown(variants)}, expected an object of name: text"))
    found += _boxes(record.get("boxes", {}))
    return found + _spans(record.get("spans", {}), record.get("text"))


def _string(name: str, value: Any, *, empty: bool) -> list[Problem]:
    if not isinstance(value, str):
        return [(name, f"is {_shown(value)}, expected a string")]
    if not value and not empty:
        return [(name, "is empty, expected at least one character")]
    return _half(name, value)


def _half(where: str, text: Any) -> list[Problem]:
    """Name half of a surrogate pair, which no file can hold."""
    half = next((i for i, c in enumerate(str(text)) if "\ud800" <= c <= "\udfff"), None)
    if half is None:
        return []
    return [(where, f"has half of a surrogate pair at character {half}, expected whole Unicode characters")]


def _spans(spans: Any, text: Any) -> list[Problem]:
    if not isinstance(spans, Mapping):
        return [("spans", f"is {_shown(spans)}, expected an object of name: [[start, end], ...]")]
    found: list[Problem] = []
    for name, pairs in spans.items():
        where = f"spans.{name}"
        found += _half("spans", name)
        if not isinstance(name, str) or not name:
            found.append((where, f"has the name {_shown(name)}, expected at least one character"))
        elif not _is_list(pairs):
            found.append((where, f"is {_shown(pairs)}, expected a list of [start, end]"))
        else:
            for index, pair in enumerate(pairs):
                wrong = _span(pair, len(text) if isinstance(text, str) else None)
                if wrong:
                    found.append((f"{where}[{index}]", wrong))
    return found


def _boxes(boxes: Any) -> list[Problem]:
    if not isinstance(boxes, Mapping):
        return [
            ("boxes", f"is {_shown(boxes)}, expected an object of name: [[left, top, right, bottom], ...]")
        ]
    found: list[Problem] = []
    for name, listed in boxes.items():
        where = f"boxes.{name}"
        found += _half("boxes", name)
        if not isinstance(name, str) or not name:
            found.append((where, f"has the name {_shown(name)}, expected at least one character"))
        elif not _is_list(listed):
            found.append((where, f"is {_shown(listed)}, expected a list of [left, top, right, bottom]"))
        else:
            found += [
                (f"{where}[{index}]", wrong) for index, box in enumerate(listed) if (wrong := _box(box))
            ]
    return found


def _box(box: Any) -> str | None:
    if not (_is_list(box) and len(box) == 4 and all(_is_whole(x) for x in box)):
        return f"is {_shown(box)}, expected [left, top, right, bottom], four whole numbers"
    left, top, right, bottom = box
    if min(left, top) < 0 or left >= right or top >= bottom:
        return f"is {list(box)}, expected 0 <= left < right and 0 <= top < bottom, in pixels"
    return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _span(pair: Any, length: int | None) -> str | None:
    if not (_is_list(pair) and len(pair) == 2 and all(_is_whole(x) for x in pair)):
        return f"is {_shown(pair)}, expected [start, end], two whole numbers"
    start, end = pair
    if start < 0:
        return f"starts at {start}, expected 0 or more"
    if start >= end:
        return f"is [{start}, {end}], expected start < end"
    if length is not None and end > length:
        return f"ends at {end}, expected at most {length}, the length of the text"
    return None


def read_lines(data: bytes) -> tuple[list[dict[str, Any]], list[tuple[int, str, str]]]:
    """Parse JSON lines into records, and list every ``(line, "field: ", problem)``.

    Lines end at LF or CRLF only: JSON strings may hold other line separators, such as U+2028.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], [(1, "", "is UTF-16, expected UTF-8; save the file as UTF-8")]
    records: list[dict[str, Any]] = []
    wrong: list[tuple[int, str, str]] = []
    for number, line in enumerate(_physical_lines(data), start=1):
        if not line.strip():
            continue
        try:
            record = _parse(line)
        except ValueError as error:
            wrong.append((number, "", str(error)))
            continue
        found = problems(record)
        wrong += [(number, f"{name}: ", what) for name, what in found]
        if not found:
            records.append(record)
    return records, wrong


def _physical_lines(data: bytes) -> Iterator[bytes]:
    return iter(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise ValueError(f"byte {error.start + 1} (0x{byte:02x}) is not UTF-8, expected UTF-8 text") from None
    try:
        record = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}, expected one JSON object") from None
    except RecursionError:
        raise ValueError("nested too deeply, expected one JSON object of a prompt's fields") from None
    if not isinstance(record, dict):
        raise ValueError(f"is {_shown(record)}, expected one JSON object")
    return record


def _no_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice}: stands twice in one object, expected once")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not JSON; expected a string or a whole number")


def _whole(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError(
            f"holds a number of {len(digits)} digits, expected a string or an offset into the text"
        )
    return int(digits)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _shown(value: Any, limit: int = 40) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= limit else text[:limit] + '...'}"
