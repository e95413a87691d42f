"""A strict reader over parsed JSON or YAML: every value is taken with its type, every key is accounted for.

A Node is a value with its path, so that an error can say ``blocks[3].kernel_size: expected an integer, got '3'``.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from proxyless_arch.base.errors import InputError

CLOSE = 0.7  # of difflib's ratio; below it a hint misleads: "phone" is not "none"


def shown(value: Any) -> str:
    """A short rendering of a received value for an error message."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(values: Iterable[Any], last: str = "or") -> str:
    """``3, 5 or 7`` for an error message."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def counted(count: int, one: str, several: str | None = None) -> str:
    """``1 step``, ``2 steps``; ``several`` where an s does not make the plural."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` when an allowed name is close, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=CLOSE)
    return f"; did you mean {close[0]!r}?" if close else ""


def plain_number(value: float) -> float | int:
    """As JSON writes it: 0.0 as 0."""
    return int(value) if float(value).is_integer() else value


@contextlib.contextmanager
def judged_at(prefix: str, renamed: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Errors of a dataclass built here name a field: say which JSON path that is.

    ``renamed``: JSON keys by the fields' places, where they differ.
    """
    try:
        yield
    except InputError as error:
        raise InputError(error.problem, renamed.get(error.place, error.place), error.source).under(prefix) from None


@dataclass(frozen=True)
class Node:
    """A JSON value and the path that leads to it."""

    value: Any
    path: str = ""

    def fail(self, expected: str) -> InputError:
        return InputError(f"expected {expected}, got {shown(self.value)}", self.path)

    def _child(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fields(self, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Node]:
        """The object's members as Nodes; unknown and missing keys are errors. Absent optional keys are left out."""
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        allowed = [*required, *optional]
        known = ", ".join(allowed)
        for key in self.value:
            if key not in allowed:
                hint = nearest(str(key), allowed)
                raise InputError(f"unknown key{hint or f'; allowed here: {known}'}", self._child(str(key)))
        for key in required:
            if key not in self.value:
                raise InputError(f"missing; keys here: {', '.join(map(str, self.value)) or 'none'}", self._child(key))
        return {key: Node(value, self._child(key)) for key, value in self.value.items()}

    def items(self) -> Iterator[tuple[str, Node]]:
        """Members of an object whose keys are data."""
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        for key, value in self.value.items():
            yield str(key), Node(value, self._child(str(key)))

    def elements(self, minimum: int = 0, maximum: int = 100_000) -> list[Node]:
        if not isinstance(self.value, list) or not minimum <= len(self.value) <= maximum:
            size = f" of {minimum}" if minimum == maximum else f" of at least {minimum}" if minimum else ""
            got = f"{len(self.value)} of them" if isinstance(self.value, list) else shown(self.value)
            raise InputError(
                f"expected a list{size} elements, got {got}" if size else f"expected a list, got {got}", self.path
            )
        return [Node(value, f"{self.path}[{index}]") for index, value in enumerate(self.value)]

    def integer(self, minimum: int = 1, maximum: int = 1_000_000) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not minimum <= self.value <= maximum:
            raise self.fail(f"an integer in {minimum}..{maximum}")
        return self.value

    def number(self, minimum: float = -math.inf, maximum: float = math.inf) -> float:
        good = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        try:
            value = float(self.value) if good else math.nan
        except OverflowError:
            value = math.nan
        if not math.isfinite(value) or not minimum <= value <= maximum:
            bounds = "" if (minimum, maximum) == (-math.inf, math.inf) else f" in {minimum}..{maximum}"
            raise self.fail(f"a number{bounds}")
        return value

    def text(self, allowed: Sequence[str] | None = None) -> str:
        if not isinstance(self.value, str) or (allowed is not None and self.value not in allowed):
            raise self.fail(listed(map(repr, allowed)) if allowed else "a string")
        if "\0" in self.value:
            raise self.fail("a string without NUL")
        try:  # names of files that are no UTF-8 have halves of their own, which are bytes
            self.value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise self.fail("a string without halves of characters") from None
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.fail("true or false")
        return self.value

    def as_tuple(self) -> Any:
        """The value, a list as a tuple: as a dataclass takes it."""
        return tuple(self.value) if isinstance(self.value, list) else self.value

    def exactly(self, *allowed: Any) -> Any:
        """One of a few fixed values, type and all (``False`` is not ``0``)."""
        for value in allowed:
            if type(value) is type(self.value) and value == self.value:
                return self.value
        raise self.fail(listed(shown(value) for value in allowed))
