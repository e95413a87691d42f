"""The last step of a search for this machine: measure the projected network and, when it is off, project again.

A table predicts whole networks to within a few per cent. One measurement of the derived network tells by how much the
table is off around the target; scaling the table by measured / predicted and projecting again costs milliseconds and
no new search.

The machine's own speed wanders by more than a table is off. So what decides is the time at the speed that the machine
had when the table was measured, known from an anchor network timed then and now; the time as the clock showed it is
recorded beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.cost import CostTable, Path
from hardware.profile.profiling import Measured
from hardware.projection import Limit, Projection, project, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import shown

TOLERANCE = 0.02
MAX_PROJECTIONS = 3


@dataclass(frozen=True)
class Attempt:
    """One projection and its measurement. ``scale``: what the table had been multiplied by."""

    projection: Projection
    scale: float
    timing: Measured

    def error(self, target: float) -> float:
        return abs(self.timing.ms / target - 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": list(self.projection.path),
            "predicted_latency_ms": self.projection.cost,
            "table_scale": self.scale,
            "measured_at_anchor_speed_ms": self.timing.ms,
            "measured_latency_ms": self.timing.raw_ms,
            "measured_spread_percent": 100 * self.timing.sd / self.timing.ms,
            "measured_rounds": self.timing.rounds,
        }


@dataclass(frozen=True)
class Landing:
    """All attempts; ``best``: the network measured nearest to the target (the mean, where it was measured more often).

    ``final``: one more measurement of it, taken after it was chosen: a choice among noisy numbers flatters the one
    it was made by. ``stopped``: why there was no further attempt, where none was within the tolerance.
    ``reference_ms``: what the anchor took when the table was measured; None where that is not known, and times are
    those of this sitting.
    """

    attempts: tuple[Attempt, ...]
    best: Attempt
    final: Measured
    stopped: str = ""
    reference_ms: float | None = None


def _best(attempts: Sequence[Attempt], target: float) -> Attempt:
    def error(attempt: Attempt) -> float:
        path = attempt.projection.path
        times = [other.timing.ms for other in attempts if other.projection.path == path]
        return abs(sum(times) / len(times) / target - 1)

    return min(attempts, key=error)


def land(
    log_probs: Sequence[np.ndarray],
    table: CostTable,
    target: float,
    time: Callable[[Path], Measured],
    tolerance: float = TOLERANCE,
    max_projections: int = MAX_PROJECTIONS,
    limits: Sequence[Limit] = (),
) -> Landing:
    """Project, measure, and while the measurement is off by more than ``tolerance`` project on the rescaled table.

    ``time`` measures one network. At most ``max_projections`` further projections are tried.
    ``limits``: what the network must keep to beside the target.

    Raises InputError when not even the first projection is possible.
    """
    projection = project(log_probs, [window(table, target), *limits])
    attempts: list[Attempt] = []
    scale, stopped = 1.0, ""
    while True:
        attempts.append(Attempt(projection, scale, time(projection.path)))
        if attempts[-1].error(target) <= tolerance:
            break
        if len(attempts) > max_projections:
            stopped = f"still off after {max_projections} further projections"
            break
        # the median over all attempts: one disturbed measurement must not throw the next projection off
        ratios = [attempt.timing.ms / table.of_path(attempt.projection.path) for attempt in attempts]
        scale = float(np.median(ratios))
        try:
            projection = project(log_probs, [window(table.scaled(scale), target), *limits])
        except InputError as error:
            stopped = f"no network on the rescaled table: {shown(str(error))}"
            break
    best = _best(attempts, target)
    return Landing(tuple(attempts), best, time(best.projection.path), stopped)
