"""Plans within the limits, by the method that the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.config import PruneConfig
from compress.methods import Found, Tell, exact, random, uniform
from compress.pruning.amc import amc
from compress.pruning.environment import Environment
from hardware.cost import CostTable
from hardware.projection import Limit
from proxyless_arch.data.streams import Stream, numpy_rng


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
