"""What every choice of a search space costs, so that the cost of any path and the expected cost are sums.

Cost is additive over blocks: a block's input size does not depend on the choices before it. So with edge
probabilities p the expectation E[cost] = fixed + sum_b sum_j p_bj * c_bj is exact (Cai, Zhu, Han, ICLR 2019,
section 4.2, eq. 6-7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from hardware.latency import LatencySource
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import Path, SearchSpace

Unit = Literal["ms", "MACs"]
DEFAULT_TARGET_SHARE = 0.7  # of the expected cost at uniform probabilities: 80 ms in the ImageNet space on a Pixel 1


@dataclass(frozen=True)
class CostTable:
    """Costs of a search space in ``unit``.

    ``fixed``: what every network of the space pays (stem, first block, feature mix, classifier, calibration offset).
    ``per_edge[b][j]``: choice ``j`` of searched block ``b``. ``source``: where the numbers come from.
    ``extrapolated``: one line per layer whose price lies outside the data behind it.
    """

    fixed: float
    per_edge: tuple[tuple[float, ...], ...]
    unit: Unit
    source: str
    extrapolated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(self.per_edge):
            raise InputError("expected at least one choice per block", f"per_edge[{self.per_edge.index(())}]")
        if not all(map(math.isfinite, (self.fixed, *(cost for edges in self.per_edge for cost in edges)))):
            raise InputError("expected finite costs", "per_edge")

    @property
    def n_blocks(self) -> int:
        return len(self.per_edge)

    def of_path(self, path: Path) -> float:
        """The cost of one network, as the correctly rounded sum of its parts (independent of their order)."""
        if len(path) != self.n_blocks:
            raise InputError(f"expected {self.n_blocks} choices, got {len(path)}", "path")
        for index, (choice, edges) in enumerate(zip(path, self.per_edge, strict=True)):
            if not 0 <= choice < len(edges):
                raise InputError(f"expected 0..{len(edges) - 1}, got {choice}", f"path[{index}]")
        return math.fsum((self.fixed, *(edges[j] for edges, j in zip(self.per_edge, path, strict=True))))

    def expected(self, probabilities: Sequence[np.ndarray]) -> float:
        """E[cost] when each block's choice is drawn independently with ``probabilities[b]``."""
        if len(probabilities) != self.n_blocks:
            raise InputError(f"expected {self.n_blocks} blocks, got {len(probabilities)}", "probabilities")
        parts = [self.fixed]
        for index, (weights, edges) in enumerate(zip(probabilities, self.per_edge, strict=True)):
            values = np.asarray(weights, dtype=np.float64)
            if values.shape != (len(edges),):
                raise InputError(f"expected {len(edges)} numbers, got shape {values.shape}", f"probabilities[{index}]")
            parts.extend(values * np.asarray(edges))
        return math.fsum(parts)

    @cached_property
    def min_path(self) -> Path:
        """The cheapest network; the first of equal choices."""
        return tuple(edges.index(min(edges)) for edges in self.per_edge)

    @cached_property
    def max_path(self) -> Path:
        """The dearest network; the first of equal choices."""
        return tuple(edges.index(max(edges)) for edges in self.per_edge)

    @cached_property
    def minimum(self) -> float:
        return self.of_path(self.min_path)

    @cached_property
    def maximum(self) -> float:
        return self.of_path(self.max_path)

    @cached_property
    def uniform_expected(self) -> float:
        """E[cost] when every choice of a block is equally likely: where a search starts."""
        return self.expected([np.full(len(edges), 1 / len(edges)) for edges in self.per_edge])

    def scaled(self, factor: float) -> CostTable:
        """The same table with every cost times ``factor``, for example measured over predicted ms of a derived net."""
        if not (math.isfinite(factor) and factor > 0):
            raise InputError(f"expected a number above 0, got {factor!r}", "factor")
        per_edge = tuple(tuple(cost * factor for cost in edges) for edges in self.per_edge)
        return replace(self, fixed=self.fixed * factor, per_edge=per_edge, source=f"{self.source}, times {factor:g}")

    def shown(self, cost: float, rounding: Callable[[float], int] = round) -> str:
        """A cost with its unit for a person: ``80.132 ms``, ``320,427,584 MACs``.

        ``rounding`` (floor, ceil) keeps a limit that is copied from a message on the right side of the limit.
        """
        return shown_cost(cost, self.unit, rounding)

    @property
    def reachable(self) -> str:
        """The range of costs for a person, rounded inwards: both ends, as printed, can be asked for."""
        return f"{self.shown(self.minimum, math.ceil)} to {self.shown(self.maximum, math.floor)}"


def shown_cost(cost: float, unit: str, rounding: Callable[[float], int] = round) -> str:
    """See CostTable.shown."""
    if unit == "MACs":
        return f"{rounding(cost):,} MACs"
    step = 10.0 ** (math.floor(math.log10(abs(cost))) - 4) if cost else 1.0
    return f"{rounding(cost / step) * step:.5g} ms"


def _table(
    space: SearchSpace,
    price: Callable[[LayerCall], float],
    unit: Unit,
    source: str,
    offset: float = 0.0,
    reasons: Callable[[LayerCall], tuple[str, ...]] = lambda call: (),
) -> CostTable:
    fixed, edges = space.fixed_calls, space.edge_calls
    lines = dict.fromkeys(
        f"{call.name}: {reason}"
        for call in (*fixed, *(call for block in edges for call in block))
        for reason in reasons(call)
    )
    return CostTable(
        fixed=math.fsum((offset, *map(price, fixed))),
        per_edge=tuple(tuple(map(price, block)) for block in edges),
        unit=unit,
        source=source,
        extrapolated=tuple(lines),
    )


def latency_cost_table(space: SearchSpace, source: LatencySource) -> CostTable:
    """Every choice of ``space`` in ms by ``source``. Raises InputError when a layer has no price."""
    return _table(space, source.price_ms, "ms", source.source, source.offset_ms, source.extrapolated)


def macs_cost_table(space: SearchSpace) -> CostTable:
    """Every choice of ``space`` in multiply-accumulates per image (integers, exact as floats)."""
    return _table(space, lambda call: float(call.macs), "MACs", "counted")


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
