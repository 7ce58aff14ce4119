"""What is done to valid input: to bytes, to text, and to trees of plain values; all of it follows one seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 63, 255, 2**31, -(2**31), 2**63, 2**64 + 1, 10**30, -(10**30), 0.5, -0.0, 1e-320, 1e308,
    1e999, -1e999, float("nan"), True, False, 1.0, 1e5,
)  # fmt: skip
WORDS: tuple[str, ...] = (
    "", " ", "a", "0", "-1", "1e5", "1e999", "nan", "inf", "-inf", "NaN", "null", "true", "~", "None", "0x10",
    "1_000", "\0", "a\0b", "\x1b[31mred\x1b[0m", "\x7f", "\r\n", "\u2028", "\u202e", "\ufeff", "\ufffd",
    "\ud800", "\udcff", "é" * 300, "a" * 70_000, "9" * 5000, "(" * 500, "[" * 5000, "%s{}{0}", "{", "}", "'",
    '"', "\\", "`", "$HOME", "-", "--", "--help", "=", "a=b", "=b", "a=", "..", ".", "/", "//",
    "../../etc/passwd", "/etc/passwd", "/dev/null", "/dev/zero", "/proc/self/mem", "~root", "~nobody/x",
    "x" * 300, "a/" * 3000, "nul", "con", "*", "?", "[", "organism/planted", "organism/",
    "organism/../planted", "L0H0", "L0H999", "L99999999999H1", "l1h2", "1.2", "L1", "H", "L-1H0", "L１H２",
    "L1H0,L1H1", "0,1", "٣", "²", "🦊", "a b", "a,b", ",", ",,", ";", "!!python/object/apply:os.system",
)  # fmt: skip
KEYS: tuple[str, ...] = (
    "", "name", "kind", "format", "__class__", "__proto__", "text", "model", "seed", "\0", "a.b", "0",
)  # fmt: skip
DEEP = 3000

_TOKENS: tuple[bytes, ...] = (
    b"\0", b"\0\0\0\0", b"\xff", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b"\n\n",
    b"\t", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"\x1b[2J",
    b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * DEEP, b"{" * DEEP,
    b'{"a":' * DEEP, b"]", b"}", b'"', b"'", b":", b",", b"- ", b"-", b"? ", b"&a ", b"*a", b"<<: *a",
    b"!!python/object/apply:os.system [ls]", b"!!binary aGk=", b"!!set {a}", b"!x ", b"|", b">", b"---\n",
    b"...\n", b"%YAML 1.1\n", b"%TAG ! !\n", b"#", b"null", b"true", b"0x1F", b"1:30:00", b"2001-01-01",
    b"&a [*a,*a]", b"a: &a [1]\nb: *a\n", b"L99999999999H1", b"..", b"../", b"=", b"${x}",
)  # fmt: skip


def data(rng: Random, seed: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes in one to four places."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        seed = rng.choice(_ON_BYTES)(rng, seed, others)
    return seed[:2_000_000]


def text(rng: Random, seed: str, others: Sequence[str] = ()) -> str:
    """Change text in one to three places: letters, pieces, whole words."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, end = _slice(rng, len(seed))
        what = rng.randrange(7)
        if what == 0:
            seed = seed[:at] + seed[end:]
        elif what == 1:
            seed = seed[:at] + rng.choice(WORDS) + seed[at:]
        elif what == 2:
            seed = (
                seed[:at]
                + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), 0xD800 + rng.randrange(2048))))
                + seed[end:]
            )
        elif what == 3:
            seed = seed[:end] + seed[at:end] * rng.choice((1, 1, 20)) + seed[end:]
        elif what == 4 and others:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            seed = seed[:at] + other[cut:]
        elif what == 5:
            seed = rng.choice(
                (seed.upper(), seed.lower(), seed[::-1], seed.strip(), f" {seed} ", seed.swapcase())
            )
        elif seed:
            seed = seed[: at or 1] + rng.choice("0123456789LHlh.,=:-+ \t()[]'\"") + seed[at or 1 :]
    return seed[:200_000]


def tree(rng: Random, seed: Any, others: Sequence[Any] = ()) -> Any:
    """Change a tree of dicts, lists and scalars in one to four places."""
    seed = copy.deepcopy(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        places = [((), None, None), *_places(seed)]
        _, holder, key = rng.choice(places)
        if holder is None:
            if rng.random() < 0.1:
                return odd(rng)
            continue
        _ON_TREES[rng.randrange(len(_ON_TREES))](rng, holder, key, others)
    return seed


def odd(rng: Random) -> Any:
    """Draw a value that does not belong anywhere."""
    what = rng.randrange(6)
    if what == 0:
        return rng.choice(NUMBERS)
    if what == 1:
        return rng.choice(WORDS)
    if what == 2:
        return rng.choice((None, [], {}, [[]], [None], {"": None}, [{}], [1, "a", None], {"a": {"b": {}}}))
    if what == 3:
        return [odd(rng) for _ in range(rng.randrange(4))]
    if what == 4:
        return {rng.choice((*KEYS, *WORDS[:20])): odd(rng) for _ in range(rng.randrange(3))}
    value: Any = 1
    for _ in range(rng.choice((5, 60, 400))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def dumped(rng: Random, value: Any) -> bytes:
    """Write a tree as JSON as others may write it: ASCII or not, NaN, half characters, keys that stand twice."""
    try:
        made = json.dumps(value, ensure_ascii=rng.random() < 0.5, default=str)
    except (ValueError, RecursionError):
        made = "[" * DEEP
    if rng.random() < 0.05 and made.startswith("{") and len(made) > 2:
        made = made[:-1] + ", " + made[1:]
    return made.encode("utf-8", "surrogatepass")


def encoded(rng: Random, made: bytes) -> bytes:
    """Now and then, the same in another encoding, with a mark at its beginning, or with other line ends."""
    what = rng.randrange(60)
    if what == 0:
        return b"\xef\xbb\xbf" + made
    if what == 1:
        return made.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-16-le", "utf-32")))
    if what == 2:
        return made.replace(b"\n", b"\r\n")
    if what == 3:
        return made.replace(b"\n", b"\r")
    if what == 4:
        return made.decode("utf-8", "replace").encode("latin-1", "replace")
    return made


def _slice(rng: Random, size: int) -> tuple[int, int]:
    at = rng.randrange(size + 1)
    return at, min(size, at + rng.choice((0, 1, 1, 2, 3, 8, 40)))


def _flip(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    if not seed:
        return b"\0"
    at = rng.randrange(len(seed))
    return seed[:at] + bytes([seed[at] ^ 1 << rng.randrange(8)]) + seed[at + 1 :]


def _set(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    at, end = _slice(rng, len(seed))
    return seed[:at] + rng.randbytes(max(1, end - at)) + seed[end:]


def _insert(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(seed) + 1)
    return seed[:at] + rng.choice(_TOKENS) + seed[at:]


def _delete(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    at, end = _slice(rng, len(seed))
    return seed[:at] + seed[end:]


def _double(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    at, end = _slice(rng, len(seed))
    return seed[:end] + seed[at:end] * rng.choice((1, 2, 50)) + seed[end:]


def _splice(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else seed
    return seed[: rng.randrange(len(seed) + 1)] + other[rng.randrange(len(other) + 1) :]


def _truncate(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    return seed[: rng.choice((0, 1, 8, rng.randrange(len(seed) + 1), max(0, len(seed) - 1)))]


def _lines(rng: Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    lines = seed.split(b"\n")
    at = rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif what == 1:
        del lines[at]
    elif what == 2:
        lines[at] = b" " * rng.choice((1, 2, 4)) + lines[at]
    else:
        lines[at] = lines[at].lstrip()
    return b"\n".join(lines)


_ON_BYTES: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _set, _insert, _insert, _delete, _double, _splice, _truncate, _lines, _lines,
)  # fmt: skip


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, item in items:
        found.append(((*at, key), value, key))
        if len(at) < 12:
            found += _places(item, (*at, key))
    return found


def _drop(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    if key in holder or isinstance(holder, list):
        del holder[key]


def _retype(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    old = holder[key]
    choices = [str(old), [old], {"a": old}, None, [], {}, repr(old)]
    if isinstance(old, (int, float)):
        choices += [old + 1, -old, old * 10**9, float(old), bool(old)]
    if isinstance(old, str):
        choices += [text(rng, old), text(rng, old), len(old), old + "x", old[:-1], old.upper()]
    if isinstance(old, list):
        choices += [old[:1], old * 2, old * 50, old[::-1], old[0] if old else 0, [*old, odd(rng)]]
    holder[key] = rng.choice(choices)


def _strange(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    holder[key] = odd(rng)


def _rename(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    if isinstance(holder, dict):
        value = holder.pop(key)
        holder[rng.choice((text(rng, str(key)), rng.choice(KEYS), str(key) + "s"))] = value


def _double_key(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    if isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    else:
        holder[rng.choice(KEYS)] = copy.deepcopy(holder[key])


def _swap(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


def _graft(rng: Random, holder: Any, key: Any, others: Sequence[Any]) -> None:
    if others:
        places = _places(rng.choice(others))
        if places:
            _, their, place = rng.choice(places)
            holder[key] = copy.deepcopy(their[place])


_ON_TREES = (_drop, _retype, _retype, _strange, _strange, _rename, _double_key, _swap, _graft)
