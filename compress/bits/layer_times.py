"""Milliseconds of each layer in float32 and in int8: measured on this machine, or brought back from another device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.bits.choices import BitGroup, priced
from compress.bits.config import RUNTIMES, BitsConfig
from hardware.cost import CostTable
from hardware.profile.exported_layers import export_layers, read_layer_times
from hardware.profile.layer_times import Times, time_layers
from proxyless_arch.arch.bits import BitLayer, Format, bit_layers
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import cpu_name
from proxyless_arch.base.progress import speak
from proxyless_arch.base.units import Unit
from proxyless_arch.weights.lookup import find_network


def measured_table(groups: Sequence[BitGroup], config: BitsConfig) -> CostTable:
    """Every layer in float32 and W8A8, in ms. Raises InputError for a runtime that is not installed, or a table that
    lacks a row."""
    times, where = _times([group.layer for group in groups], config)

    def price(layer: BitLayer, format: Format) -> float:
        return times[layer.name, format.activation_bits is not None]  # stored weights run as float32

    return priced(groups, price, Unit.MS, f"measured layer by layer with {config.hardware}, {where}")


def _times(layers: Sequence[BitLayer], config: BitsConfig) -> tuple[Times, str]:
    """(ms of each layer, where they were measured)."""
    if config.latency_table is not None:
        table, command = Path(config.latency_table), " ".join(_exporting(config, "layers/"))
        times, facts = read_layer_times(table, layers, config.hardware, command)
        return times, f"threads: {facts.get('threads', 'not known')}, {facts.get('device', 'another device')}"
    speak(f"timing {len(layers)} layers in float32 and int8 with {config.hardware}")
    times = time_layers(layers, config.hardware, config.latency_threads, speak)
    return times, f"threads: {config.latency_threads}, {cpu_name()}"


def _exporting(config: BitsConfig, folder: str) -> tuple[str, ...]:
    return "quantize.py", "--arch", str(config.arch), "--hardware", config.hardware, "--export_layers", folder


def write_layers(config: BitsConfig, folder: Path) -> str:
    """Write the layers of the network for another device; returns what to do there and then, for a person.

    Raises InputError for hardware that is no runtime, or a folder that is not empty.
    """
    if config.hardware not in RUNTIMES:
        raise InputError(
            f"--hardware {' or '.join(RUNTIMES)} has files to time, got {config.hardware}", "--export_layers"
        )
    count = export_layers(folder, bit_layers(find_network(str(config.arch), "--arch")[0]), config.hardware)
    flags = ("--hardware", config.hardware, "--target_latency_ms", "MS")
    results = str(folder / f"results-{config.hardware}.csv")
    then = command_line("quantize.py", "--arch", str(config.arch), *flags, "--latency_table", results)
    return (
        f"{count} files in {folder}. On the device: python {folder.name}/run.py --runtime {config.hardware}\n"
        f"Bring the results back into the folder, then\n  {then}"
    )
