"""How a dataclass judges its fields: whatever breaks a rule raises InputError naming the field."""

from __future__ import annotations

import sys

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, shown
from proxyless_arch.base.text import in_one_line


def check(condition: bool, place: str, expected: str, received: object) -> None:
    if not condition:
        raise InputError(f"expected {expected}, got {shown(received)}", place)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A finite float, or an int that fits in one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_one_of(place: str, value: object, allowed: tuple) -> None:
    same_type = isinstance(value, type(allowed[0])) and not isinstance(value, bool)
    check(same_type and value in allowed, place, listed(map(shown, allowed)), value)


def check_text(place: str, value: object) -> None:
    """A string that can be written to a file (no lone surrogates)."""
    check(isinstance(value, str), place, "a string", value)
    check(_is_utf8(str(value)), place, "text that UTF-8 can hold", value)


def check_line(place: str, value: object) -> None:
    """A string that a terminal shows as it is, in one line."""
    check_text(place, value)
    check(in_one_line(str(value)) == value, place, "one line of text", value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_number(place: str, value: object, low: float, high: float) -> None:
    good = isinstance(value, int | float) and is_number(value) and low <= value <= high
    check(good, place, f"a number in {low}..{high}", value)
