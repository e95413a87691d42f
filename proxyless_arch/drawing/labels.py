"""Names beside their marks in a drawing: each as near as there is room, and never one over another.

Boxes are in pixels, y downwards. Which of many names find a place depends on their order; one that finds none is left
out, since two names over each other cannot be read at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

GAP = 3.0  # between a name and its mark
DISTANCES = (0.0, 6.0, 13.0, 21.0, 30.0, 42.0)  # of a name from its mark, beside the gap
ANGLES = (0, 180, 90, 270, 45, 135, 225, 315, 22, 158, 202, 338)  # degrees, the preferred ones first
STEP = 8.0  # between places that are not around the mark
FAR = 8.0  # from here on a line joins name and mark


@dataclass(frozen=True)
class Box:
    """A rectangle from its upper left to its lower right corner."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """The area in both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the box that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


@dataclass(frozen=True)
class Name:
    """A name of a size, and the box of the mark that it stands beside."""

    width: float
    height: float
    mark: Box


def place(names: Sequence[Name], obstacles: Sequence[Box], inside: Box) -> list[Box | None]:
    """A box for each name within ``inside``, or None where no room is left; no two boxes share a pixel.

    ``obstacles``: what a name had better not cover (marks, bars); it does when it cannot be helped.
    """
    taken: list[Box] = []
    found: list[Box | None] = []
    for name in names:
        box = _best(name, [*obstacles, *(each.mark for each in names)], taken, inside)
        found.append(box)
        taken += [box] if box is not None else []
    return found


def is_far(box: Box, mark: Box) -> bool:
    """Whether a name is so far from its mark that a line should join them."""
    across = max(box.left - mark.right, mark.left - box.right, 0.0)
    down = max(box.top - mark.bottom, mark.top - box.bottom, 0.0)
    return math.hypot(across, down) > FAR


def _best(name: Name, obstacles: Sequence[Box], taken: Sequence[Box], inside: Box) -> Box | None:
    """The first place that covers nothing, else the one that covers least of the obstacles."""
    best: tuple[float, Box] | None = None
    for box in chain(_around(name), _elsewhere(name, inside)):
        if not inside.holds(box) or any(box.shared(other) for other in taken):
            continue
        covered = sum(box.shared(other) for other in obstacles)
        if covered == 0:
            return box
        if best is None or covered < best[0]:
            best = (covered, box)
    return best[1] if best is not None else None


def _elsewhere(name: Name, inside: Box) -> Iterator[Box]:
    """Boxes all over the drawing, from the nearest to the mark on."""
    mark = (name.mark.left + name.mark.right) / 2, (name.mark.top + name.mark.bottom) / 2
    found = [
        Box(left, top, left + name.width, top + name.height)
        for left in map(float, np.arange(inside.left, inside.right - name.width, STEP))
        for top in map(float, np.arange(inside.top, inside.bottom - name.height, name.height / 2))
    ]
    yield from sorted(found, key=lambda box: math.dist(box.nearest(*mark), mark))


def _around(name: Name) -> Iterator[Box]:
    """Boxes around the mark, from the nearest on."""
    mark = name.mark
    for distance in DISTANCES:
        for angle in ANGLES:
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            x = (mark.left + mark.right) / 2 + across * ((mark.right - mark.left) / 2 + GAP + distance)
            y = (mark.top + mark.bottom) / 2 - up * ((mark.bottom - mark.top) / 2 + GAP + distance)
            left = x - name.width * (1 - across) / 2
            top = y - name.height * (1 + up) / 2
            yield Box(left, top, left + name.width, top + name.height)
