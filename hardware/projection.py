"""From probabilities to the choices that meet budgets: an exact multiple-choice knapsack.

    maximize   sum_g log p_g(choice_g)    subject to   lower_k <= cost_k(choices) <= upper_k   for every limit k

HiGHS solves it as a mixed-integer program in one 0/1 variable per choice. Its arithmetic has tolerances, ours must not:
costs and log-probabilities are scaled so that a tolerance is a hundred-billionth of their range; every solution is
checked with ``CostTable.of_path``, and one that is outside a limit is cut off and the program solved again. A limit on
costs that are multiples of a step (counts, equal prices) is moved to the middle of a step: nothing is just outside it.
Where cutting off does not end, the best of what is inside the limits by more than a tolerance is taken.

Where choices cost something together (cost.Term), as a stage's width and the operations of its blocks do, the program
has one variable for each combination that a term prices, and combinations agree on what they share: a variable for a
width and two operations would be a product of three. Along a chain of stages that describes exactly the networks there
are, also without integrality, so the limit alone makes the program branch.

Ties. Solutions whose log-probabilities differ by less than TIE of the largest difference in play count as equally
probable; of equals the first in index order is taken.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from hardware import best_first
from hardware.cost import CostTable, Path, Stage
from hardware.together import Lifted
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import plain_number

LOWER = 0.99  # of a target, what its window begins with
TIE = 1e-9
SPAN = 1e5  # the scaled range of costs and of log-probabilities; HiGHS keeps to them within 1e-6
INSIDE = 1e-5  # of the scaled range, to be inside a limit whatever HiGHS tolerates
MAX_STEPS = 10**7  # from the least cost to the greatest; more are not told apart
MAX_CUTS = 200  # solutions just outside a limit that one program cuts off before it is given up
MAX_NODES = 100_000  # of a program, before it is given up
FEW_GROWN = 4000  # steps of a search for one network, behind which a program is as fast
MOST_PROGRAMS = 8  # for the most probable networks, where they are hard to find
BINS = 4096  # of the costs that draws are projected on
DIGITS = 5  # groups whose indices are minimized in one program


@dataclass(frozen=True)
class Limit:
    """The costs by ``table`` that are allowed, both ends included. ``flag``: what asks for it, for an error."""

    table: CostTable
    upper: float
    lower: float = -math.inf
    flag: str = field(default="target", compare=False)

    def holds(self, path: Path) -> bool:
        return self.lower <= self.table.of_path(path) <= self.upper

    @property
    def exact(self) -> str:
        """For a person, to the last digit."""
        ends = [plain_number(end) for end in (self.lower, self.upper)]
        text = f"at most {ends[1]}" if self.lower == -math.inf else f"{ends[0]} to {ends[1]}"
        return f"{text} {self.table.unit}"

    def __str__(self) -> str:
        most = self.table.shown(self.upper, math.floor)
        if self.lower == -math.inf:
            return f"at most {most}"
        return f"{self.table.shown(self.lower, math.ceil)} to {most}"


def window(table: CostTable, target: float, lower: float = LOWER, flag: str = "target") -> Limit:
    """The costs that land on a target: [lower * target, target]. Raises InputError."""
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"expected a number above 0, got {target!r}", flag)
    if not 0 < lower <= 1:
        raise InputError(f"expected a number in (0, 1], got {lower!r}", "lower")
    return Limit(table, target, lower * target, flag)


@dataclass(frozen=True)
class Projection:
    """What is chosen, its exact cost by each limit's table, its log-probability and how far from argmax it is."""

    path: Path
    costs: tuple[float, ...]
    log_prob: float
    n_changed_from_argmax: int

    @property
    def cost(self) -> float:
        """By the table of the first limit."""
        return self.costs[0]


@dataclass(frozen=True)
class Match:
    """Two groups whose choices must have one label: ``labels[0][j]`` is that of choice ``j`` of group ``groups[0]``."""

    groups: tuple[int, int]
    labels: tuple[tuple[Hashable, ...], tuple[Hashable, ...]]

    def holds(self, path: Path) -> bool:
        one, other = (labels[path[group]] for group, labels in zip(self.groups, self.labels, strict=True))
        return one == other


def project(
    log_probs: Sequence[np.ndarray],
    limits: Sequence[Limit],
    matches: Sequence[Match] = (),
    *,
    settles_ties: bool = True,
) -> Projection:
    """The most probable choices within all limits, and with one label where groups must match.

    ``settles_ties``: of equals the first is taken; without it any of them, in half of the time.

    ``log_probs[g][j]`` may be unnormalized, and -inf for a choice of probability 0: it is then taken only where
    nothing else keeps to the limits, and as few of them as possible. Raises InputError when nothing is within them,
    naming the nearest costs that exist.

    A program is given up after MAX_NODES of the search tree, or MAX_CUTS solutions just outside a limit. What was found
    by then and is within all limits is taken, though it need not be the most probable or the first of equals; where
    nothing was, the matter is not settled, which is an InputError, too.
    """
    return k_best(log_probs, limits, 1, matches, settles_ties=settles_ties)[0]


def k_best(
    log_probs: Sequence[np.ndarray],
    limits: Sequence[Limit],
    k: int,
    matches: Sequence[Match] = (),
    *,
    settles_ties: bool = True,
) -> list[Projection]:
    """The ``k`` most probable choices within all limits, best first; fewer where there are not as many.

    Where a search of many is given up (best_first.py), what it has found by then is returned, or what MOST_PROGRAMS
    find, each of which takes seconds then; and what was found before a program that is not settled.

    ``settles_ties``: as of ``project``. Raises InputError as ``project`` does, where there are none.
    """
    rows = _checked(log_probs, limits)
    is_hard = k > 1 or len(limits) > 1 or bool(limits[0].table.terms)
    if is_hard and not matches and all(np.isfinite(row).all() for row in rows):
        tie, most = TIE * max(float(np.ptp(row)) for row in rows), best_first.MAX_GROWN if k > 1 else FEW_GROWN
        paths = best_first.most_probable(rows, limits, k, tie, most)
        if paths:
            return [projection_of(rows, limits, path) for path in paths]
        if paths is None:
            k = min(k, MOST_PROGRAMS)
    lifted = Lifted(limits[0].table)
    program = _program(lifted, rows, limits, matches, prunes=k == 1)
    found: list[Path] = []
    with _settling(limits):
        try:
            while len(found) < k and (path := program.best(found, settles_ties)) is not None:
                found.append(path)
        except _UnsettledError:
            if not found:
                raise
        if not found and k:
            raise _none_within(program)
    return [projection_of(rows, limits, lifted.own(path)) for path in found]


def project_draws(draws: Sequence[Sequence[np.ndarray]], limit: Limit) -> list[Path | None]:
    """``project`` of many draws of log-probabilities at once, on a grid of BINS costs: a hundredth of the time of exact
    programs.

    What is returned is within the limit. It is the most probable that is so by half a bin for each part or more; None
    where nothing is, or a bin is wider than that leaves room for.
    """
    parts = limit.table.parts
    costs = [part.costs.ravel() - part.costs.min() for part in parts]
    floor = math.fsum((limit.table.fixed, *(float(part.costs.min()) for part in parts)))
    upper = min(limit.upper, limit.table.maximum)
    width = (upper - floor) / (BINS - 1)
    if width <= 0 or not draws:
        return [None] * len(draws)
    slack = len(parts) // 2 + 1
    first = max(0, math.ceil((max(limit.lower, floor) - floor) / width)) + (slack if limit.lower > floor else 0)
    last = BINS - 1 - slack
    start = np.full((len(draws), BINS), -np.inf)
    start[:, 0] = 0.0
    grid = _Grid({(): start}, [])
    for stage, excess in zip(limit.table.stages, costs, strict=True):
        grid.take(stage, np.rint(excess / width).astype(int).tolist(), draws)
    return [grid.walked_back(draw, limit.table.n_groups, first, last) for draw in range(len(draws))]


class _Step(NamedTuple):
    """What came to a total: the choices before, those of a stage, and the bins that they spend."""

    before: Path
    choices: Path
    spent: int


@dataclass
class _Grid:
    """The largest totals (draws, BINS) of what is chosen so far, by the choices that later stages have as well.

    ``taken``: of each stage, by those choices, the steps, and which of them came to each total (draws, BINS).
    """

    totals: dict[Path, np.ndarray]
    taken: list[tuple[Stage, dict[Path, tuple[list[_Step], np.ndarray]]]]

    def take(self, stage: Stage, spent: Sequence[int], draws: Sequence[Sequence[np.ndarray]]) -> None:
        rows = {group: np.array([draw[group] for draw in draws]) for group in stage.new}
        reached, best = dict[Path, np.ndarray](), dict[Path, tuple[list[_Step], np.ndarray]]()
        for before, totals in self.totals.items():
            for choices, place, behind in stage.options(before):
                if spent[place] >= BINS:
                    continue
                if behind not in reached:
                    reached[behind] = np.full_like(totals, -np.inf)
                    best[behind] = [], np.zeros(totals.shape, dtype=np.int16)
                own = np.zeros(len(totals))
                for group, choice in zip(stage.new, choices, strict=True):
                    own = own + rows[group][:, choice]
                self._better(totals, own, _Step(before, choices, spent[place]), reached[behind], *best[behind])
        self.totals = reached
        self.taken.append((stage, best))

    @staticmethod
    def _better(
        totals: np.ndarray, own: np.ndarray, step: _Step, reached: np.ndarray, steps: list[_Step], best: np.ndarray
    ) -> None:
        gains = totals[:, : BINS - step.spent] + np.reshape(own, (-1, 1))
        is_better = gains > reached[:, step.spent :]
        reached[:, step.spent :][is_better] = gains[is_better]
        best[:, step.spent :][is_better] = len(steps)
        steps.append(step)

    def walked_back(self, draw: int, n_groups: int, first: int, last: int) -> Path | None:
        """The choices that come to the largest total in bins ``first`` to ``last``; None where nothing does."""
        totals = self.totals.get((), np.full((draw + 1, BINS), -np.inf))[draw]
        if first > last or not np.isfinite(totals[first : last + 1]).any():
            return None
        place, state = first + int(np.argmax(totals[first : last + 1])), ()
        path = [0] * n_groups
        for stage, best in reversed(self.taken):
            steps, which = best[state]
            state, choices, spent = steps[int(which[draw, place])]
            place -= spent
            for group, choice in zip(stage.new, choices, strict=True):
                path[group] = choice
        return tuple(path)


def check_limits(limits: Sequence[Limit], matches: Sequence[Match] = ()) -> None:
    """Raises InputError, as ``project`` does, when nothing is within all limits."""
    rows = _checked([np.zeros(len(group)) for group in limits[0].table.groups], limits)
    program = _program(Lifted(limits[0].table), rows, limits, matches)
    with _settling(limits):
        if program.solve_or_held(program.gains, [], []) is None:
            raise _none_within(program)


def _checked(log_probs: Sequence[np.ndarray], limits: Sequence[Limit]) -> list[np.ndarray]:
    if not limits:
        raise InputError("expected at least one limit", "limits")
    sizes = [len(group) for group in limits[0].table.groups]
    if any([len(group) for group in limit.table.groups] != sizes for limit in limits):
        raise InputError("expected tables of the same groups", "limits")
    together = [tuple(part.groups for part in limit.table.parts) for limit in limits]
    if any(each != together[0] for each in together):
        raise InputError("expected tables whose terms are of the same groups", "limits")
    if len(log_probs) != len(sizes):
        raise InputError(f"expected {len(sizes)} groups, got {len(log_probs)}", "log_probs")
    rows = []
    for index, (values, size) in enumerate(zip(log_probs, sizes, strict=True)):
        row = np.asarray(values, dtype=np.float64)
        if row.shape != (size,):
            raise InputError(f"expected {size} numbers, got shape {row.shape}", f"log_probs[{index}]")
        if np.isnan(row).any() or np.isposinf(row).any():
            raise InputError("expected numbers below infinity, got NaN or infinity", f"log_probs[{index}]")
        rows.append(row)
    return rows


def projection_of(rows: Sequence[np.ndarray], limits: Sequence[Limit], path: Path) -> Projection:
    """``path`` as what is chosen within ``limits``, by log-probabilities ``rows``."""
    return Projection(
        path=path,
        costs=tuple(limit.table.of_path(path) for limit in limits),
        log_prob=math.fsum(float(row[choice]) for row, choice in zip(rows, path, strict=True)),
        n_changed_from_argmax=sum(int(np.argmax(row)) != choice for row, choice in zip(rows, path, strict=True)),
    )


class _UnsettledError(Exception):
    """The solver stopped at MAX_NODES, or MAX_CUTS solutions were just outside a limit.

    ``held``: choices within all limits and rows that were found by then; None: none.
    """

    def __init__(self, held: Path | None) -> None:
        super().__init__("given up")
        self.held = held


@contextlib.contextmanager
def _settling(limits: Sequence[Limit]) -> Iterator[None]:
    try:
        yield
    except _UnsettledError:
        what = " and ".join(limit.exact for limit in limits)
        problem = f"whether a network costs {what} could not be settled; set another target or limit"
        raise InputError(problem, limits[0].flag) from None


def _program(
    lifted: Lifted, rows: list[np.ndarray], limits: Sequence[Limit], matches: Sequence[Match], *, prunes: bool = False
) -> _Program:
    """``prunes``: without the choices that, by a bound, no network as probable as one that is known can have."""
    if lifted.is_plain:
        return _Program(rows, tuple(limits), tuple(matches))
    if matches:
        raise ValueError("groups of a table with terms match by its terms")
    within = tuple(replace(limit, table=lifted.table(limit.table)) for limit in limits)
    same = tuple(Match(groups, labels) for groups, labels in lifted.matches)
    is_open = None
    if prunes and not any(np.isneginf(row).any() for row in rows):
        (known,) = project_draws([rows], limits[0])
        if known is not None and all(limit.holds(known) for limit in limits):
            least = math.fsum(float(row[choice]) for row, choice in zip(rows, known, strict=True))
            is_open = lifted.reaching(least, rows, limits[0].lower, limits[0].upper)
    likely = [_as_the_likeliest(row) for row in rows]
    return _Program(lifted.rows(likely), within, same, is_open, lifted.rows(_zeros_of(rows)))


def _as_the_likeliest(row: np.ndarray) -> np.ndarray:
    """``row``, where a choice of probability 0 loses nothing: it is counted instead."""
    known = row[~np.isneginf(row)]
    return np.where(np.isneginf(row), known.max() if known.size else 0.0, row)


def _zeros_of(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """1 for a choice of probability 0."""
    return [np.isneginf(row).astype(float) for row in rows]


@dataclass(frozen=True)
class _Row:
    """``low <= values @ x <= high`` over the 0/1 variables."""

    values: np.ndarray
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class _Program:
    """The knapsack over 0/1 variables, the choices of all groups in a row."""

    log_probs: list[np.ndarray]
    limits: tuple[Limit, ...]
    matches: tuple[Match, ...] = ()
    is_open: np.ndarray | None = field(default=None, compare=False)
    """Which variables may be 1; None: all."""
    zeros: Sequence[np.ndarray] | None = field(default=None, compare=False)
    """How many choices of probability 0 each choice stands for; None: one each of -inf."""

    @cached_property
    def starts(self) -> list[int]:
        """The first variable of every group, and behind them the number of all."""
        return [0, *itertools.accumulate(map(len, self.log_probs))]

    @cached_property
    def one_each(self) -> list[_Row]:
        rows = []
        for start, end in itertools.pairwise(self.starts):
            values = np.zeros(self.starts[-1])
            values[start:end] = 1
            rows.append(_Row(values, 1, 1))
        return rows

    @cached_property
    def matched(self) -> list[_Row]:
        """For each match and label as many choices with it in the one group as in the other."""
        rows = []
        for match in self.matches:
            for label in dict.fromkeys((*match.labels[0], *match.labels[1])):
                values = np.zeros(self.starts[-1])
                for group, labels, sign in zip(match.groups, match.labels, (1, -1), strict=True):
                    values[self.starts[group] : self.starts[group + 1]] += sign * np.array(
                        [each == label for each in labels]
                    )
                rows.append(_Row(values, 0, 0))
        return rows

    @cached_property
    def within(self) -> list[_Row]:
        """The limits, costs above those of each group's cheapest choice and scaled."""
        rows = []
        for limit in self.limits:
            values, base, scale = _scaled_costs(limit.table)
            low, high = _within_steps(limit) or ((bound - base) * scale for bound in (limit.lower, limit.upper))
            rows.append(_Row(values, low, high))
        return rows

    @cached_property
    def well_within(self) -> list[_Row]:
        """The limits, so much narrower that the solver's tolerance does not lead outside them."""
        return [_Row(row.values, row.low + INSIDE, row.high - INSIDE) for row in self.within]

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is within all limits, by its exact costs."""
        return all(limit.holds(path) for limit in self.limits)

    @cached_property
    def banned(self) -> np.ndarray:
        return np.concatenate(self.zeros if self.zeros is not None else _zeros_of(self.log_probs))

    @cached_property
    def gains(self) -> np.ndarray:
        """log p below each group's largest, scaled; 0 for a choice of probability 0."""
        finite = [np.where(np.isneginf(row), np.nan, row) for row in self.log_probs]
        tops = [np.nan if np.isnan(row).all() else np.nanmax(row) for row in finite]
        below = np.nan_to_num(np.concatenate([row - top for row, top in zip(finite, tops, strict=True)]), nan=0.0)
        return below * (SPAN / max(-below.min(), np.finfo(float).tiny)) if below.any() else below

    def best(self, apart_from: Sequence[Path] = (), settles_ties: bool = True) -> Path | None:
        """The most probable choices within the limits, the first in index order of equals where ``settles_ties``;
        None where there are none but ``apart_from``."""
        cuts = [self.no_good(path) for path in apart_from]
        rows: list[_Row] = []
        if self.banned.any():
            fewest = self.solve_or_held(self.banned, [], cuts)
            if fewest is None:
                return None
            rows = [_Row(self.banned, high=self.total(self.banned, fewest))]
        found = self.solve_or_held(-self.gains, rows, cuts)
        if found is None or not settles_ties:
            return found
        try:
            return self.first_of_equals(found, rows, cuts)
        except _UnsettledError:
            return found

    def first_of_equals(self, found: Path, rows: list[_Row], cuts: list[_Row]) -> Path:
        """The first in index order of those as probable as ``found``. Raises _UnsettledError."""
        equal = _Row(self.gains, self.total(self.gains, found) - TIE * SPAN)
        if self.solve(np.zeros(self.starts[-1]), [*rows, equal, self.no_good(found)], cuts) is None:
            return found
        rows = [*rows, equal]
        for first in range(0, len(self.log_probs), DIGITS):
            last = min(first + DIGITS, len(self.log_probs))
            weights, weight = np.zeros(self.starts[-1]), 1.0
            for group in reversed(range(first, last)):
                size = len(self.log_probs[group])
                weights[self.starts[group] : self.starts[group + 1]] = weight * np.arange(size)
                weight *= size
            better = self.solve(weights, rows, cuts)
            assert better is not None  # ``found`` is one
            found = better
            rows = [*rows, *(_Row(self.one(group, found[group]), 1, 1) for group in range(first, last))]
        return found

    def total(self, values: np.ndarray, path: Path) -> float:
        """The sum of the chosen variables' ``values``."""
        return math.fsum(values[start + choice] for start, choice in zip(self.starts[:-1], path, strict=True))

    def one(self, group: int, choice: int) -> np.ndarray:
        values = np.zeros(self.starts[-1])
        values[self.starts[group] + choice] = 1
        return values

    def no_good(self, path: Path) -> _Row:
        """Anything but ``path``."""
        values = sum(self.one(group, choice) for group, choice in enumerate(path))
        return _Row(np.asarray(values), -np.inf, len(path) - 1)

    def solve_or_held(self, objective: np.ndarray, rows: Sequence[_Row], cuts: list[_Row]) -> Path | None:
        """As ``solve``, but what it holds when it is given up. Raises _UnsettledError where that is nothing."""
        try:
            return self.solve(objective, rows, cuts)
        except _UnsettledError as error:
            if error.held is None:
                raise
            return error.held

    def solve(self, objective: np.ndarray, rows: Sequence[_Row], cuts: list[_Row]) -> Path | None:
        """The choices within the limits and ``rows`` that minimize ``objective``; what is outside the limits by less
        than the solver's tolerance is added to ``cuts``. None where there are none; raises _UnsettledError."""
        for _ in range(MAX_CUTS):
            path = self.solve_once(objective, [*self.within, *rows, *cuts])
            if path is None or self.holds(path):
                return path
            cuts.append(self.no_good(path))
        inside = self.solve_once(objective, [*self.well_within, *rows, *cuts])
        raise _UnsettledError(inside if inside is not None and self.holds(inside) else None)

    def solve_once(self, objective: np.ndarray, rows: Sequence[_Row]) -> Path | None:
        """By the solver's tolerance. None where there are none; raises _UnsettledError, holding what is exact."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        every = [*self.one_each, *self.matched, *rows]
        done = milp(
            objective,
            integrality=np.ones(self.starts[-1]),
            bounds=Bounds(0, 1 if self.is_open is None else self.is_open.astype(float)),
            constraints=LinearConstraint(
                np.array([row.values for row in every]), [row.low for row in every], [row.high for row in every]
            ),
            options={"mip_rel_gap": 0.0, "node_limit": MAX_NODES},
        )
        if done.status == 2:  # infeasible
            return None
        path = None if done.x is None else self.chosen(done.x)
        if done.status != 0:
            raise _UnsettledError(path if path is not None and self.holds(path) else None)
        return path

    def chosen(self, x: np.ndarray) -> Path:
        return tuple(int(np.argmax(values)) for values in np.split(x, self.starts[1:-1]))

    def nearest(self, limit: Limit, others: Sequence[Limit]) -> list[float]:
        """Costs by ``limit.table`` just outside ``limit``, below and above it, of what keeps to the other limits."""
        program = _Program(self.log_probs, tuple(others), self.matches)
        values, base, scale = _scaled_costs(limit.table)
        sides = [(-values, _Row(values, high=(limit.lower - base) * scale)),
                 (values, _Row(values, low=(limit.upper - base) * scale))]  # fmt: skip
        found = []
        for objective, side in sides:
            try:
                path = program.solve(objective, [side], [])
            except _UnsettledError:  # what it holds need not be the nearest
                continue
            found += [limit.table.of_path(path)] if path is not None else []
        return found


@lru_cache(maxsize=16)  # of the tables and limits that many programs share
def _scaled_costs(table: CostTable) -> tuple[np.ndarray, float, float]:
    """(costs of all choices above the cheapest of their group, scaled; the cheapest network's cost; the scale)."""
    excess = np.concatenate([np.asarray(group) - min(group) for group in table.groups])
    highest = sum(max(group) - min(group) for group in table.groups)
    scale = SPAN / highest if highest > 0 else 1.0
    return excess * scale, table.minimum, scale


@lru_cache(maxsize=16)
def _within_steps(limit: Limit) -> tuple[float, float] | None:
    """The bounds on scaled costs above the cheapest, in the middle between those that exist, where all are multiples
    of one step that the solver can tell from 0; None where they are not. Exact, and rounded as ``of_path`` rounds."""
    groups = [[Fraction(cost) for cost in group] for group in limit.table.groups]
    excess = [cost - min(group) for group in groups for cost in group]
    highest = sum((max(group) - min(group) for group in groups), Fraction(0))
    parts = math.lcm(*(cost.denominator for cost in excess))
    step = Fraction(math.gcd(*(int(cost * parts) for cost in excess)), parts)
    if not step or highest / step > MAX_STEPS:
        return None
    base = Fraction(limit.table.fixed) + sum(map(min, groups))
    steps = range(int(highest / step) + 1)

    def cost(step_index: int) -> float:
        return float(base + step_index * step)

    first, end = bisect.bisect_left(steps, limit.lower, key=cost), bisect.bisect_right(steps, limit.upper, key=cost)
    width = SPAN * float(step / highest)
    return (first - 0.5) * width, (end - 0.5) * width


def _none_within(program: _Program) -> InputError:
    first, *others = program.limits
    beside = "".join(f" with {limit}" for limit in others)
    nearest = [first.table.shown(cost, math.ceil) for cost in program.nearest(first, others)]
    problem = f"no network of this space costs {first}{beside}"
    if nearest:
        problem += f"; the nearest that exist cost {' and '.join(nearest)}: set the target to one of these"
    return InputError(problem, first.flag)
