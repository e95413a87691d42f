"""The last step of a search for this machine: measure the projected network and, when it is off, project again.

A table predicts whole networks to within a few per cent. One measurement of the derived network tells by how much the
table is off around the target; scaling the table by measured / predicted and projecting again costs milliseconds and
no new search. Where networks that differ were measured, they also tell how much of what the table takes away the
machine takes away: what each network costs besides its layers makes that less, and prices of layers that are off by a
factor of their own may make it more.

The machine's own speed wanders by more than a table is off. So what decides is the time at the speed that the machine
had when the table was measured, known from an anchor network timed then and now; the time as the clock showed it is
recorded beside it. A measurement that misses, or that spreads, is taken again, and only times that agree rescale the
table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hardware.cost import CostTable, Path
from hardware.profile.profiling import Measured
from hardware.projection import LOWER, Limit, Projection, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import shown

TOLERANCE = 0.02
MAX_PROJECTIONS = 4
MAX_NOISE = TOLERANCE / 2  # standard error of a measurement, relative, above which it is taken again
MAX_TIMES = 3  # measurements of one network in a row
SLOPE_SD, TIME_SD = 0.5, 0.015  # of what is believed of a slope before it is measured, and of a time; relative
NUDGE = 1.01  # of the table, where a network comes again
STEEPEST = 4.0  # of a slope, over or under measured / predicted


def lands(ms: float, target: float, lower: float = LOWER, tolerance: float = TOLERANCE) -> bool:
    """Whether a time is that of the target: in its window [lower * target, target], or within ``tolerance`` of it."""
    return min(1 - tolerance, lower) <= ms / target <= 1 + tolerance


@dataclass(frozen=True)
class Attempt:
    """One projection and its measurements in a row. ``scale``: what the table had been multiplied by."""

    projection: Projection
    scale: float
    timings: tuple[Measured, ...]

    @property
    def ms(self) -> float:
        return middle(self.timings).ms

    @property
    def is_settled(self) -> bool:
        return agree(self.timings)

    def to_json(self) -> dict[str, Any]:
        timing = middle(self.timings)
        return {
            "path": list(self.projection.path),
            "predicted_latency_ms": self.projection.cost,
            "table_scale": self.scale,
            "measured_at_anchor_speed_ms": timing.ms,
            "measured_latency_ms": timing.raw_ms,
            "measured_spread_percent": 100 * timing.sd / timing.ms,
            "measured_rounds": sum(each.rounds for each in self.timings),
            "measurements_ms": [each.ms for each in self.timings],
        }


@dataclass(frozen=True)
class Landing:
    """All attempts; ``best``: the network measured nearest to the target.

    ``final``: one more measurement of it, taken after it was chosen (a choice among noisy numbers flatters the one
    it was made by), the middle one where it was taken again. ``landed``: whether that is the target, by times that
    agree. ``stopped``: why there was no further attempt, where none was within the tolerance. ``reference_ms``: what
    the anchor took when the table was measured; None where that is not known, and times are those of this sitting.
    """

    attempts: tuple[Attempt, ...]
    best: Attempt
    final: Measured
    landed: bool
    stopped: str = ""
    reference_ms: float | None = None


def middle(timings: Sequence[Measured]) -> Measured:
    """The one of median time; of two the slower."""
    return sorted(timings, key=lambda timing: timing.ms)[len(timings) // 2]


def agree(timings: Sequence[Measured], tolerance: float = TOLERANCE) -> bool:
    """Whether times of one network can be believed: one that does not spread, or two that are within ``tolerance`` of
    each other."""
    if len(timings) == 1:
        return timings[0].noise <= MAX_NOISE
    return any(abs(one.ms / other.ms - 1) <= tolerance for one, other in itertools.combinations(timings, 2))


def measured(time: Callable[[], Measured], is_enough: Callable[[Measured], bool]) -> tuple[Measured, ...]:
    """Measure once; again where that spreads or is not ``is_enough``, until two agree, MAX_TIMES at most."""
    timings = [time()]
    if timings[0].noise <= MAX_NOISE and is_enough(timings[0]):
        return tuple(timings)
    while len(timings) < 2 or (len(timings) < MAX_TIMES and not agree(timings)):
        timings.append(time())
    return tuple(timings)


def settled(time: Callable[[], Measured]) -> Measured:
    """A network's time that can be believed: the middle one of as many measurements as that takes."""
    return middle(measured(time, lambda timing: True))


def cost_of_time(known: Sequence[tuple[float, float]], target: float) -> float:
    """What is to be asked of the prices, for networks that take ``target``.

    Measured times are a line in what prices say, through the network whose time is nearest to the target. Its slope is
    that of a regression on the others, which begins at measured / predicted: a prior whose weight is that of a normal
    one with SLOPE_SD, beside times with TIME_SD.

    Args:
        known: (cost by the prices, measured time) of networks; one or more.
    """
    predicted, ms = min(known, key=lambda pair: abs(pair[1] / target - 1))
    ratio, weight = ms / predicted, (TIME_SD / SLOPE_SD * predicted) ** 2
    apart = [(cost - predicted, time - ms) for cost, time in known]
    slope = (sum(dx * dy for dx, dy in apart) + weight * ratio) / (sum(dx * dx for dx, _ in apart) + weight)
    slope = min(max(slope, ratio / STEEPEST), ratio * STEEPEST)
    return max(predicted + (target - ms) / slope, predicted / STEEPEST)


def _scale(attempts: Sequence[Attempt], table: CostTable, target: float) -> float | None:
    """What to multiply the table by, for networks of the target's time to cost it; None where no times agree."""
    known = [(table.of_path(one.projection.path), one.ms) for one in attempts if one.is_settled]
    return target / cost_of_time(known, target) if known else None


def _best(attempts: Sequence[Attempt], target: float) -> Attempt:
    def error(attempt: Attempt) -> float:
        path = attempt.projection.path
        times = [other.ms for other in attempts if other.projection.path == path]
        return abs(sum(times) / len(times) / target - 1)

    return min(attempts, key=error)


def land(
    choose: Callable[[Sequence[Limit]], Projection],
    table: CostTable,
    target: float,
    time: Callable[[Path], Measured],
    *,
    lower: float = LOWER,
    tolerance: float = TOLERANCE,
    max_projections: int = MAX_PROJECTIONS,
    limits: Sequence[Limit] = (),
) -> Landing:
    """Project, measure, and while the measurement is off by more than ``tolerance`` project on the rescaled table.

    ``choose``: the best network within limits, as ``projection.project`` is of log-probabilities.
    ``time`` measures one network. At most ``max_projections`` further projections are tried.
    ``lower``: of the target, where its window begins. ``limits``: what the network must keep to beside the target.

    Raises InputError when not even the first projection is possible.
    """

    def is_enough(timing: Measured) -> bool:
        return lands(timing.ms, target, lower, tolerance)

    projection = choose([window(table, target, lower), *limits])
    attempts: list[Attempt] = []
    scale, stopped = 1.0, ""
    while True:
        path = projection.path
        attempts.append(Attempt(projection, scale, measured(lambda path=path: time(path), is_enough)))  # type: ignore[misc]
        last = attempts[-1]
        if last.is_settled and lands(last.ms, target, lower, tolerance):
            break
        if len(attempts) > max_projections:
            stopped = f"still off after {max_projections} further projections"
            break
        found = _scale(attempts, table, target)
        if found is None:
            stopped = f"{len(last.timings)} measurements of one network do not agree: the machine is too busy"
            break
        scale, known = found, {attempt.projection.path: attempt.ms for attempt in attempts}
        try:
            projection = choose([window(table.scaled(scale), target, lower), *limits])
            if projection.path in known:  # its own error keeps it from landing: one a little to the other side
                scale *= NUDGE if known[projection.path] > target else 1 / NUDGE
                projection = choose([window(table.scaled(scale), target, lower), *limits])
        except InputError as error:
            stopped = f"no network on the rescaled table: {shown(str(error))}"
            break
    best = last if not stopped else _best(attempts, target)
    timings = measured(lambda: time(best.projection.path), is_enough)
    final = middle(timings)
    landed = agree(timings) and lands(final.ms, target, lower, tolerance)
    return Landing(tuple(attempts), best, final, landed, stopped)
