"""From architecture probabilities to the one network that meets a target: an exact multiple-choice knapsack.

    maximize   sum_b log p_b(op_b)    subject to   lower * T <= cost(path) <= T

The result is exact, not exact on a grid. Costs and log-probabilities are doubles, so integers at a common power of
two; the search compares those integers. A dynamic program over rounded costs gives an upper bound on what the
remaining blocks can add (it relaxes the window by the rounding it did), and a best-first search takes the path whose
bound is largest until a complete one comes out. Among equally probable paths the first in index order is taken.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hardware.cost_table import CostTable
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import Path

CELLS = (2**11, 2**14, 2**17)  # of the rounded costs: finer only where a coarser bound does not settle it
POPS = (20_000, 20_000, 500_000)  # nodes looked at before the bound is refined, at last given up


@dataclass(frozen=True)
class Projection:
    """The projected network: its path, exact table cost, log-probability, and how far from the blocks' argmax it is."""

    path: Path
    cost: float
    log_prob: float
    n_changed_from_argmax: int


def project(log_probs: Sequence[np.ndarray], table: CostTable, target: float, lower: float = 0.99) -> Projection:
    """The most probable path whose cost, as ``table.of_path`` gives it, lies in [lower * target, target].

    ``log_probs[b][j]`` may be unnormalized, and -inf for a choice of probability 0: it is then taken only where
    nothing else meets the target. Raises InputError when the window holds no network, naming the nearest costs that
    exist below and above it (of a large space: to within 1 % of the range of costs); and for a window so narrow that
    half a million partial networks do not settle the matter (from ``lower`` = 0.999999 of a real table upwards).
    """
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"expected a number above 0, got {target!r}", "target")
    if not 0 < lower <= 1:
        raise InputError(f"expected a number in (0, 1], got {lower!r}", "lower")
    rows = _checked(log_probs, table)
    problem = _Problem.of(rows, table, lower * target, target)
    window = f"{table.shown(lower * target, math.ceil)} to {table.shown(target, math.floor)}"
    for cells, pops in zip(CELLS, POPS, strict=True):
        path, settled = problem.search(cells, pops)
        if settled:
            break
    else:
        raise InputError(
            f"whether a network costs {window} could not be settled; widen the window, got {lower!r}", "lower"
        )
    if path is None:
        below, above = problem.nearest(CELLS[0])
        nearest = " and ".join(table.shown(cost, math.ceil) for cost in (below, above) if cost is not None)
        raise InputError(
            f"no network of this space costs {window}; the nearest that exist cost {nearest}: set the target to one "
            "of these",
            "target",
        )
    argmax = tuple(int(np.argmax(row)) for row in rows)
    return Projection(
        path=path,
        cost=table.of_path(path),
        log_prob=math.fsum(row[choice] for row, choice in zip(rows, path, strict=True)),
        n_changed_from_argmax=sum(ours != theirs for ours, theirs in zip(path, argmax, strict=True)),
    )


def _checked(log_probs: Sequence[np.ndarray], table: CostTable) -> list[list[float]]:
    if len(log_probs) != table.n_blocks:
        raise InputError(f"expected {table.n_blocks} blocks, got {len(log_probs)}", "log_probs")
    rows = []
    for index, (values, edges) in enumerate(zip(log_probs, table.per_edge, strict=True)):
        row = np.asarray(values, dtype=np.float64)
        if row.shape != (len(edges),):
            raise InputError(f"expected {len(edges)} numbers, got shape {row.shape}", f"log_probs[{index}]")
        if np.isnan(row).any() or np.isposinf(row).any():
            raise InputError("expected numbers below infinity, got NaN or infinity", f"log_probs[{index}]")
        rows.append(row.tolist())
    return rows


def _common_denominator(values: Sequence[float]) -> int:
    return max((value.as_integer_ratio()[1] for value in values), default=1)


@dataclass(frozen=True)
class _Problem:
    """The knapsack in integers. ``costs`` are above each block's cheapest choice, ``gains`` below its most probable.

    A path of excess cost x costs ``(base + x) / denominator``; the quotient of two integers is correctly rounded in
    Python, so it equals ``CostTable.of_path``. ``low`` and ``high`` bound x, one rounding error outside the window.
    """

    costs: tuple[tuple[int, ...], ...]
    gains: tuple[tuple[int, ...], ...]
    base: int
    denominator: int
    low: int
    high: int
    window: tuple[float, float]

    @classmethod
    def of(cls, rows: list[list[float]], table: CostTable, floor: float, ceiling: float) -> _Problem:
        parts = [table.fixed, *(cost for edges in table.per_edge for cost in edges)]
        denominator = _common_denominator(parts)

        def exact(value: float, scale: int) -> int:
            numerator, divisor = value.as_integer_ratio()
            return numerator * (scale // divisor)

        costs = [[exact(cost, denominator) for cost in edges] for edges in table.per_edge]
        base = exact(table.fixed, denominator) + sum(map(min, costs))
        low = math.ceil((Fraction(floor) - Fraction(math.ulp(floor))) * denominator) - base
        high = math.floor((Fraction(ceiling) + Fraction(math.ulp(ceiling))) * denominator) - base
        return cls(
            costs=tuple(tuple(cost - min(edges) for cost in edges) for edges in costs),
            gains=_integer_gains(rows),
            base=base,
            denominator=denominator,
            low=max(low, 0),
            high=min(high, sum(max(edges) - min(edges) for edges in costs)),
            window=(floor, ceiling),
        )

    def cost(self, excess: int) -> float:
        return (self.base + excess) / self.denominator

    def search(self, cells: int, pops: int) -> tuple[Path | None, bool]:
        """(best path or None, whether that is proven); gives up unproven after ``pops`` nodes."""
        if self.low > self.high:
            return None, True
        bound = _Bound(self, cells)
        # entries order by bound (largest first), then by path: a complete path that comes out is the best one, and
        # of equals the first in index order, because a prefix comes before whatever extends or follows it
        heap: list[tuple[int, Path, int, int]] = []

        def push(path: Path, excess: int, gain: int, cap: int) -> None:
            remaining = bound(len(path), excess)
            if remaining is not None:
                heapq.heappush(heap, (-min(cap, gain + remaining), path, excess, gain))

        push((), 0, 0, 0)
        popped = 0
        while heap:
            if popped >= pops:
                return None, False
            popped += 1
            negated, path, excess, gain = heapq.heappop(heap)
            if len(path) == len(self.costs):
                if self.window[0] <= self.cost(excess) <= self.window[1]:
                    return path, True
                continue
            block = len(path)
            for choice, (cost, change) in enumerate(zip(self.costs[block], self.gains[block], strict=True)):
                push((*path, choice), excess + cost, gain + change, -negated)
        return None, True

    def nearest(self, cells: int) -> tuple[float | None, float | None]:
        """Achievable costs just below and just above a window that holds none; None where there is none.

        Partial costs that fall into one cell are merged towards the outside, so each is a cost of some network and
        at most one cell per block away from the nearest one.
        """
        width = max(1, sum(map(max, self.costs)) // cells)
        merged = []
        for keep in (min, max):
            partial = {0: 0}
            for edges in self.costs:
                grown: dict[int, int] = {}
                for start in partial.values():
                    for cost in set(edges):
                        end = start + cost
                        cell = end // width
                        grown[cell] = keep(end, grown.get(cell, end))
                partial = grown
            merged.append([self.cost(excess) for excess in partial.values()])
        below = max((cost for cost in merged[0] if cost < self.window[0]), default=None)
        above = min((cost for cost in merged[1] if cost > self.window[1]), default=None)
        return below, above


def _integer_gains(rows: list[list[float]]) -> tuple[tuple[int, ...], ...]:
    """log p as integers at a common scale, relative to each block's largest.

    -inf becomes one more than all finite differences together, so that fewer such choices always win.
    """
    finite = [value for row in rows for value in row if value != -math.inf]
    scale = _common_denominator(finite)
    exact = [[None if value == -math.inf else int(Fraction(value) * scale) for value in row] for row in rows]
    tops = [max((value for value in row if value is not None), default=0) for row in exact]
    relative = [[None if v is None else v - top for v in row] for row, top in zip(exact, tops, strict=True)]
    impossible = sum(min((v for v in row if v is not None), default=0) for row in relative) - 1
    return tuple(tuple(impossible if v is None else v for v in row) for row in relative)


class _Bound:
    """An upper bound on the log-probability that blocks ``b`` and later can add to a path of a given excess cost.

    Costs are rounded down to cells. A suffix of F cells costs between F and F cells + ``slack[b]``, so those that may
    end in the window have F in a range of fixed length; ``best[b][x]`` is the maximum over the range that ends at x.
    """

    def __init__(self, problem: _Problem, cells: int) -> None:
        self.high = problem.high
        self.width = width = max(1, -(-problem.high // cells))
        n_cells = problem.high // width + 1
        never = sum(map(min, problem.gains)) - 1  # below every path
        self.never = never
        level = np.full(n_cells, never, dtype=object)
        level[0] = 0
        slack = 0
        self.best = [self._trailing(level, self._span(problem, slack))]
        for costs, gains in zip(reversed(problem.costs), reversed(problem.gains), strict=True):
            grown = np.full(n_cells, never, dtype=object)
            for cost, gain in zip(costs, gains, strict=True):
                shift = cost // width
                if shift < n_cells:
                    # adding to ``never`` only lowers it, and no path's own value is that low
                    grown[shift:] = np.maximum(grown[shift:], level[: n_cells - shift] + gain)
            level = grown
            slack += max(cost % width for cost in costs)
            self.best.append(self._trailing(level, self._span(problem, slack)))
        self.best.reverse()

    def _span(self, problem: _Problem, slack: int) -> int:
        """How many cells can hold the rounded cost of a suffix that ends in the window."""
        return (problem.high - problem.low + slack) // self.width + 1

    @staticmethod
    def _trailing(values: np.ndarray, length: int) -> list[int]:
        """Maximum of each value and the ``length - 1`` before it, by doubling."""
        result, covered = values.copy(), 1
        length = min(length, len(values))
        while covered < length:
            step = min(covered, length - covered)
            result[step:] = np.maximum(result[step:], result[:-step].copy())
            covered += step
        return result.tolist()

    def __call__(self, block: int, excess: int) -> int | None:
        """None when no completion can end in the window."""
        if excess > self.high:
            return None
        value = self.best[block][(self.high - excess) // self.width]
        return value if value > self.never else None
