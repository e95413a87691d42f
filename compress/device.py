"""What prices the layers of a pruned network in ms, and the machine it is measured on.

A pruning needs the price of widths that no table of a search space holds. So this machine is priced by the predictor
that its profile fits (predictor.json beside table.json), and the network is measured: where it is off, the prices are
rescaled by measured over predicted, and the network is chosen again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.config import PruneConfig
from hardware.latency import LatencySource, load_latency_source, shipped
from hardware.profile import device as profiler
from hardware.profile.device import ProfileSettings
from hardware.profile.measure import Runtime, parse_hardware, runtime_named
from hardware.profile.profiling import Anchor, Measured, measure_network
from proxyless_arch.arch.spec import ArchSpec, imagenet_preprocessing
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.progress import speak
from proxyless_arch.base.strict import judged_at
from proxyless_arch.space.mbconv import macro_named, mbconv_space


@dataclass
class Device:
    """A runtime of this machine, and the network of the search space that others are timed beside."""

    runtime: Runtime
    anchor: Anchor

    def time(self, calls: Sequence[LayerCall]) -> Measured:
        """A network's ms, measured once."""
        return measure_network(self.anchor, calls)


def profile_settings(config: PruneConfig, resolution: int) -> ProfileSettings:
    """What makes the predictor of this machine at a resolution."""
    return ProfileSettings(
        target_hardware="cpu", runtime=config.runtime, threads=config.latency_threads, resolution=resolution
    )


def latency_source(config: PruneConfig, spec: ArchSpec, measure: bool) -> tuple[LatencySource | None, Device | None]:
    """(what prices layers; the device to measure on, for cpu). Both None for flops.

    Args:
        measure: profile this machine now where that was not done yet; else that is an InputError.
    """
    given = config.latency_table
    if config.target_hardware == "flops":
        return None, None
    source = load_latency_source(given) if given is not None else None
    if config.target_hardware == "mobile":
        return source or shipped("pixel1"), None
    with judged_at("", {"--threads": "--latency_threads"}):
        runtime = runtime_named(parse_hardware("cpu"), config.runtime, config.latency_threads)
    settings = profile_settings(config, spec.resolution)
    space = mbconv_space(macro=macro_named(settings.space), preprocessing=imagenet_preprocessing(spec.resolution))
    return source or _predictor(settings, runtime, measure), Device(runtime, Anchor(runtime, space, 1))


def _predictor(settings: ProfileSettings, runtime: Runtime, measure: bool) -> LatencySource:
    folder = profiler.default_output(profiler.conditions_of(settings) | runtime.facts())
    path = Path(folder) / "predictor.json"
    if not path.is_file():
        if not measure:
            raise InputError(f"this machine was not profiled yet: {settings.command()}", "--target_hardware")
        speak(f"no latency model of this machine yet: measuring one now, some minutes (once)\n  {settings.command()}")
        speak(profiler.profile_device(settings, runtime, speak).summary())
    if not path.is_file():
        raise InputError(
            "the profile of this machine gave no predictor: measure it again on a quiet machine", "", str(folder)
        )
    return load_latency_source(path)
