"""How the benchmarks compare tasks: side by side in adjacent blocks, a null among them, and a verdict on each ratio.

Every round times the task that all are compared with (the anchor) before and behind each other one; a ratio is taken
to the mean of the two. What a ratio is worth shows in the null, which is the anchor under another name.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.base.machine import cpu_name
from proxyless_arch.base.memory import resident_bytes
from proxyless_arch.base.timing import cpu_ms, wall_ms

RESAMPLES = 2000
CONFIDENCE = 95
HIGH_WATER_MARK = Path("/proc/self/clear_refs")
CLOCKS = ("cpu", "wall")


class Spent(NamedTuple):
    """Milliseconds of one run: of the processor (all threads together) and by the clock on the wall."""

    cpu: float
    wall: float


class Ratio(NamedTuple):
    """The median over rounds, and a bootstrap interval of it."""

    median: float
    low: float
    high: float


Rounds = Mapping[str, Sequence[tuple[Spent, Spent]]]
"""Of each task and round: what it took, and the mean of what the anchor took before and behind it."""


def spent(run: Callable[[], object], block: int) -> Spent:
    """Of one run out of a block of them."""
    found = []

    def runs() -> None:
        for _ in range(block):
            run()

    wall = wall_ms(lambda: found.append(cpu_ms(runs)))
    return Spent(found[0] / block, wall / block)


def beside(
    anchor: Callable[[], object], tasks: Mapping[str, Callable[[], object]], rounds: int, block: int = 1
) -> Rounds:
    """Every task between two blocks of the anchor, in each round; one round before is not counted."""
    taken: dict[str, list[tuple[Spent, Spent]]] = {name: [] for name in tasks}
    for number in range(-1, rounds):
        around, own = [spent(anchor, block)], []
        for task in tasks.values():
            own.append(spent(task, block))
            around.append(spent(anchor, block))
        for name, found, (before, behind) in zip(tasks, own, itertools.pairwise(around), strict=True):
            if number >= 0:
                mean = Spent(*((one + other) / 2 for one, other in zip(before, behind, strict=True)))
                taken[name].append((found, mean))
    return taken


def relative(rounds: Rounds, name: str, clock: str) -> np.ndarray:
    """A task's share of the anchor in each round, by a clock."""
    return np.array([getattr(own, clock) / getattr(anchor, clock) for own, anchor in rounds[name]])


def median_of(values: np.ndarray, seed: int = 0) -> Ratio:
    """The median and where it lies in CONFIDENCE per cent of resamples of the rounds."""
    drawn = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2))
    return Ratio(*(round(float(value), 4) for value in (np.median(values), low, high)))


def verdict(ratio: Ratio, goal: float | None, *, is_least: bool = False) -> str:
    """Whether a ratio keeps to what it should be at most (``is_least``: at least), by its whole interval."""
    if goal is None:
        return ""
    if is_least:
        holds, misses = ratio.low >= goal, ratio.high < goal
    else:
        holds, misses = ratio.high <= goal, ratio.low > goal
    return "holds" if holds else "MISSED" if misses else "undecided"


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The most memory that ``run`` held beyond what there was before; None where no system tells."""
    before = resident_bytes()
    if before is None or not HIGH_WATER_MARK.exists():
        return None
    HIGH_WATER_MARK.write_text("5")  # the peak so far is forgotten
    run()
    peak = resident_bytes(field="VmHWM")
    return None if peak is None else peak - before


def stated(record: Mapping[str, Any]) -> str:
    """Date, machine and command of a record, for a person."""
    return f"{record['date']}, {record['cpu']}, load {record['load_average']}, {record['command']}"


def circumstances(command: Sequence[str]) -> dict[str, Any]:
    """Date, machine and command, for a record."""
    return {
        "command": " ".join(["python", *command]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
