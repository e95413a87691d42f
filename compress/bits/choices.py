"""The formats that each layer may have, what each costs, and which inputs must have the same.

Costs are sums over layers, exactly: bytes, simulated cycles, and milliseconds that were measured layer by layer. The
inputs that skips join have one activation format: ties between groups, which the projection knows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hardware.cost import CostTable, Path
from hardware.projection import Limit, Match
from hardware.simulators import Simulator
from proxyless_arch.arch.bits import (
    IMAGE_LAYER,
    BitLayer,
    BitPlan,
    Format,
    Range,
    bit_layers,
    check_folds,
    count_weights,
    ties,
)
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit


@dataclass(frozen=True)
class BitGroup:
    """A layer and the formats that it may have, the fewest bits first."""

    layer: BitLayer
    formats: tuple[Format, ...]

    @property
    def whole(self) -> int:
        """The format of the most bits."""
        return len(self.formats) - 1

    def nearest(self, format: Format) -> int:
        """The choice that is ``format``, or that without the input where that is never quantized."""
        wanted = (format, replace(format, activation_bits=None))
        return next(index for index, each in enumerate(self.formats) if each in wanted)


def groups_of(spec: ArchSpec, formats: Sequence[Format], *, image: bool) -> tuple[BitGroup, ...]:
    """Every layer with every format; the input of the first one is quantized only with ``image``.

    Raises InputError for a network that no plan is made for.
    """
    check_folds(spec)
    ordered = sorted(dict.fromkeys(formats), key=_bits)
    plain = tuple(dict.fromkeys(replace(each, activation_bits=None) for each in ordered))
    return tuple(
        BitGroup(layer, plain if layer.name == IMAGE_LAYER and not image else tuple(ordered))
        for layer in bit_layers(spec)
    )


def _bits(format: Format) -> tuple[float, float]:
    return format.weight_bits or math.inf, format.activation_bits or math.inf


def matches_of(spec: ArchSpec, groups: Sequence[BitGroup]) -> tuple[Match, ...]:
    """One for each pair of neighbours along a chain of skips."""
    places = {group.layer.name: index for index, group in enumerate(groups)}

    def labels(index: int) -> tuple[int | None, ...]:
        return tuple(format.activation_bits for format in groups[index].formats)

    pairs = [(places[one], places[other]) for chain in ties(spec) for one, other in itertools.pairwise(chain)]
    return tuple(Match(pair, (labels(pair[0]), labels(pair[1]))) for pair in pairs)


def settled(path: Path, groups: Sequence[BitGroup], joined: Sequence[Match]) -> Path:
    """``path`` with the activations of every chain those of its first layer."""
    found = list(path)
    for match in joined:  # in network order
        one, other = match.groups
        bits = match.labels[0][found[one]]
        format = replace(groups[other].formats[found[other]], activation_bits=bits)  # type: ignore[arg-type]
        if format not in groups[other].formats:  # {float32, W8A8}: the weights follow
            format = groups[other].formats[match.labels[1].index(bits)]
        found[other] = groups[other].formats.index(format)
    return tuple(found)


def plan_of(
    spec: ArchSpec, groups: Sequence[BitGroup], path: Path, ranges: Mapping[tuple[str, int], Range], quantizer: str
) -> BitPlan:
    """What the choices come to. ``ranges``: by layer and activation bits."""
    formats = {group.layer.name: group.formats[choice] for group, choice in zip(groups, path, strict=True)}
    used = {
        name: ranges[name, format.activation_bits]
        for name, format in formats.items()
        if format.activation_bits is not None
    }
    return BitPlan(network=spec.name, formats=formats, ranges=used, quantizer=quantizer, n_weights=count_weights(spec))


# ------------------------------------------------------------------------------------------------------------ costs


def priced(
    groups: Sequence[BitGroup], price: Callable[[BitLayer, Format], float], unit: Unit, source: str, fixed: float = 0.0
) -> CostTable:
    """Every format of every layer."""
    costs = tuple(tuple(price(group.layer, format) for format in group.formats) for group in groups)
    return CostTable(fixed, costs, unit, source)


def bytes_table(groups: Sequence[BitGroup]) -> CostTable:
    return priced(groups, BitLayer.n_bytes, Unit.BYTES, "weights, biases and scales, counted")


def simulated_table(groups: Sequence[BitGroup], simulator: Simulator) -> CostTable:
    return priced(groups, simulator.ms, Unit.SIMULATED_MS, simulator.source)


def nearest_path(groups: Sequence[BitGroup], format: Format) -> Path:
    """One format for all layers."""
    return tuple(group.nearest(format) for group in groups)


def uniform_path(groups: Sequence[BitGroup], limits: Sequence[Limit]) -> Path:
    """One format for all layers: the most expensive one that keeps to all limits. Raises InputError."""
    table = limits[0].table
    paths = [nearest_path(groups, format) for format in groups[-1].formats]
    for path in sorted(paths, key=table.of_path, reverse=True):
        if all(limit.holds(path) for limit in limits):
            return path
    raise InputError(f"no uniform format keeps to {' and '.join(map(str, limits))}", limits[0].flag)
