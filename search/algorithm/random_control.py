"""Random networks of a given cost: the baseline that a search must beat."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hardware.cost import CostTable
from hardware.projection import LOWER, Limit, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import Path

BINS = 4096
MAX_DRAWS_PER_NETWORK = 2000
GIVE_UP = 20  # draws for each network found, all of them known already
MIN_NETWORKS = 100  # counted with at least in GIVE_UP


def sample_at_cost(
    table: CostTable,
    target: float,
    count: int,
    rng: np.random.Generator,
    lower: float = LOWER,
    limits: Sequence[Limit] = (),
) -> list[Path]:
    """``count`` different networks, uniform over those whose cost lies in [lower * target, target] and ``limits``.

    Raises InputError when fewer than ``count`` are found in ``MAX_DRAWS_PER_NETWORK`` draws for each.
    """
    asked = [window(table, target, lower), *limits]
    found: dict[Path, None] = {}
    for path in itertools.islice(draws_at_cost(asked, rng), count * MAX_DRAWS_PER_NETWORK):
        if path is not None:
            found[path] = None
            if len(found) == count:
                return list(found)
    raise InputError(
        f"found {len(found)} different networks between {table.shown(lower * target)} and {table.shown(target)}"
        f"{''.join(f' with {limit}' for limit in limits)}, requested {count}",
        "--n_archs",
    )


def sample_up_to(limits: Sequence[Limit], count: int, rng: np.random.Generator) -> list[Path]:
    """At most ``count`` different networks, uniform over those within ``limits``; fewer where no more turn up.

    The search for another one is given up after so many draws without it that a single one left over would have been
    found but for one chance in e^20.
    """
    found: dict[Path, None] = {}
    missed = 0
    for path in draws_at_cost(limits, rng):
        if path is not None and path not in found:
            found[path] = None
            missed = 0
        else:
            missed += 1
        if len(found) == count or missed > GIVE_UP * max(len(found), MIN_NETWORKS):
            break
    return list(found)


def draws_at_cost(limits: Sequence[Limit], rng: np.random.Generator) -> Iterator[Path | None]:
    """Networks, uniform over those within ``limits``, without end; None for a draw that is not within them.

    The number of completions of every partial path is counted on a grid of the first limit's costs; a path is then
    drawn block by block in proportion to them, and kept when its exact costs lie within the limits. The window on the
    grid is wider than the exact one by all that rounding can add up to (half a bin per block), so that no network
    inside is left out. Nothing is drawn where the grid's window is empty. Choices that cost something together are
    counted for each choice that they share with what comes behind.
    """
    limit = limits[0]
    parts, stages = limit.table.parts, limit.table.stages
    floor = limit.table.fixed + sum(part.costs.min() for part in parts)
    target = min(limit.upper, limit.table.maximum)
    width = max(target - floor, 1e-12 * max(target, 1.0)) / (BINS - 1)
    steps = [np.rint((part.costs - part.costs.min()) / width).astype(np.int64).ravel() for part in parts]
    # the grid window is a little wider than the real one: every part may have been rounded by half a bin
    slack = len(parts) // 2 + 1
    size = BINS + slack
    low = max(0, int(np.floor((max(limit.lower, floor) - floor) / width)) - slack)

    # ways[p][state][s]: log number of completions from part p on, behind ``state``, when s bins are spent before it
    last = np.full(size, -np.inf)
    last[low:] = 0.0
    ways: list[dict[Path, np.ndarray]] = [{(): last}]
    for stage, spent in zip(reversed(stages), reversed(steps), strict=True):
        found = {}
        for state in _states(stage.before, limit.table):
            total = found[state] = np.full(size, -np.inf)
            for _, place, behind in stage.options(state):
                if (step := spent[place]) < size:
                    total[: size - step] = np.logaddexp(total[: size - step], ways[0][behind][step:])
        ways.insert(0, found)

    while np.isfinite(ways[0][()][0]):
        used, state, path = 0, (), [0] * limit.table.n_groups
        for stage, spent, rest in zip(stages, steps, ways[1:], strict=True):
            options = list(stage.options(state))
            ends = [(behind, used + spent[place]) for _, place, behind in options]
            logits = np.array([rest[behind][end] if end < size else -np.inf for behind, end in ends])
            shares = np.cumsum(np.exp(logits - logits.max()))
            index = int(np.searchsorted(shares / shares[-1], rng.random(), side="right"))
            for group, choice in zip(stage.new, options[index][0], strict=True):
                path[group] = choice
            state, used = ends[index][0], int(ends[index][1])
        drawn = tuple(path)
        yield drawn if all(limit.holds(drawn) for limit in limits) else None


def _states(groups: Sequence[int], table: CostTable) -> Iterator[Path]:
    """All choices of some groups."""
    return itertools.product(*(range(len(table.groups[group])) for group in groups))
