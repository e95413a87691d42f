"""The sides of an image in pixels: of a square one number, else (height, width). Equal sizes are equal values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from proxyless_arch.base.checks import check, is_int

Sides: TypeAlias = int | tuple[int, int]


def height_width(sides: Sides) -> tuple[int, int]:
    """(height, width) in pixels."""
    return sides if isinstance(sides, tuple) else (sides, sides)


def scaled(sides: Sides, scale: Callable[[int], int]) -> Sides:
    """What ``scale`` makes of each side, but no less than it is."""
    if not isinstance(sides, tuple):
        return max(sides, scale(sides))
    height, width = (max(side, scale(side)) for side in sides)
    return as_sides(height, width)


def as_sides(height: int, width: int) -> Sides:
    """The value of a size."""
    return height if height == width else (height, width)


def in_words(sides: Sides) -> str:
    """``224`` or, height first, ``160 x 256``."""
    return " x ".join(map(str, sides)) if isinstance(sides, tuple) else str(sides)


def in_flag(sides: Sides) -> str:
    """As a flag takes it: ``224``, or ``160x256``."""
    return in_words(sides).replace(" ", "")


def from_word(word: str) -> Sides:
    """The sides that a flag names. Raises ValueError for another word."""
    numbers = [int(part) for part in word.lower().replace("\N{MULTIPLICATION SIGN}", "x").split("x")]
    if "_" in word or len(numbers) > 2:
        raise ValueError(word)
    return as_sides(numbers[0], numbers[-1])


def to_json(sides: Sides) -> int | list[int]:
    """A number, or [height, width]."""
    return list(sides) if isinstance(sides, tuple) else sides


def check_sides(place: str, sides: Any, least: tuple[int, int], most: int, of: str = "") -> None:
    """Whether they are sides within ``least`` (height, width; ``of`` says of what) and ``most``.

    Raises:
        InputError: at ``place``.
    """
    if not isinstance(sides, tuple):
        low = max(least)
        good = is_int(sides) and low <= sides <= most
        check(good, place, f"an integer in {low}{of if low > 1 else ''}..{most}, or (height, width)", sides)
        return
    good = len(sides) == 2 and all(map(is_int, sides)) and sides[0] != sides[1]
    check(good, place, "(height, width), two different integers; a square is one", sides)
    for index, (side, low) in enumerate(zip(sides, least, strict=True)):
        check(low <= side <= most, f"{place}[{index}]", f"an integer in {low}{of if low > 1 else ''}..{most}", side)
