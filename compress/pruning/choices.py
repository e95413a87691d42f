"""What each choice that a trained network leaves (proxyless_arch/space/shrinking.py) costs.

Groups are independent: what a choice of one costs does not depend on the others, so a cost table over groups x choices
is exact, and so is the projection on it (hardware/projection.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hardware.cost import CostTable, Price
from proxyless_arch.arch.shrink import Shrunk, shrink
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import walk
from proxyless_arch.space.shrinking import Group


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
