"""What each choice that a trained network leaves (proxyless_arch/space/shrinking.py) costs.

Groups are independent: what a choice of one costs does not depend on the others, so a cost table over groups x choices
is exact, and so is the projection on it (hardware/projection.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hardware.cost import CostTable, Price
from proxyless_arch.arch.shrink import Shrunk, shrink
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import walk
from proxyless_arch.space.shrinking import Group

LEAST_MS = 1e-6
"""What the cheapest network is priced at, at least."""


def price_groups(spec: ArchSpec, groups: Sequence[Group], price: Price) -> CostTable:
    """Every choice of every group, priced layer by layer. Raises InputError where a layer has no price."""
    chosen = {name for group in groups for name in group.layers}
    calls = walk(spec)

    def cost(group: Group, change: Shrunk) -> float:
        return math.fsum(price.of(call) for call in walk(shrink(spec, change)) if call.name in group.layers)

    return CostTable(
        fixed=math.fsum((price.offset, *(price.of(call) for call in calls if call.name not in chosen))),
        groups=tuple(tuple(cost(group, change) for change in group.choices) for group in groups),
        unit=price.unit,
        source=price.source,
        extrapolated=price.warnings(calls),
    )


def rising(table: CostTable, groups: Sequence[Group]) -> CostTable:
    """Prices that were measured, without what is only noise in them: no width costs less than a narrower one, and no
    layer or network less than nothing. Dips are what an exact projection would choose.

    Isotonic regression along one width after the other, twice; then the running maximum.
    """
    found = tuple(_rising(costs, group) for costs, group in zip(table.groups, groups, strict=True))
    return replace(table, fixed=max(table.fixed, LEAST_MS - math.fsum(map(min, found))), groups=found)


def _rising(costs: Sequence[float], group: Group) -> tuple[float, ...]:
    from scipy.optimize import isotonic_regression

    shape = [len(axis.options) for axis in group.axes]
    kept = math.prod(shape)  # behind them the block left out
    found = np.maximum(costs, 0.0)
    inside = found[:kept].reshape(shape)
    widths = [place for place, axis in enumerate(group.axes) if axis.kind == "width"]
    for place in 2 * widths:
        inside = np.apply_along_axis(lambda row: isotonic_regression(row).x, place, inside)
    for place in widths:
        inside = np.maximum.accumulate(inside, axis=place)
    return (*map(float, inside.ravel()), *map(float, found[kept:]))
