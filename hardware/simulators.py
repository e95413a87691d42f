"""What a layer costs on chips that compute with few bits, by published models of them: simulated, and called so.

Nothing that can be installed runs a convolution below 8 bits; these models are how HAQ was given "hardware feedback".

* BISMO (Umuroglu et al., FPL 2018), bit-serial: an array of ``rows x depth x columns`` makes that many products of one
  bit in a cycle, a product of w and a bits takes w * a of them. Fetching weights, fetching activations and writing
  results overlap with it: the slowest counts.
* BitFusion (Sharma et al., ISCA 2018), spatial: a unit of 8 x 8 bits splits into 4 of 4 x 4 or 16 of 2 x 2: 3 bits cost
  as much as 4, and 5 as much as 8. Fetching from memory overlaps.

Sizes are those of the papers' edge chips. What is left out: filling pipelines, tiles that do not fit a buffer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxyless_arch.arch.bits import BitLayer, Format

FLOAT_AS = 8
"""Bits of what is not quantized: of the image, which has 8."""
ACCUMULATOR_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Simulator(ABC):
    """A chip. ``bits``: what weights and activations may have on it; ``mhz``: its clock."""

    name: str
    bits: tuple[int, ...]
    mhz: float
    fetch_bits: int

    @property
    def source(self) -> str:
        """For every line that shows a number of it."""
        return f"simulated, not measured: {self.description}"

    @property
    @abstractmethod
    def description(self) -> str: ...

    @abstractmethod
    def compute_cycles(self, layer: BitLayer, weight_bits: int, activation_bits: int, batch: int) -> float:
        """Of the multiplications alone."""

    def cycles(self, layer: BitLayer, format: Format, batch: int = 1) -> float:
        """The slowest of computing, fetching weights, fetching activations and writing results."""
        weight_bits, activation_bits = format.weight_bits or FLOAT_AS, format.activation_bits or FLOAT_AS
        moved = (
            layer.n_weights * weight_bits,
            batch * math.prod(layer.conv.in_hwc) * activation_bits,
            batch * math.prod(layer.conv.out_hwc) * activation_bits,
        )
        fetching = (math.ceil(bits / self.fetch_bits) for bits in moved)
        return max(self.compute_cycles(layer, weight_bits, activation_bits, batch), *fetching)

    def ms(self, layer: BitLayer, format: Format) -> float:
        """Simulated ms of one image."""
        return self.cycles(layer, format) / (1e3 * self.mhz)


def products(layer: BitLayer, batch: int) -> tuple[int, int, int, int]:
    """(matrix products, rows, depth, columns) that a layer is: a depthwise one is a product for each channel."""
    pixels = batch * math.prod(layer.conv.out_hwc[:2])
    if layer.is_depthwise:
        return layer.shape[0], pixels, math.prod(layer.shape[1:]), 1
    return 1, pixels, math.prod(layer.shape[1:]), layer.shape[0]


@dataclass(frozen=True, kw_only=True)
class Bismo(Simulator):
    rows: int
    depth: int
    columns: int

    @property
    def description(self) -> str:
        return f"{self.name}, {self.rows} x {self.depth} x {self.columns} one-bit products per cycle, {self.mhz:g} MHz"

    def compute_cycles(self, layer: BitLayer, weight_bits: int, activation_bits: int, batch: int) -> float:
        count, rows, depth, columns = products(layer, batch)
        tiles = math.ceil(rows / self.rows) * math.ceil(depth / self.depth) * math.ceil(columns / self.columns)
        return count * tiles * weight_bits * activation_bits


@dataclass(frozen=True, kw_only=True)
class BitFusion(Simulator):
    rows: int
    columns: int

    @property
    def description(self) -> str:
        return f"{self.name}, {self.rows} x {self.columns} units of 8 x 8 bits, {self.mhz:g} MHz"

    def compute_cycles(self, layer: BitLayer, weight_bits: int, activation_bits: int, batch: int) -> float:
        parts = math.prod(8 // _fused(bits) for bits in (weight_bits, activation_bits))
        count, rows, depth, columns = products(layer, batch)
        return count * rows * math.ceil(columns / self.columns) * math.ceil(depth / (self.rows * parts))


def _fused(bits: int) -> int:
    """The bits that a unit computes with: 2, 4, 8 (16 takes several passes and is not modeled)."""
    return next(width for width in (2, 4, 8) if bits <= width)


SIMULATORS: Mapping[str, Simulator] = MappingProxyType(
    {
        "bismo": Bismo(name="BISMO", bits=tuple(range(2, 9)), mhz=200.0, fetch_bits=64, rows=8, depth=256, columns=8),
        "bitfusion": BitFusion(name="BitFusion", bits=(2, 4, 8), mhz=500.0, fetch_bits=192, rows=16, columns=32),
    }
)
