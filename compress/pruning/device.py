"""What prices the layers of a pruned network in ms, and the machine it is measured on.

A pruning needs the price of widths that no table of a search space holds. So this machine is priced by the predictor
that its profile fits (predictor.json beside table.json), and the network is measured: where it is off, the prices are
rescaled by measured over predicted, and the network is chosen again.
"""

from __future__ import annotations

from compress.pruning.config import PruneConfig
from hardware.latency import LatencySource
from hardware.profile import pricing
from hardware.profile.device import ProfileSettings
from hardware.profile.pricing import Asked, Bench
from proxyless_arch.arch.spec import ArchSpec, imagenet_preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.progress import speak
from proxyless_arch.base.sides import in_words
from proxyless_arch.space.mbconv import macro_named, mbconv_space

PREDICTOR = "predictor.json"


def profile_settings(config: PruneConfig, resolution: int) -> ProfileSettings:
    """What makes the predictor of this machine at a resolution."""
    return ProfileSettings(
        target_hardware="cpu", runtime=config.runtime, threads=config.latency_threads, resolution=resolution
    )


def latency_source(config: PruneConfig, spec: ArchSpec, measure: bool) -> tuple[LatencySource | None, Bench | None]:
    """(what prices layers; where networks are timed, for cpu). Both None for flops.

    The second is None when the file given is of another device: then a network is priced by it and not measured.

    Args:
        measure: profile this machine now where that was not done yet; else that is an InputError.

    Raises:
        InputError: as pricing.priced does; and images that are no squares.
    """
    if isinstance(spec.resolution, tuple):
        if config.target_hardware == "flops":
            return None, None
        problem = (
            f"latencies are those of squares, not of {in_words(spec.resolution)} pixels; flops counts MACs instead"
        )
        raise InputError(problem, "--target_hardware")
    flags, settings = Asked.by(config), profile_settings(config, spec.preprocessing.side)
    if pricing.missing(flags, settings, PREDICTOR):
        _profile(flags, settings, measure)
    found = pricing.priced(flags, spec.preprocessing.side, settings, PREDICTOR, judge=pricing.tell_what_speaks_against)
    if found.device is None or found.source is None:
        return found.source, None
    images = imagenet_preprocessing(spec.preprocessing.side)
    space = mbconv_space(macro=macro_named(settings.space), preprocessing=images)
    return found.source, found.device.bench(space, found.source)


def _profile(flags: Asked, settings: ProfileSettings, measure: bool) -> None:
    if not measure:
        raise InputError(f"this machine was not profiled yet: {settings.command()}", "--target_hardware")
    device = pricing.device_of(flags)
    assert device is not None
    device.profile(settings, "latency model", speak)
    if pricing.missing(flags, settings, PREDICTOR):
        folder = str(device.kept_in(settings))
        raise InputError(
            "the profile of this machine gave no predictor: measure it again on a quiet machine", "", folder
        )
