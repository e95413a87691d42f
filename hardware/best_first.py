"""The most probable choices within limits, one after the other: best-first search, by bounds from a grid of costs.

A program finds one network; the next best of many more takes as many programs, each harder than the one before. Here a
network grows part by part. How probable it can become at most, by what is still to be chosen within the limits, is read
from a table: for each part and each total of costs, in BINS, the most probable rest. Rests are counted where their
costs, rounded down, might be within the limit, so a bound is never too low and the first network that is whole is the
most probable one that is left. Further limits are kept exactly, too; in the bound their costs have a price.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hardware.cost import CostTable, Path

if TYPE_CHECKING:
    from hardware.projection import Limit

BINS = 4096
PRICES = tuple(2.0**power for power in range(-8, 4))
"""Tried, in units of the range of all losses by that of all costs."""
MAX_GROWN = 20_000
"""Networks that are grown by a part before a search is given up."""
SLACK = 1e-9  # of the largest cost, by which sums in another order may differ


class _Option(NamedTuple):
    """What a part may be: its choices, its costs by each limit, how much less probable than the best it is, and what of
    it later parts ask for."""

    choices: Path
    costs: tuple[float, ...]
    loss: float
    behind: Path


class _Ends(NamedTuple):
    """Of all rests behind a state: the least and the greatest cost by each limit."""

    least: tuple[float, ...]
    most: tuple[float, ...]


@dataclass(frozen=True)
class _Growing:
    """What networks are grown from."""

    rows: Sequence[np.ndarray]
    limits: Sequence[Limit]

    @cached_property
    def options(self) -> list[dict[Path, list[_Option]]]:
        """Of each part, by what parts before it chose that it asks for."""
        found, states = list[dict[Path, list[_Option]]](), dict.fromkeys([Path()])
        costs = [[part.costs.ravel() for part in limit.table.parts] for limit in self.limits]
        losses = [np.max(row) - row for row in self.rows]
        for index, stage in enumerate(self.limits[0].table.stages):
            here: dict[Path, list[_Option]] = {state: [] for state in states}
            for state, listed in here.items():
                for choices, place, behind in stage.options(state):
                    loss = math.fsum(losses[group][choice] for group, choice in zip(stage.new, choices, strict=True))
                    listed.append(_Option(choices, tuple(float(each[index][place]) for each in costs), loss, behind))
            found.append(here)
            states = dict.fromkeys(option.behind for listed in here.values() for option in listed)
        return found

    @cached_property
    def ends(self) -> list[dict[Path, _Ends]]:
        """Behind each number of parts, by state."""
        nothing = (0.0,) * len(self.limits)
        found: list[dict[Path, _Ends]] = [{(): _Ends(nothing, nothing)}]
        for here in reversed(self.options):
            behind, now = found[-1], dict[Path, _Ends]()
            for state, listed in here.items():
                least = [_sums(option.costs, behind[option.behind].least) for option in listed]
                most = [_sums(option.costs, behind[option.behind].most) for option in listed]
                now[state] = _Ends(
                    *(tuple(map(end, zip(*each, strict=True))) for end, each in ((min, least), (max, most)))
                )
            found.append(now)
        return found[::-1]

    @cached_property
    def grid(self) -> _Grid:
        """With those prices of the costs by further limits that bound all networks best."""
        fixed = tuple(limit.table.fixed for limit in self.limits)
        best = _Grid.of(self, (0.0,) * len(self.limits))
        for index, limit in enumerate(self.limits[1:], start=1):
            end, largest = self.ends[0][()], sum(float(np.ptp(row)) for row in self.rows)
            unit = largest / (end.most[index] - end.least[index] or 1.0)
            if limit.upper < limit.table.maximum:
                tried = [
                    _Grid.of(self, (*best.prices[:index], unit * step, *best.prices[index + 1 :])) for step in PRICES
                ]
                best = max(best, *tried, key=lambda grid: grid.loss_of_rest(0, (), fixed))
        return best

    def loss_of_rest(self, depth: int, state: Path, costs: tuple[float, ...]) -> float:
        """What is lost at least behind ``depth`` parts that cost ``costs``, within all limits; infinite where certainly
        no rest is within them."""
        least, most = self.ends[depth][state]
        for limit, cost, low, high in zip(self.limits, costs, least, most, strict=True):
            slack = SLACK * max(abs(limit.table.maximum), abs(limit.table.minimum))
            if cost + low > limit.upper + slack or cost + high < limit.lower - slack:
                return math.inf
        return self.grid.loss_of_rest(depth, state, costs)


@dataclass(frozen=True)
class _Grid:
    """What rests lose at least, by what they cost by the first limit's table beyond the cheapest, in bins of ``width``.

    ``rests[depth][state][bins]``: behind so many parts, by what later parts ask for; infinite where no rest spends so
    many bins. ``prices``: what a unit of each limit's cost adds to a loss, and what is left below the limit takes off
    again (Lagrange): a network within the limits is never made to lose more than it does.
    """

    growing: _Growing
    prices: tuple[float, ...]
    width: float
    rests: list[dict[Path, np.ndarray]]

    @classmethod
    def of(cls, growing: _Growing, prices: tuple[float, ...]) -> _Grid:
        ends, limit = growing.ends, growing.limits[0]
        spent_at_most = min(limit.upper - limit.table.fixed, ends[0][()].most[0]) - ends[0][()].least[0]
        width = max(spent_at_most, 0.0) / (BINS - 1) or 1.0
        found: list[dict[Path, np.ndarray]] = [{(): np.concatenate([np.zeros(1), np.full(BINS - 1, np.inf)])}]
        for here, now, later in reversed(list(zip(growing.options, ends[:-1], ends[1:], strict=True))):
            reached = {state: np.full(BINS, np.inf) for state in here}
            for state, listed in here.items():
                for option in listed:
                    least = option.costs[0] + later[option.behind].least[0]
                    spent = int((least - now[state].least[0]) / width)
                    if spent < BINS:
                        lost = option.loss + sum(price * cost for price, cost in zip(prices, option.costs, strict=True))
                        lasts = found[-1][option.behind][: BINS - spent] + lost
                        np.minimum(reached[state][spent:], lasts, out=reached[state][spent:])
            found.append(reached)
        return cls(growing, prices, width, found[::-1])

    def loss_of_rest(self, depth: int, state: Path, costs: tuple[float, ...]) -> float:
        limits = self.growing.limits
        floor = costs[0] + self.growing.ends[depth][state].least[0]
        upper = min(limits[0].upper, limits[0].table.maximum)
        last = min(max(math.floor((upper - floor) / self.width), -1) + 1, BINS - 1)
        n_rounded = len(self.rests) - depth  # each part is rounded down by less than a bin, and sums by less than one
        above = math.floor((limits[0].lower - floor) / self.width) if limits[0].lower > floor else 0
        lost = float(self.rests[depth][state][max(0, above - n_rounded) : last + 1].min(initial=math.inf))
        paid = (price * (cost - limit.upper) for price, cost, limit in zip(self.prices, costs, limits, strict=True))
        return max(lost + sum(paid), 0.0) if any(self.prices) and depth < len(self.growing.options) else lost


def _sums(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def most_probable(
    rows: Sequence[np.ndarray], limits: Sequence[Limit], k: int, tie: float, most_grown: int | None = None
) -> list[Path] | None:
    """The ``k`` most probable choices within ``limits``, best first; fewer where there are not as many, or where more
    take more than ``most_grown`` steps (default: MAX_GROWN). None where not even one was found by then.

    Args:
        rows: ``rows[g][j]``, the log-probability of choice ``j`` of group ``g``; finite.
        tie: log-probabilities that differ by less are equal, and of equals the first, in the order of the table's
            parts, is taken first.
    """
    growing = _Growing(rows, limits)

    def rank(loss: float) -> float:
        return round(loss / tie) if tie > 0 else loss

    fixed = tuple(limit.table.fixed for limit in limits)
    start = growing.loss_of_rest(0, (), fixed)
    grown: list[tuple[float, tuple[Path, ...], float, Path, tuple[float, ...]]] = []
    if start < math.inf:
        grown.append((rank(start), (), 0.0, (), fixed))
    found: list[Path] = []
    for _ in range(MAX_GROWN if most_grown is None else most_grown):
        if not grown or len(found) == k:
            return found
        _, chosen, loss, state, costs = heapq.heappop(grown)
        if len(chosen) == len(growing.options):
            path = _in_order(chosen, limits[0].table)
            found += [path] if all(limit.holds(path) for limit in limits) else []
            continue
        for option in growing.options[len(chosen)][state]:
            now = _sums(costs, option.costs)
            rest = growing.loss_of_rest(len(chosen) + 1, option.behind, now)
            if rest < math.inf:
                lost = loss + option.loss
                heapq.heappush(grown, (rank(lost + rest), (*chosen, option.choices), lost, option.behind, now))
    return found or None


def _in_order(chosen: Sequence[Path], table: CostTable) -> Path:
    """The choices of each part as those of each group."""
    path = [0] * table.n_groups
    for stage, choices in zip(table.stages, chosen, strict=True):
        for group, choice in zip(stage.new, choices, strict=True):
            path[group] = choice
    return tuple(path)
