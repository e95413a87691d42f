"""What prices the layers of a pruned network in ms, and the machine it is measured on.

A pruning needs the price of widths that no table of a search space holds. So a table is made of what this network's
own layers may become. A network of which none can be made (one without a feature mix) is priced by the predictor that a
profile of the imagenet space fits. The network is measured: where it is off, the prices are rescaled by measured over
predicted, and the network is chosen again.
"""

from __future__ import annotations

from dataclasses import replace

from compress.pruning.config import PruneConfig
from hardware.latency import LatencySource
from hardware.profile import pricing
from hardware.profile.device import ProfileSettings, subject_of
from hardware.profile.pricing import Asked, Bench
from hardware.table import layer_key
from proxyless_arch.arch.spec import ArchSpec, imagenet_preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.progress import speak
from proxyless_arch.base.sides import in_words
from proxyless_arch.space.mbconv import macro_named, mbconv_space
from proxyless_arch.space.shrinking import groups_of, layers_of

TABLE, PREDICTOR = "table.json", "predictor.json"


def own_profiles(config: PruneConfig, spec: ArchSpec) -> tuple[ProfileSettings, ProfileSettings]:
    """What measures the layers that may be made of the network: usually, and with the widths of these settings."""
    usual = replace(_usual_profile(config, spec), parent=str(config.arch))
    return usual, replace(usual, width_multiple=config.width_multiple, smallest_width=config.smallest_width)


def _usual_profile(config: PruneConfig, spec: ArchSpec) -> ProfileSettings:
    side, threads = spec.preprocessing.side, config.latency_threads
    return ProfileSettings(target_hardware="cpu", runtime=config.runtime, threads=threads, resolution=side)


def profile_settings(config: PruneConfig, spec: ArchSpec) -> tuple[ProfileSettings, str]:
    """(what measures this machine, which of its files prices what this run may make of the network)."""
    if config.arch is not None and config.latency_table is None and Asked.by(config).is_measurable:
        for own in own_profiles(config, spec):
            if _has_all(own, config, spec):
                return own, TABLE
    return _usual_profile(config, spec), PREDICTOR


def _has_all(own: ProfileSettings, config: PruneConfig, spec: ArchSpec) -> bool:
    try:
        measured = subject_of(own).more
    except InputError:  # not of a network without a feature mix, or of whose blocks none can become smaller
        return False
    return set(map(layer_key, layers_of(spec, groups_of(spec, config.freedom)))) <= set(map(layer_key, measured))


def unmeasured(config: PruneConfig, spec: ArchSpec) -> ProfileSettings | None:
    """What would measure this machine first; None where that was done, or nothing is measured."""
    if isinstance(spec.resolution, tuple):  # which has no latency
        return None
    return pricing.missing(Asked.by(config), *profile_settings(config, spec))


def latency_source(config: PruneConfig, spec: ArchSpec) -> tuple[LatencySource | None, Bench | None]:
    """(what prices layers; where networks are timed, for cpu). Both None for flops. This machine is profiled now where
    that is needed and was not done yet: see ``unmeasured``.

    The second is None when the file given is of another device: then a network is priced by it and not measured.

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
    flags, (settings, name) = Asked.by(config), profile_settings(config, spec)
    if pricing.missing(flags, settings, name):
        _profile(flags, settings, name)
    found = pricing.priced(flags, spec.preprocessing.side, settings, name, judge=pricing.tell_what_speaks_against)
    if found.device is None or found.source is None:
        return found.source, None
    images = imagenet_preprocessing(spec.preprocessing.side)
    space = mbconv_space(macro=macro_named(settings.space), preprocessing=images)
    return found.source, found.device.bench(space, found.source)


def _profile(flags: Asked, settings: ProfileSettings, name: str) -> None:
    device = pricing.device_of(flags)
    assert device is not None
    device.profile(settings, "latency table" if name == TABLE else "latency model", speak)
    if pricing.missing(flags, settings, name):
        folder = str(device.kept_in(settings))
        raise InputError(
            "the profile of this machine gave no predictor: measure it again on a quiet machine", "", folder
        )
