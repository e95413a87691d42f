"""What prices the layers of a pruned network in ms, and the machine it is measured on.

A pruning needs the price of widths that no table of a search space holds. So this machine is priced by the predictor
that its profile fits (predictor.json beside table.json), and the network is measured: where it is off, the prices are
rescaled by measured over predicted, and the network is chosen again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.config import PruneConfig
from hardware.latency import LatencySource, load_latency_source, shipped
from hardware.predictor import Predictor
from hardware.profile import device as profiler
from hardware.profile.device import ProfileSettings
from hardware.profile.measure import Runtime, parse_hardware, runtime_named
from hardware.profile.profiling import Anchor, Measured, measure_network
from hardware.profile.trust import anchor_of, check_passed, check_trusted
from hardware.table import LookupTable
from proxyless_arch.arch.spec import ArchSpec, imagenet_preprocessing
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.progress import speak
from proxyless_arch.base.strict import judged_at
from proxyless_arch.space.mbconv import macro_named, mbconv_space


@dataclass
class Device:
    """A runtime of this machine, the network of the search space that others are timed beside, and its time when the
    prices were measured (None: not known)."""

    runtime: Runtime
    anchor: Anchor
    reference_ms: float | None = None

    def time(self, calls: Sequence[LayerCall]) -> Measured:
        """A network's ms, measured once."""
        return measure_network(self.anchor, calls, self.reference_ms)


def profile_settings(config: PruneConfig, resolution: int) -> ProfileSettings:
    """What makes the predictor of this machine at a resolution."""
    return ProfileSettings(
        target_hardware="cpu", runtime=config.runtime, threads=config.latency_threads, resolution=resolution
    )


def latency_source(config: PruneConfig, spec: ArchSpec, measure: bool) -> tuple[LatencySource | None, Device | None]:
    """(what prices layers; the device to measure on, for cpu). Both None for flops.

    The device is None when the file given is of another one: then a network is priced by it and not measured.

    Args:
        measure: profile this machine now where that was not done yet; else that is an InputError.

    Raises:
        InputError: a file given that was made under other conditions (batch, resolution, threads, runtime, dtype), or
            that did not pass its validation, unless --force_latency_table.
    """
    given = config.latency_table
    if config.target_hardware == "flops":
        return None, None
    wanted: dict[str, Any] = {"batch_size": 1, "dtype": "float32", "resolution": spec.resolution}
    if config.target_hardware == "mobile":
        if given is None:
            return shipped("pixel1"), None
        source = load_latency_source(given)
        _check(config, source, given, wanted)
        return source, None
    with judged_at("", {"--threads": "--latency_threads"}):
        runtime = runtime_named(parse_hardware("cpu"), config.runtime, config.latency_threads)
    settings, facts = profile_settings(config, spec.resolution), runtime.facts()
    path = Path(given) if given is not None else _predictor(settings, runtime, measure)
    source = load_latency_source(path)
    is_here = source.provenance.get("device") == facts["device"]
    used = {name: facts[name] for name in ("runtime", "threads")} if is_here else {"runtime": config.runtime}
    if given is None:
        _say_what_speaks_against(source, str(path))
    else:
        _check(config, source, given, wanted | used)
    if not is_here:
        return source, None
    space = mbconv_space(macro=macro_named(settings.space), preprocessing=imagenet_preprocessing(spec.resolution))
    return source, Device(runtime, *anchor_of(runtime, space, 1, source))


def _check(config: PruneConfig, source: LookupTable | Predictor, path: str, wanted: dict[str, Any]) -> None:
    if not config.force_latency_table:
        check_trusted(source, path, wanted)


def _say_what_speaks_against(source: LookupTable | Predictor, path: str) -> None:
    """This machine's own model orders plans; what a network takes is measured, and chosen again where that is off. So
    one that did not pass its validation is told of and used."""
    try:
        check_passed(source, path)
    except InputError as error:
        reasons = error.problem.partition(";")[0]
        speak(f"note: this machine's latency model {reasons}; networks are measured, and chosen again where it is off")


def _predictor(settings: ProfileSettings, runtime: Runtime, measure: bool) -> Path:
    """The file of this machine's predictor, measured now where there is none and ``measure`` allows it."""
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
    return path
