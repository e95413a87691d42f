"""How times are taken, of layers, networks and exported files alike.

Everything takes its turn in every round, so that whatever else the machine does falls on all of it. A machine's speed
wanders by some per cent within seconds: an anchor that is timed between the others tells by how much, and a round in
which it moved far is taken again. The statistic is the median over rounds of the median in a round.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

MAX_INNER = 1000  # runs inside one timing
MAX_DRIFT = 0.1  # of the anchor within a round, relative, above which the round is taken again
Name = TypeVar("Name")


class Times(NamedTuple):
    """Times of single runs in ms by the runtime's clock, and by its other clock."""

    ms: tuple[float, ...]
    other_ms: tuple[float, ...]


class Session(Protocol):
    def times(self, timings: int, inner: int = 1) -> Times:
        """``timings`` times, each the mean over ``inner`` runs after which everything has finished."""


def measure(session: Session, *, runs: int = 10, warmup: int = 5, min_ms: float = 2.0) -> Times:
    """``runs`` timings after ``warmup`` runs. What is shorter than ``min_ms`` runs several times per timing."""
    first = session.times(max(warmup, 1)).ms
    inner = min(MAX_INNER, max(1, math.ceil(min_ms / max(statistics.median(first), 1e-4))))
    return session.times(runs, inner)


def wall_ms(run: Callable[[], object]) -> float:
    """What one run takes by the wall clock."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def cpu_ms(run: Callable[[], object]) -> float:
    """What one run takes of the processor's time, all threads of this process together; other work is not in it."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


class Stopwatch:
    """Wall seconds: ``seconds`` since its start, ``before`` of them from an earlier process; and laps."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = self._last = time.perf_counter()
        self._before = before

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    @property
    def since_lap(self) -> float:
        """Seconds since the last lap, or the start."""
        return time.perf_counter() - self._last

    def lap(self) -> float:
        """Seconds since the last lap, and the next begins."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def in_turn(takers: Mapping[Name, Callable[[], float]], rounds: int, warmup: int) -> dict[Name, list[float]]:
    """The ms that each of ``takers`` returns, once per round, in turn; ``warmup`` rounds before are not counted."""
    found: dict[Name, list[float]] = {name: [] for name in takers}
    for number in range(-warmup, rounds):
        for name, take in takers.items():
            ms = take()
            if number >= 0:
                found[name].append(ms)
    return found


class Beside(NamedTuple):
    """Times of single runs in ms beside an anchor's, each at the anchor's median speed; ``drift``: how far the anchor
    moved in a usual round or over all that count, relative; ``repeated``: rounds that were taken again."""

    anchor: list[float]
    ms: dict[str, list[float]]
    drift: float
    repeated: int


def beside_anchor(
    anchor: Callable[[], float],
    takers: Mapping[str, Callable[[], float]],
    rounds: int,
    warmup: int,
    max_drift: float = MAX_DRIFT,
) -> Beside:
    """The ms that each of ``takers`` returns, once per round and in turn, the ``anchor`` timed before and behind each.

    A round in which the anchor moved by more than ``max_drift`` is taken again, a third of ``rounds`` at most (but 2);
    ``warmup`` rounds before are not counted.
    """
    names = list(takers)
    taken: list[tuple[list[float], list[float]]] = []

    def take(number: int) -> float:
        beside, own = [anchor()], []
        for name in names:
            own.append(takers[name]())
            beside.append(anchor())
        taken.append((beside, own))
        return max(beside) / min(beside) - 1  # too few for the neighbours of anchor_drift

    in_turn({"": anchor, **takers}, 0, warmup)
    kept, drifts = steady_rounds(take, rounds, max(2, rounds // 3), max_drift)
    usual = statistics.median(ms for number in kept for ms in taken[number][0])
    ms: dict[str, list[float]] = {name: [] for name in names}
    for number in kept:
        beside, own = taken[number]
        for name, found, around in zip(names, own, itertools.pairwise(beside), strict=True):
            ms[name].append(found * usual / statistics.mean(around))
    medians = [statistics.median(taken[number][0]) for number in kept]
    drift = max(statistics.median(drifts[number] for number in kept), anchor_drift(medians))
    return Beside([ms for number in kept for ms in taken[number][0]], ms, drift, len(drifts) - rounds)


def anchor_drift(medians: Sequence[float]) -> float:
    """How far the anchor moved in a round, relative: the largest deviation of the median of three neighbours."""
    values = np.asarray(medians)
    smooth = values if len(values) < 3 else np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return float(np.abs(smooth / np.median(values) - 1).max())


def steady_rounds(
    take: Callable[[int], float], rounds: int, extra_rounds: int, max_drift: float
) -> tuple[list[int], list[float]]:
    """Take rounds until ``rounds`` of them drifted by ``max_drift`` at most, and ``extra_rounds`` more at most.

    ``take(number)`` takes one and returns its drift. Returns (the numbers of the rounds that count: those without
    drift, then those that drifted least; the drift of every round).
    """
    drifts: list[float] = []
    while len(drifts) < rounds + extra_rounds and sum(drift <= max_drift for drift in drifts) < rounds:
        drifts.append(take(len(drifts)))
    order = sorted(range(len(drifts)), key=lambda number: max(drifts[number], max_drift))
    return sorted(order[:rounds]), drifts


class Quartiles(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of times in ms or of ratios, to 4 decimals."""
    return Quartiles(*(round(float(value), 4) for value in np.percentile(values, (50, 25, 75))))
