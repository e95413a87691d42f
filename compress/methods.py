"""Which plan is taken: exactly, at random, or uniformly. All of them look at the same environment, equally often.

``exact`` minimizes the sum of the damages within all limits (hardware/projection.py). Damages are measured one change
at a time, and do not quite add up; so the plans that the sums like best are scored as whole networks, and then those
that they like best with each group's damage multiplied by a random factor, around the best factors so far: the repair
of SPDY (Frantar and Alistarh, ICML 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from compress.scoring import Score
from hardware.cost import CostTable, Path
from hardware.projection import Limit, Match, k_best, project
from proxyless_arch.base.errors import InputError

BY_SUM = 4
"""Plans that the sums of damages like best, which are scored first."""
SPREAD = 0.5
"""Of the logarithm of a factor."""
TRIES = 8
"""Factors drawn for a plan that is to be scored: many lead to one that is known."""
DRAWS = 20_000
HALVINGS = 6
"""Of the range of costs, to find the cheapest plan of an accuracy."""


@dataclass(frozen=True)
class Found:
    """A plan and what it scored."""

    path: Path
    score: Score


Tell = Callable[[Found], None]


class Judge(Protocol):
    """What scores plans: of widths (compress/pruning/environment.py) or of bits."""

    @property
    def matches(self) -> tuple[Match, ...]:
        """Which groups must be chosen alike."""

    def damages(self) -> list[np.ndarray]:
        """By group and choice."""

    def score(self, path: Path) -> Score: ...

    def settled(self, path: Path) -> Path:
        """``path`` with tied groups alike."""


def best(found: Sequence[Found]) -> Found:
    """The one of least loss, the first of equal ones."""
    return min(found, key=lambda each: each.score.loss)


def exact(environment: Judge, limits: Sequence[Limit], count: int, rng: np.random.Generator, tell: Tell) -> list[Found]:
    """``count`` plans at most, within all limits. Raises InputError when nothing is."""
    damages = environment.damages()
    found: dict[Path, Found] = {}

    def add(path: Path) -> Found:
        found[path] = Found(path, environment.score(path))
        tell(found[path])
        return found[path]

    for projection in k_best([-row for row in damages], limits, min(BY_SUM, count), environment.matches):
        add(projection.path)
    factors, leader = np.ones(len(damages)), best(list(found.values()))
    for _ in range(TRIES * max(0, count - len(found))):
        if len(found) >= count:
            break
        tried = factors * np.exp(SPREAD * rng.standard_normal(len(damages)))
        rows = [-factor * row for factor, row in zip(tried, damages, strict=True)]
        path = project(rows, limits, environment.matches).path
        if path not in found and add(path).score.loss < leader.score.loss:
            factors, leader = tried, found[path]
    return list(found.values())


def sample_within(
    limits: Sequence[Limit], lower: float, rng: np.random.Generator, settled: Callable[[Path], Path] = lambda path: path
) -> Iterator[Path]:
    """Random plans that keep to all limits and cost at least ``lower`` of the first, all nearly equally probable.

    Each choice is drawn by exp(-b cost), with the b at which the expected cost lies within the first limit: of all
    distributions with that mean the one of greatest entropy. What is drawn outside the limits is drawn again.
    """
    table, upper = limits[0].table, limits[0].upper
    tilt = _tilt(table, (1 + lower) / 2 * upper)
    odds = [_odds(group, tilt) for group in table.groups]
    for _ in range(DRAWS):
        path = settled(tuple(int(rng.choice(len(row), p=row)) for row in odds))
        if table.of_path(path) >= lower * upper and all(limit.holds(path) for limit in limits):
            yield path


def _odds(costs: Sequence[float], tilt: float) -> np.ndarray:
    values = np.asarray(costs)
    weights = np.exp(-tilt * (values - values.min()))
    return weights / weights.sum()


def _tilt(table: CostTable, mean: float) -> float:
    """The b at which the expected cost is ``mean``, by halving."""
    scale = 1 / max(table.maximum - table.minimum, 1e-12)
    low, high = -300 * scale * table.n_groups, 300 * scale * table.n_groups
    for _ in range(100):
        middle = (low + high) / 2
        if table.expected([_odds(group, middle) for group in table.groups]) > mean:
            low = middle
        else:
            high = middle
    return high


def random(
    environment: Judge, limits: Sequence[Limit], count: int, rng: np.random.Generator, tell: Tell
) -> list[Found]:
    """``count`` random plans of the cost. Raises InputError where none is met with."""
    found: dict[Path, Found] = {}
    for path in sample_within(limits, RANDOM_LOWER, rng, environment.settled):
        if path not in found:
            found[path] = Found(path, environment.score(path))
            tell(found[path])
        if len(found) == count:
            break
    if not found:
        raise InputError(f"no random plan of {DRAWS} keeps to {' and '.join(map(str, limits))}", limits[0].flag)
    return list(found.values())


RANDOM_LOWER = 0.97
"""Of the first limit, what a random plan costs at least."""


def cheapest(
    choose: Callable[[float], Sequence[Found]], table: CostTable, whole: Found, least: float
) -> tuple[Found, list[Sequence[Found]]]:
    """The cheapest plan found of at least ``least`` percent top-1, halving the range of costs; ``whole`` at worst.

    Args:
        choose: the plans that are scored for a target.

    Returns:
        It, and all that were scored, by target.
    """
    taken, tries = whole, list[Sequence[Found]]()
    low, high = table.minimum, table.of_path(whole.path)
    for _ in range(HALVINGS):
        half = (low + high) / 2
        tries.append(choose(half))
        good = [found for found in tries[-1] if found.score.top1_percent >= least]
        if good:
            taken = min(good, key=lambda each: table.of_path(each.path))
            high = table.of_path(taken.path)
        else:
            low = half
    return taken, tries
