"""What choices cost: the same for every stage that chooses, be it operations, widths or bits.

Cost is additive: what a choice of one group costs does not depend on the other groups (in a search space a block's
input size does not depend on the choices before it). So with probabilities p the expectation
E[cost] = fixed + sum_g sum_j p_gj * c_gj is exact (Cai, Zhu, Han, ICLR 2019, section 4.2, eq. 6-7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, total_ordering

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
class CostTable:
    """Costs in ``unit`` of everything there is to choose.

    ``fixed``: what is paid whatever is chosen (of a network: stem, first block, feature mix, classifier, calibration
    offset). ``groups[g][j]``: choice ``j`` of group ``g``. ``source``: where the numbers come from.
    ``extrapolated``: one line per layer whose price lies outside the data behind it.
    """

    fixed: float
    groups: tuple[tuple[float, ...], ...]
    unit: Unit
    source: str
    extrapolated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(self.groups):
            raise InputError("expected at least one choice per group", f"groups[{self.groups.index(())}]")
        if not all(map(math.isfinite, (self.fixed, *(cost for group in self.groups for cost in group)))):
            raise InputError("expected finite costs", "groups")

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
        return math.fsum((self.fixed, *(group[j] for group, j in zip(self.groups, path, strict=True))))

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
        return math.fsum(parts)

    @cached_property
    def min_path(self) -> Path:
        """The cheapest; the first of equal choices."""
        return tuple(group.index(min(group)) for group in self.groups)

    @cached_property
    def max_path(self) -> Path:
        """The most expensive; the first of equal choices."""
        return tuple(group.index(max(group)) for group in self.groups)

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
        return replace(self, fixed=self.fixed * factor, groups=groups, source=f"{self.source}, times {factor:g}")

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
    fixed, groups = space.fixed_calls, space.edge_calls
    return CostTable(
        fixed=math.fsum((price.offset, *map(price.of, fixed))),
        groups=tuple(tuple(map(price.of, group)) for group in groups),
        unit=price.unit,
        source=price.source,
        extrapolated=price.warnings((*fixed, *(call for group in groups for call in group))),
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
