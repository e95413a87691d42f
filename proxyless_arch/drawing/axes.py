"""The axes of a chart: where its numbers lie in pixels, and the ticks beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from proxyless_arch.drawing.scene import Rect, Shape, Text, line, text_width

STRIP = 0.15  # the most that a phase aside takes of a chart's width
TICK, PHASE = 11.5, 10.5  # sizes of type
A_TICK = 36.0  # room for one of an upright axis
UPRIGHT = 17.0  # room for its label
UNBOUNDED = (-math.inf, math.inf)
PERCENT = (0.0, 100.0)


@dataclass(frozen=True)
class Frame:
    """A chart's size in pixels, and the room for what stands below and to the left of its axes."""

    width: float = 372.0
    height: float = 236.0
    foot: float = 38.0
    left: float = 50.0

    top = 20.0

    @property
    def right(self) -> float:
        return self.width - 12

    @property
    def bottom(self) -> float:
        return self.height - self.foot


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What stands along an axis.

    ``bounds``: beyond these no number can lie. ``ends``: where it begins and ends, whatever lies along it. ``span``:
    it holds at least this share of its largest number, lest trifles look far apart. ``names``: what stands at 0, 1, 2
    and on in place of numbers, each in as many lines as it has.
    """

    label: str
    bounds: tuple[float, float] = UNBOUNDED
    ends: tuple[float, float] | None = None
    span: float = 0.0
    log: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Epochs ``first`` to ``last`` (from 1). ``aside``: not what a chart is about: shaded, no wider than a strip."""

    name: str
    first: int
    last: int
    aside: bool = False

    @property
    def length(self) -> int:
        return self.last - self.first + 1


class ToPixels(Protocol):
    """Where a number lies."""

    def __call__(self, value: float) -> float: ...


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each decade; fewer where there are many decades, more where there is about one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors: Sequence[float] = (1, 2, 5) if high > 15 * low else (1, 1.5, 2, 3, 4, 6, 8)
    factors, step = ((1,), -(-len(decades) // 7)) if len(decades) > 3 else (factors, 1)
    return [
        factor * 10.0**power for power in decades[::step] for factor in factors if low <= factor * 10.0**power <= high
    ]


def label_of(value: float) -> str:
    """A tick's text, every digit of the round number that it is: ``0.25``, ``1.885``, ``1,200``."""
    return f"{float(f'{value:.9g}'):,}".removesuffix(".0")


# --------------------------------------------------------------------------------------------------------- scales


@dataclass(frozen=True)
class Scale:
    """Numbers to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Numbers beyond the ends lie on them: those of a guide that goes on and on."""
        at = min(max(value, self.low), self.high)
        low, high, at = map(math.log, (self.low, self.high, at)) if self.log else (self.low, self.high, at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def scale(values: Sequence[float], start: float, end: float, axis: Axis, *, floor: float | None = None) -> Scale:
    """One that holds the values with some room around them; ``floor``: where it begins, whatever they are."""
    low, high = min(values), max(values)
    if axis.names:
        return Scale(-0.5, len(axis.names) - 0.5, start, end)
    if axis.log:
        return Scale(low / 1.2, high * 1.2, start, end, True)
    missing = max(axis.span * abs(high) - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    least, most = axis.bounds
    if axis.ends is not None:
        return Scale(*axis.ends, start, end)
    low, high = max(low - pad, least) if floor is None else floor, min(high + pad, most)
    return Scale(low, high if high > low else low + 1, start, end)


@dataclass(frozen=True)
class Epochs:
    """Epochs from 1 on to pixels; ``knots``: (edge between two epochs, its pixel), rising."""

    knots: Sequence[tuple[float, float]]

    @classmethod
    def of(cls, phases: Sequence[Phase], n_epochs: int, start: float, end: float) -> Epochs:
        """Phases aside get their share of the width or STRIP of it, whichever is less, if there are others."""
        aside = [phase for phase in phases if phase.aside]
        n_shown = n_epochs - sum(phase.length for phase in aside)
        if not aside or n_shown < 1:
            return cls([(0.5, start), (n_epochs + 0.5, end)])
        strips = {phase.first: (end - start) * min(STRIP, phase.length / n_epochs) for phase in aside}
        an_epoch = (end - start - sum(strips.values())) / n_shown
        knots = [(0.5, start)]
        for phase in phases:
            width = strips[phase.first] if phase.aside else an_epoch * phase.length
            knots.append((phase.last + 0.5, knots[-1][1] + width))
        return cls(knots)

    def __call__(self, value: float) -> float:
        pairs = list(pairwise(self.knots))
        (low, start), (high, end) = next((pair for pair in pairs if value <= pair[1][0]), pairs[-1])
        return start + (end - start) * (value - low) / (high - low)


# --------------------------------------------------------------------------------------------------------- shapes


def _y_ticks(frame: Frame, y: Scale) -> list[float]:
    return y.ticks(max(3, round((frame.bottom - frame.top) / A_TICK)))


def with_room(frame: Frame, y: Scale) -> Frame:
    """The frame with room for an upright axis: its label, and its ticks to the last digit."""
    widest = max((text_width(label_of(value), TICK) for value in _y_ticks(frame, y)), default=0.0)
    return replace(frame, left=max(frame.left, UPRIGHT + widest + 8))


def y_axis(frame: Frame, y: Scale, label: str) -> Iterator[Shape]:
    for value in _y_ticks(frame, y):
        yield line(frame.left, y(value), frame.right, y(value), "grid")
        yield Text(frame.left - 6, y(value) + 4, label_of(value), "end")
    yield Text(11, (frame.top + frame.bottom) / 2, label, "middle", True, style="label")


def x_axis(frame: Frame, x: ToPixels, label: str, marked: Sequence[tuple[float, str]]) -> Iterator[Shape]:
    """``marked``: the ticks and what stands below them."""
    for value, name in marked:
        yield line(x(value), frame.bottom, x(value), frame.bottom + 4, "axis")
        for row, words in enumerate(name.split("\n")):
            yield Text(x(value), frame.bottom + 17 + 14 * row, words, "middle")
    yield line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    yield Text((frame.left + frame.right) / 2, frame.height - 5, label, "middle", style="label")


def ticks_of(axis: Axis, x: Scale, frame: Frame) -> list[tuple[float, str]]:
    """The names of an axis, or as many of its numbers as have room."""
    if axis.names:
        return [(float(place), name) for place, name in enumerate(axis.names)]
    for count in (6, 5, 4, 3, 2):
        found = [(value, label_of(value)) for value in x.ticks(count)]
        if sum(text_width(name, TICK) + 10 for _, name in found) <= frame.right - frame.left:
            break
    return found


def epoch_ticks(phases: Sequence[Phase], n_epochs: int) -> list[tuple[float, str]]:
    """Round numbers of epochs, counted within the phase that the chart is about."""
    shown = [phase for phase in phases if not phase.aside] or [Phase(name="", first=1, last=n_epochs)]
    return [
        (phase.first + value - 1, label_of(value))
        for phase in shown
        for value in (ticks(1, phase.length, 6) if phase.length > 1 else [1.0])
        if value == int(value) and value >= 1
    ] or [(shown[0].first, "1")]


def phase_shapes(phases: Sequence[Phase], x: Epochs, top: float, bottom: float) -> Iterator[Shape]:
    """Phases aside are shaded; all are named above where there is room."""
    for phase in phases:
        start, end = x(phase.first - 0.5), x(phase.last + 0.5)
        if phase.aside:
            yield Rect(start, top, end - start, bottom - top, style="shade")
        if end - start > text_width(phase.name, PHASE):
            yield Text((start + end) / 2, top - 6, phase.name, "middle", style="phase")
