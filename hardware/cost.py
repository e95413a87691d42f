"""What choices cost: the same for every stage that chooses, be it operations, widths or bits.

Cost is a sum over groups: what a choice costs does not depend on the other groups (in a search space a block's input
size does not depend on the choices before it). So with probabilities p the expectation
E[cost] = fixed + sum_g sum_j p_gj * c_gj is exact (Cai, Zhu, Han, ICLR 2019, section 4.2, eq. 6-7).

Where a choice does change what others cost, as a width does of the blocks that have it, they cost something together: a
Term. The expectation stays exact, and so does the cheapest network: terms are taken in turn, and what is kept of those
before is the best for each choice that a later one asks for (dynamic programming).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, total_ordering
from typing import NamedTuple

import numpy as np

from hardware.latency import LatencySource
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from proxyless_arch.space.search_space import SearchSpace

Path = tuple[int, ...]  # the chosen index of every group
DEFAULT_TARGET_SHARE = 0.7  # of the expected cost at uniform probabilities: 79 ms in the ImageNet space on a Pixel 1


@total_ordering
@dataclass(frozen=True)
class Cost:
    """A number with its unit: ``Cost(78.0, Unit.MS) < Cost(80.0, Unit.MS)``, and a TypeError in another unit."""

    value: float
    unit: Unit

    def __str__(self) -> str:
        return self.unit.exact(self.value)

    def __lt__(self, other: Cost) -> bool:
        if self.unit is not other.unit:
            raise TypeError(f"expected {self.unit}, got {other.unit}")
        return self.value < other.value

    def rounded(self, rounding: Callable[[float], int]) -> str:
        """For a person, rounded up or down (math.ceil, math.floor): a limit that is copied stays a limit."""
        return self.unit.exact(self.value, rounding)


@dataclass(frozen=True)
class Term:
    """What choices of several groups cost together: ``costs`` of all combinations, those of the last group fastest."""

    groups: tuple[int, ...]
    costs: tuple[float, ...]


class Part(NamedTuple):
    """What the choices of ``groups`` add to the cost: ``costs[j, k, ...]``."""

    groups: tuple[int, ...]
    costs: np.ndarray


class Stage(NamedTuple):
    """A part in its place among all, in whose order they are summed.

    ``before``, ``behind``: the groups that parts before it have as well, and those of all up to it that later ones
    have. ``new``: its groups that no part before it has.
    """

    part: Part
    before: tuple[int, ...]
    new: tuple[int, ...]
    behind: tuple[int, ...]

    def options(self, state: Path) -> Iterator[tuple[Path, int, Path]]:
        """With choices ``state`` of the groups ``before``: each choice of the new ones, where the part's costs have it
        (flat), and what is then chosen of the groups ``behind``."""
        groups, shape = self.part.groups, self.part.costs.shape
        chosen = dict(zip(self.before, state, strict=True))
        for choices in itertools.product(*(range(shape[groups.index(group)]) for group in self.new)):
            chosen |= zip(self.new, choices, strict=True)
            place = int(np.ravel_multi_index(tuple(chosen[group] for group in groups), shape))
            yield choices, place, tuple(chosen[group] for group in self.behind)


@dataclass(frozen=True)
class CostTable:
    """Costs in ``unit`` of everything there is to choose.

    ``fixed``: what is paid whatever is chosen (of a network: stem, first block, feature mix, classifier, calibration
    offset). ``groups[g][j]``: choice ``j`` of group ``g``. ``source``: where the numbers come from.
    ``extrapolated``: one line per layer whose price lies outside the data behind it. ``terms``: what choices of
    different groups cost together, beside that.
    """

    fixed: float
    groups: tuple[tuple[float, ...], ...]
    unit: Unit
    source: str
    extrapolated: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        if not all(self.groups):
            raise InputError("expected at least one choice per group", f"groups[{self.groups.index(())}]")
        if not all(map(math.isfinite, (self.fixed, *(cost for group in self.groups for cost in group)))):
            raise InputError("expected finite costs", "groups")
        for index, term in enumerate(self.terms):
            size = math.prod(len(self.groups[group]) for group in term.groups)
            if len(term.costs) != size or not all(map(math.isfinite, term.costs)):
                raise InputError(f"expected {size} finite costs", f"terms[{index}]")

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The terms, with them what their groups cost alone (in the first that has them), and the groups of none."""
        left = {group: np.asarray(costs, dtype=np.float64) for group, costs in enumerate(self.groups)}
        found = []
        for term in self.terms:
            shape = tuple(len(self.groups[group]) for group in term.groups)
            costs = np.array(term.costs).reshape(shape)
            for axis, group in enumerate(term.groups):
                alone = left.pop(group, np.zeros(shape[axis]))
                costs = costs + alone.reshape([-1 if each == axis else 1 for each in range(len(shape))])
            found.append(Part(term.groups, costs))
        return (*found, *(Part((group,), costs) for group, costs in left.items()))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The parts in their order, each with the groups that it shares with others."""
        found, seen = [], set[int]()
        for index, part in enumerate(self.parts):
            later = {group for other in self.parts[index + 1 :] for group in other.groups}
            before = tuple(sorted(seen & {*part.groups, *later}))
            new = tuple(group for group in part.groups if group not in seen)
            seen |= {*part.groups}
            found.append(Stage(part, before, new, tuple(sorted(seen & later))))
        return tuple(found)

    @property
    def n_groups(self) -> int:
        return len(self.groups)

    def of_path(self, path: Path) -> float:
        """What these choices cost, as the correctly rounded sum of its parts (independent of their order)."""
        if len(path) != self.n_groups:
            raise InputError(f"expected {self.n_groups} choices, got {len(path)}", "path")
        for index, (choice, group) in enumerate(zip(path, self.groups, strict=True)):
            if not 0 <= choice < len(group):
                raise InputError(f"expected 0..{len(group) - 1}, got {choice}", f"path[{index}]")
        together = (term.costs[self._place(term, path)] for term in self.terms)
        return math.fsum((self.fixed, *(group[j] for group, j in zip(self.groups, path, strict=True)), *together))

    def _place(self, term: Term, path: Path) -> int:
        place = 0
        for group in term.groups:
            place = place * len(self.groups[group]) + path[group]
        return place

    def of_paths(self, paths: np.ndarray) -> np.ndarray:
        """As of_path, of many (n, groups) at once: rounded in the order in which they are added up."""
        total = np.full(len(paths), self.fixed)
        for part in self.parts:
            total += part.costs[tuple(paths[:, group] for group in part.groups)]
        return total

    def expected(self, probabilities: Sequence[np.ndarray]) -> float:
        """E[cost] when each group's choice is drawn independently with ``probabilities[g]``."""
        if len(probabilities) != self.n_groups:
            raise InputError(f"expected {self.n_groups} groups, got {len(probabilities)}", "probabilities")
        parts = [self.fixed]
        for index, (weights, group) in enumerate(zip(probabilities, self.groups, strict=True)):
            values = np.asarray(weights, dtype=np.float64)
            if values.shape != (len(group),):
                raise InputError(f"expected {len(group)} numbers, got shape {values.shape}", f"probabilities[{index}]")
            parts.extend(values * np.asarray(group))
        for term in self.terms:
            together = np.ones(1)
            for number in term.groups:
                together = np.multiply.outer(together, probabilities[number])
            parts.extend(together.ravel() * np.array(term.costs))
        return math.fsum(parts)

    @cached_property
    def min_path(self) -> Path:
        """The cheapest; the first of equal choices."""
        return self._cheapest(1.0) if self.terms else tuple(group.index(min(group)) for group in self.groups)

    @cached_property
    def max_path(self) -> Path:
        """The most expensive; the first of equal choices."""
        return self._cheapest(-1.0) if self.terms else tuple(group.index(max(group)) for group in self.groups)

    def _cheapest(self, sign: float) -> Path:
        """Of least ``sign`` times the cost: for each choice that later parts ask for, the best of the parts before."""
        best: dict[Path, tuple[float, dict[int, int]]] = {(): (0.0, {})}
        for stage in self.stages:
            costs, reached = sign * stage.part.costs.ravel(), dict[Path, tuple[float, dict[int, int]]]()
            for state, (total, chosen) in best.items():
                for choices, place, behind in stage.options(state):
                    cost = total + costs[place]
                    if behind not in reached or cost < reached[behind][0]:
                        reached[behind] = cost, {**chosen, **dict(zip(stage.new, choices, strict=True))}
            best = reached
        chosen = best[()][1]
        return tuple(chosen[group] for group in range(self.n_groups))

    @cached_property
    def minimum(self) -> float:
        return self.of_path(self.min_path)

    @cached_property
    def maximum(self) -> float:
        return self.of_path(self.max_path)

    @cached_property
    def uniform_expected(self) -> float:
        """E[cost] when every choice of a group is equally likely: where a search starts."""
        return self.expected([np.full(len(group), 1 / len(group)) for group in self.groups])

    def scaled(self, factor: float) -> CostTable:
        """The same table with every cost times ``factor``, for example measured over predicted ms of a derived net."""
        if not (math.isfinite(factor) and factor > 0):
            raise InputError(f"expected a number above 0, got {factor!r}", "factor")
        groups = tuple(tuple(cost * factor for cost in group) for group in self.groups)
        terms = tuple(Term(term.groups, tuple(cost * factor for cost in term.costs)) for term in self.terms)
        return replace(
            self, fixed=self.fixed * factor, groups=groups, terms=terms, source=f"{self.source}, times {factor:g}"
        )

    def shown(self, cost: float, rounding: Callable[[float], int] = round) -> str:
        """A cost with its unit for a person: ``80.132 ms``, ``320,427,584 MACs``."""
        return Cost(cost, self.unit).rounded(rounding)

    @property
    def reachable(self) -> str:
        """The range of costs for a person, rounded inwards: both ends, as printed, can be asked for."""
        return f"{self.shown(self.minimum, math.ceil)} to {self.shown(self.maximum, math.floor)}"


# Prices -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """What layers cost: ``of(call)`` in ``unit``, and of a whole network ``offset`` beside them, once.

    ``source``: where the numbers come from. ``extrapolated(call)``: why a price lies outside the data behind it.
    """

    of: Callable[[LayerCall], float]
    unit: Unit
    source: str
    offset: float = 0.0
    extrapolated: Callable[[LayerCall], tuple[str, ...]] = lambda call: ()

    def costs(self, calls: Iterable[LayerCall]) -> list[float]:
        """Of each layer and behind them, where it is not 0, the offset: what adds up to the network's cost.

        Raises InputError where a layer has no price.
        """
        return [*map(self.of, calls), *([self.offset] if self.offset else [])]

    def warnings(self, calls: Iterable[LayerCall]) -> tuple[str, ...]:
        """A line for each layer whose price is extrapolated."""
        lines = (f"{call.name}: {reason}" for call in calls for reason in self.extrapolated(call))
        return tuple(dict.fromkeys(lines))


MACS = Price(lambda call: float(call.macs), Unit.MACS, "counted")
"""Multiply-accumulates per image: integers, exact as floats."""
PARAMS = Price(lambda call: float(call.params), Unit.PARAMS, "counted")
"""Trainable parameters: integers, exact as floats."""


def latency_price(source: LatencySource) -> Price:
    """ms by a table or a predictor, which raises InputError for a layer that it cannot price."""
    return Price(source.price_ms, Unit.MS, source.source, source.offset_ms, source.extrapolated)


def price_by(source: LatencySource | None) -> Price:
    """ms by ``source``; where there is none, MACs."""
    return MACS if source is None else latency_price(source)


def price_space(space: SearchSpace, price: Price) -> CostTable:
    """Every choice of ``space``, priced layer by layer. Raises InputError where a layer has no price."""
    if space.widths:
        return _price_together(space, price)
    fixed, groups = space.fixed_calls, space.edge_calls
    return CostTable(
        fixed=math.fsum((price.offset, *map(price.of, fixed))),
        groups=tuple(tuple(map(price.of, group)) for group in groups),
        unit=price.unit,
        source=price.source,
        extrapolated=price.warnings((*fixed, *(call for group in groups for call in group))),
    )


def _price_together(space: SearchSpace, price: Price) -> CostTable:
    """Where widths are chosen: a term for each layer that they, or a choice of its own, change."""
    fixed, together = space.fixed_calls, space.priced_together
    return CostTable(
        fixed=math.fsum((price.offset, *map(price.of, fixed))),
        groups=tuple((0.0,) * size for size in space.sizes),
        unit=price.unit,
        source=price.source,
        extrapolated=price.warnings((*fixed, *(call for each in together for call in each.calls))),
        terms=tuple(Term(each.entries, tuple(map(price.of, each.calls))) for each in together),
    )


# Targets ------------------------------------------------------------------------------------------------------------


def check_target(target: float, table: CostTable, flag: str = "--target") -> float:
    """``target`` itself; InputError naming the reachable range when no network of the space can cost that."""
    if table.minimum <= target <= table.maximum:
        return target
    problem = f"this search space reaches {table.reachable} ({table.source})"
    if not math.isfinite(target):
        raise InputError(f"{problem}, got {target!r}; set {flag} within that", flag)
    change = "a smaller" if target < table.minimum else "a larger"
    raise InputError(
        f"{problem}, got {table.shown(target)}; set {flag} within that, or search {change} space (width, resolution)",
        flag,
    )


def default_target(table: CostTable) -> float:
    """0.7 x the expected cost at uniform probabilities, to 2 significant digits, within the reachable range."""
    rounded = float(f"{DEFAULT_TARGET_SHARE * table.uniform_expected:.1e}")
    return min(max(rounded, table.minimum), table.maximum)
