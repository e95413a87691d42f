"""Plans within the limits, by the method that the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.methods import Found, Tell, exact, random
from compress.pruning.amc import amc
from compress.pruning.config import PruneConfig
from compress.pruning.environment import Environment
from hardware.cost import CostTable, Path
from hardware.projection import Limit
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.space.shrinking import Group


def plans(
    config: PruneConfig,
    environment: Environment,
    limits: Sequence[Limit],
    tables: Mapping[str, CostTable],
    tell: Tell = lambda found: None,
) -> list[Found]:
    """All that were scored. ``tables``: what a plan costs in macs and params, for AMC's rewards by them.

    Raises InputError when nothing keeps to the limits.
    """
    rng, count = numpy_rng(config.manual_seed, Stream.PRUNING_CHOICE), config.evaluations
    match config.method:
        case "exact":
            return exact(environment, limits, count, rng, tell)
        case "random":
            return random(environment, limits, count, rng, tell)
        case "uniform":
            return uniform(environment, limits, tell)
        case _:
            return amc(
                environment, environment.pruner.spec, limits, count, config.manual_seed, tell,
                reward=config.reward, tables=tables, as_released=config.as_released, lower=config.smallest_width,
            )  # fmt: skip


def uniform_path(groups: Sequence[Group], limits: Sequence[Limit]) -> Path:
    """Every width at the same share of what it was, the largest that keeps to all limits; kernels and blocks stay.

    Raises InputError when not even the smallest widths do.
    """
    shares = sorted({option / axis.options[-1] for group in groups for axis in group.axes for option in axis.options})
    for share in reversed(shares):
        path = tuple(group.index(_at_share(group, share)) for group in groups)
        if all(limit.holds(path) for limit in limits):
            return path
    raise InputError(f"no uniform width keeps to {' and '.join(map(str, limits))}", limits[0].flag)


def _at_share(group: Group, share: float) -> list[int]:
    """The widths nearest to the share, kernels as they are."""
    found = []
    for axis in group.axes:
        last = len(axis.options) - 1
        near = min(
            range(last + 1), key=lambda place, axis=axis: (abs(axis.options[place] - share * axis.options[-1]), place)
        )  # type: ignore[misc]
        found.append(near if axis.kind == "width" else last)
    return found


def uniform(environment: Environment, limits: Sequence[Limit], tell: Tell) -> list[Found]:
    path = uniform_path(environment.groups, limits)
    found = Found(path, environment.score(path))
    tell(found)
    return [found]
