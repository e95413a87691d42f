"""Names beside marks: alone at the preferred side, in a crowd never one over another."""

import itertools

import numpy as np
import pytest

from proxyless_arch.drawing.labels import Box, Name, is_far, place

INSIDE = Box(0, 0, 400, 240)


def mark(x, y, size=5.0):
    return Box(x - size, y - size, x + size, y + size)


def test_a_name_alone_stands_to_the_right_and_at_the_edge_to_the_left():
    (right,) = place([Name(60, 12, mark(100, 100))], [], INSIDE)
    assert right.left > 105 and right.left - 105 < 5 and (right.top + right.bottom) / 2 == pytest.approx(100)
    (left,) = place([Name(60, 12, mark(390, 100))], [], INSIDE)
    assert left.right < 385 and not is_far(left, mark(390, 100))


def test_a_line_joins_what_is_far():
    assert not is_far(Box(107, 95, 150, 105), mark(100, 100))
    assert is_far(Box(125, 95, 150, 105), mark(100, 100)) and is_far(Box(80, 20, 120, 60), mark(100, 100))


def test_a_name_goes_around_what_is_beside_its_mark():
    bar = Box(106, 0, 110, 240)
    (found,) = place([Name(60, 12, mark(100, 100))], [bar], INSIDE)
    assert found.shared(bar) == 0 and found.right < 106


@pytest.mark.parametrize("spread", [0.0, 4.0, 40.0])
@pytest.mark.parametrize("count", [2, 12, 40])
def test_no_two_names_of_a_crowd_overlap(count, spread):
    """Up to forty marks at one place, nearly one place, and around it."""
    rng = np.random.default_rng(count)
    marks = [mark(*rng.normal((200, 120), spread).clip(5, 235)) for _ in range(count)]
    names = [Name(float(width), 12, each) for each, width in zip(marks, rng.uniform(30, 130, count), strict=True)]
    found = [box for box in place(names, [], INSIDE) if box is not None]
    assert all(one.shared(other) == 0 for one, other in itertools.combinations(found, 2))
    assert all(INSIDE.holds(box) for box in found)
    assert len(found) >= min(count, 12)  # what is left out is left out for want of room


def test_a_name_without_room_is_left_out():
    assert place([Name(500, 12, mark(100, 100))], [], INSIDE) == [None]
    names = [Name(380, 12, mark(200, 120))] * 40
    placed = [box for box in place(names, [], INSIDE) if box is not None]
    assert 0 < len(placed) < 40
