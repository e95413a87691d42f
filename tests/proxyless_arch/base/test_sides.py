"""Sides of images: squares are numbers, all else (height, width), and each is written in one way."""

import pytest

from proxyless_arch.base import sides
from proxyless_arch.base.errors import InputError


@pytest.mark.parametrize(("word", "value"), [("224", 224), ("160x256", (160, 256)), ("9X4", (9, 4)), ("96x96", 96)])
def test_a_flag_gives_a_value_and_a_value_its_flag(word, value):
    assert sides.from_word(word) == value
    assert sides.from_word(sides.in_flag(value)) == value


@pytest.mark.parametrize("word", ["", "x", "12x", "1x2x3", "2.5", "1_0x3", "160,256"])
def test_other_words_are_none(word):
    with pytest.raises(ValueError):
        sides.from_word(word)


def test_scaling_never_makes_a_side_smaller():
    assert sides.scaled(10, lambda side: side * 8 // 7) == 11
    assert sides.scaled((10, 70), lambda side: side * 8 // 7) == (11, 80)
    assert sides.scaled((10, 70), lambda side: side // 2) == (10, 70)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ((7, 7), "size"),
        ((7,), "size"),
        ((7, 8.0), "size"),
        ((3, 9), r"size\[0\]"),
        ((9, 99), r"size\[1\]"),
        (3, "size"),
    ],
)
def test_sides_are_within_their_bounds(value, place):
    sides.check_sides("size", (5, 90), (4, 8), 98)
    with pytest.raises(InputError, match=rf"^{place}: expected"):
        sides.check_sides("size", value, (4, 8), 98)
