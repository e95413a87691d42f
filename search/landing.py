"""The last step of a search for this machine: measure the projected network and, when it is off, project again.

A table predicts whole networks to within a few per cent. One measurement of the derived network tells by how much the
table is off around the target; scaling the table by measured / predicted and projecting again costs milliseconds and
no new search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from proxyless_arch.errors import InputError
from proxyless_arch.space import Path
from proxyless_arch.strict import shown
from search.cost_table import CostTable
from search.profiling import Measured
from search.projection import Projection, project

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
            "measured_latency_ms": self.timing.ms,
            "measured_spread_percent": 100 * self.timing.sd / self.timing.ms,
        }


@dataclass(frozen=True)
class Landing:
    """All attempts; ``best`` is the one measured nearest to the target. ``stopped``: why there was no further one."""

    attempts: tuple[Attempt, ...]
    target: float
    stopped: str = field(default="")

    @property
    def best(self) -> Attempt:
        return min(self.attempts, key=lambda attempt: attempt.error(self.target))


def land(
    log_probs: Sequence[np.ndarray],
    table: CostTable,
    target: float,
    time: Callable[[Path], Measured],
    tolerance: float = TOLERANCE,
    max_projections: int = MAX_PROJECTIONS,
) -> Landing:
    """Project, measure, and while the measurement is off by more than ``tolerance`` project on the rescaled table.

    ``time`` measures one network. At most ``max_projections`` further projections are tried.

    Raises InputError when not even the first projection is possible.
    """
    projection = project(log_probs, table, target)
    attempts: list[Attempt] = []
    scale = 1.0
    while True:
        attempt = Attempt(projection, scale, time(projection.path))
        attempts.append(attempt)
        if attempt.error(target) <= tolerance:
            return Landing(tuple(attempts), target)
        if len(attempts) > max_projections:
            return Landing(tuple(attempts), target, f"still off after {max_projections} further projections")
        scale *= attempt.timing.ms / projection.cost
        try:
            projection = project(log_probs, table.scaled(scale), target)
        except InputError as error:
            return Landing(tuple(attempts), target, f"no network on the rescaled table: {shown(str(error))}")
        if projection.path in [earlier.projection.path for earlier in attempts]:
            return Landing(tuple(attempts), target, "the rescaled table chooses a network that was measured already")
