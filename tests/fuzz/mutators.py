"""Changes of plain files: bytes, JSON, lines and separated values. Each is a function of the file and a generator."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

Random = random.Random
Mutate = Callable[[bytes, Random], bytes]

NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    3,
    255,
    65_536,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e308,
    -1e308,
    1e-300,
    1.5,
    float("nan"),
    float("inf"),
    float("-inf"),
)
TEXTS = (
    "",
    " ",
    "x" * 70_000,
    "\x1b[2J",
    "\n",
    "a\nb",
    "../../x",
    "/etc/hosts",
    "\x00",
    "\ud800",
    "1",
    "nan",
    "ms",
    "\u202e",
    "é",
    "%s%n",
    "<script>",
    "0" * 5000,
    "-1",
    "null",
    "[0]",
)
_NEST: Any = []
for _ in range(60):
    _NEST = [_NEST]
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [0], {"a": 1}, [None], {"": {}}, _NEST, ["x"] * 3)


def odd_value(rng: Random) -> Any:
    """What does not belong there."""
    return copy.deepcopy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


# ---------------------------------------------------------------------------------------------------------- bytes


def change_bytes(data: bytes, rng: Random) -> bytes:
    """One to eight of: bits flipped, bytes set, cut out, put in, repeated, swapped; extreme numbers; the end cut."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        content = _change_bytes_once(content, rng)
    return bytes(content)


def _change_bytes_once(content: bytearray, rng: Random) -> bytearray:
    if not content:
        return bytearray(rng.randbytes(rng.randrange(64)))
    place, length = rng.randrange(len(content)), rng.choice((1, 1, 2, 4, 8, 16, 64, 500))
    if rng.random() < 0.4:  # headers are at the ends
        place = rng.choice(
            (rng.randrange(min(len(content), 128)), len(content) - 1 - rng.randrange(min(len(content), 128)))
        )
    match rng.randrange(8):
        case 0:
            content[place] ^= 1 << rng.randrange(8)
        case 1:
            content[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 2:
            del content[place : place + length]
        case 3:
            content[place:place] = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
        case 4:
            content[place:place] = content[place : place + length]
        case 5:
            other = rng.randrange(len(content))
            content[place : place + length] = content[other : other + length]
        case 6:
            number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            width = rng.choice((2, 4, 8))
            written = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
            content[place : place + width] = written
        case _:
            del content[place:]
    return content


# ----------------------------------------------------------------------------------------------------------- JSON


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to everything in a tree of JSON."""
    found = [at]
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        found += places(member, (*at, key))
    return found


def change_tree(tree: Any, rng: Random, odd: Callable[[Random], Any] = odd_value) -> Any:
    """A copy of a tree of JSON with one to three members changed, removed, renamed, doubled, added or exchanged."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _change_tree_once(tree, rng, odd)
    return tree


def _change_tree_once(tree: Any, rng: Random, odd: Callable[[Random], Any]) -> Any:
    every = places(tree)
    # the deep ones are many and alike: half of the changes go to the top
    near = [place for place in every if len(place) <= 2] if rng.random() < 0.5 else every
    place = rng.choice(near)
    if not place:
        return odd(rng) if rng.random() < 0.2 or not isinstance(tree, dict | list) else tree
    home, key = _at(tree, place[:-1]), place[-1]
    match rng.randrange(7):
        case 0 | 1 | 2:
            home[key] = _next_to(home[key], rng) if rng.random() < 0.3 else odd(rng)
        case 3:
            del home[key]
        case 4 if isinstance(home, dict):
            home[rng.choice((*TEXTS, f"{key}x"))] = home.pop(key)
        case 5 if isinstance(home, list):
            home[key:key] = [copy.deepcopy(home[key])] * rng.choice((1, 1, 2, 50))
        case 5:
            home[rng.choice(("format", "networks", "family", "unknown", *TEXTS))] = odd(rng)
        case _:
            home[key] = copy.deepcopy(_at(tree, rng.choice(every)))
    return tree


def _next_to(value: Any, rng: Random) -> Any:
    """A value like this one, which another check must find."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float) and 0 < abs(value) < 1e15:
        return rng.choice((-value, value + 1, value * 1000, value / 1000, int(value), str(value)))
    if isinstance(value, str):
        return rng.choice((value[:-1], value + " ", value.upper(), value[::-1], [value]))
    if isinstance(value, list | tuple):
        return value[::-1]
    return list(value) if isinstance(value, dict) else 0


def _at(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def dumped(tree: Any, escapes: bool = False) -> bytes:
    """As JSON, what is none included: NaN, lone surrogates (as escapes they are JSON)."""
    return json.dumps(tree, ensure_ascii=escapes).encode("utf-8", "surrogatepass")


def change_json(data: bytes, rng: Random) -> bytes:
    """Mostly the tree; its text, which may then be none, else."""
    if rng.random() < 0.1:
        return change_bytes(data, rng)
    if rng.random() < 0.05:
        return rng.choice((b"", b"null", b"[" * 100_000, b'{"a":1,"a":2}', b"\xff\xfe{}", b"{}", b"[]", b"0", b'"x"'))
    return dumped(change_tree(json.loads(data), rng), escapes=rng.random() < 0.5)


# ---------------------------------------------------------------------------------------------------------- lines


def change_lines(data: bytes, rng: Random) -> bytes:
    """Lines of JSON: one or more changed, removed, doubled, exchanged; the last cut."""
    lines = data.splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not lines:
            break
        place = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, rng.choice(lines))
            case 2:
                other = rng.randrange(len(lines))
                lines[place], lines[other] = lines[other], lines[place]
            case _:
                try:
                    lines[place] = change_json(lines[place], rng)
                except (ValueError, RecursionError):
                    lines[place] = change_bytes(lines[place], rng)
    end = rng.choice((b"\n", b"\n", b"\n", b"", b"\r\n"))
    content = b"\n".join(lines) + end
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.05 else content


# ----------------------------------------------------------------------------------------------- separated values

_FIELD = re.compile(rb"[^,:=;\s\[\](){}]+")
FIELDS = (
    b"",
    b"nan",
    b"inf",
    b"-inf",
    b"-1",
    b"0",
    b"1e999",
    b"1e-999",
    b"9" * 400,
    b"9" * 5000,
    b"x" * 140_000,
    b"\xff\xfe",
    b"\x00",
    b'"',
    b"'",
    b"1_000",
    "\u0663".encode(),
    "\u00b2".encode(),
    b"0x10",
    b"1e5",
    b"%",
    b"null",
    b"\x1b[2J",
    b"&a",
    b"*a",
    b"!!python/object:os.system",
    b"<<",
    b"[",
    b"{",
    b"- ",
    b"---",
    b"\t",
)


def change_text(data: bytes, rng: Random) -> bytes:
    """A field between separators exchanged for another or an odd one, lines moved, bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        found = list(_FIELD.finditer(data))
        kind = rng.randrange(8)
        if not found or kind == 0:
            data = change_bytes(data, rng)
        elif kind == 1:
            lines = data.splitlines(keepends=True)
            lines.insert(rng.randrange(len(lines) + 1), lines.pop(rng.randrange(len(lines))))
            data = b"".join(lines)
        elif kind == 2:
            lines = data.splitlines(keepends=True)
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            data = b"".join(lines)
        else:
            place = rng.choice(found)
            other = rng.choice(FIELDS) if rng.random() < 0.7 else rng.choice(found)[0]
            data = data[: place.start()] + other + data[place.end() :]
    return data


def mostly(change: Mutate, other: Mutate = change_bytes, share: float = 0.2) -> Mutate:
    """``change``, and ``other`` in a ``share`` of the cases."""
    return lambda data, rng: (other if rng.random() < share else change)(data, rng)
