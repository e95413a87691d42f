"""Random networks of a given cost: the baseline that a search must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hardware.cost import CostTable
from hardware.projection import LOWER, Limit, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import Path

BINS = 4096
MAX_DRAWS_PER_NETWORK = 2000


def sample_at_cost(
    table: CostTable,
    target: float,
    count: int,
    rng: np.random.Generator,
    lower: float = LOWER,
    limits: Sequence[Limit] = (),
) -> list[Path]:
    """``count`` different networks, uniform over those whose cost lies in [lower * target, target] and ``limits``.

    The number of completions of every partial path is counted on a grid of costs; a path is then drawn block by block
    in proportion to them, and kept when its exact costs lie in the window and the limits. The window on the grid is
    wider than the exact one by all that rounding can add up to (half a bin per block), so that no network inside is
    left out.

    Raises InputError when fewer than ``count`` are found in ``MAX_DRAWS_PER_NETWORK`` draws for each.
    """
    inside = window(table, target, lower)
    edges = [np.asarray(costs) for costs in table.groups]
    floor = table.fixed + sum(costs.min() for costs in edges)
    width = max(target - floor, 1e-12 * max(target, 1.0)) / (BINS - 1)
    steps = [np.rint((costs - costs.min()) / width).astype(np.int64) for costs in edges]
    # the grid window is a little wider than the real one: every block may have been rounded by half a bin
    slack = len(edges) // 2 + 1
    size = BINS + slack
    low = max(0, int(np.floor((lower * target - floor) / width)) - slack)

    # ways[b][s]: log number of completions from block b on when s bins are spent before it
    ways = np.full((len(edges) + 1, size), -np.inf)
    ways[-1, low:] = 0.0
    for block in range(len(edges) - 1, -1, -1):
        for step in steps[block]:
            if step < size:
                ways[block, : size - step] = np.logaddexp(ways[block, : size - step], ways[block + 1, step:])

    found: dict[Path, None] = {}
    for _ in range(count * MAX_DRAWS_PER_NETWORK if np.isfinite(ways[0, 0]) else 0):
        spent, path = 0, []
        for block, options in enumerate(steps):
            logits = np.array([ways[block + 1, spent + step] if spent + step < size else -np.inf for step in options])
            weights = np.exp(logits - logits.max())
            choice = int(rng.choice(len(options), p=weights / weights.sum()))
            path.append(choice)
            spent += int(options[choice])
        if all(limit.holds(tuple(path)) for limit in (inside, *limits)):
            found[tuple(path)] = None
            if len(found) == count:
                return list(found)
    raise InputError(
        f"found {len(found)} different networks between {table.shown(lower * target)} and {table.shown(target)}"
        f"{''.join(f' with {limit}' for limit in limits)}, requested {count}",
        "--n_archs",
    )
