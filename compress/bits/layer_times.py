"""Milliseconds of each layer in float32 and in int8: measured on this machine once, and kept."""

from __future__ import annotations

from collections.abc import Sequence

from compress.bits.choices import BitGroup, priced
from compress.bits.config import BitsConfig
from hardware.cost import CostTable
from hardware.profile.layer_times import time_layers
from proxyless_arch.arch.bits import BitLayer, Format
from proxyless_arch.base.machine import cpu_name
from proxyless_arch.base.progress import speak
from proxyless_arch.base.units import Unit


def measured_table(groups: Sequence[BitGroup], config: BitsConfig) -> CostTable:
    """Every layer in float32 and W8A8, in ms. Raises InputError for a runtime that is not installed."""
    speak(f"timing {len(groups)} layers in float32 and int8 with {config.hardware}")
    times = time_layers([group.layer for group in groups], config.hardware, config.latency_threads, speak)

    def price(layer: BitLayer, format: Format) -> float:
        return times[layer.name, format.activation_bits is not None]  # stored weights run as float32

    source = f"measured layer by layer with {config.hardware}, threads: {config.latency_threads}, {cpu_name()}"
    return priced(groups, price, Unit.MS, source)
