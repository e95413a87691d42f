"""What the flags of a search say of its device, in the words of hardware/profile/pricing.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardware.profile import pricing
from hardware.profile.device import ProfileSettings, subject_of
from hardware.profile.pricing import Asked, Priced, tell_what_speaks_against
from hardware.profile.trust import check_trusted
from proxyless_arch.arch.spec import imagenet_preprocessing
from proxyless_arch.space.mbconv import mbconv_space
from proxyless_arch.space.named import TIMED
from proxyless_arch.space.search_space import SearchSpace
from search.config import Target


def has_table(space: SearchSpace) -> bool:
    """Whether a table can hold its layers: of the named spaces, not of what is left of a trained network."""
    return space.name in TIMED


def own_file(space: SearchSpace) -> str:
    """The file of this device's that prices a space."""
    return "table.json" if has_table(space) or not space.shares_weights else "predictor.json"


def timed_space(target: Target, space: SearchSpace, parent: str | None = None) -> SearchSpace:
    """The space whose networks those of ``space`` are timed beside, as its profile has it: itself, but for one whose
    layers no table holds."""
    if parent is not None:
        subject = subject_of(profile_settings(target, space, parent))
        return replace(subject.space, name=subject.name)
    if own_file(space) == "table.json":
        return space
    return mbconv_space(preprocessing=imagenet_preprocessing(space.preprocessing.side))


def asked(target: Target) -> Asked:
    return Asked.by(target, target.latency_fallback)


def profile_settings(target: Target, space: SearchSpace, parent: str | None = None) -> ProfileSettings:
    """What makes the table of this space on this device or, where no table can hold it, the model that prices any
    width: of the network that it is around, where it is."""
    settings = ProfileSettings(
        target_hardware=target.target_hardware,
        runtime=target.runtime,
        threads=target.latency_threads,
        resolution=space.preprocessing.side,
    )
    if parent is not None:
        return replace(settings, parent=parent)
    space = timed_space(target, space)
    return replace(settings, space=space.name, width_mult=space.width_mult, num_classes=space.num_classes)


def missing_table(target: Target, space: SearchSpace, parent: str | None = None) -> ProfileSettings | None:
    """What makes the latency table of this device where it is needed and none was given or made yet; else None.

    Raises InputError for a device that cannot be measured.
    """
    return pricing.missing(asked(target), profile_settings(target, space, parent), own_file(space))


def make_table(settings: ProfileSettings, target: Target, say: Callable[[str], Any] = print) -> None:
    """Profile this device now. For one process alone. Raises InputError when the measurement fails."""
    device = pricing.device_of(asked(target))
    assert device is not None
    device.profile(settings, "latency table", say)


def load_prices(target: Target, space: SearchSpace, parent: str | None = None) -> Priced:
    """What prices the layers of a space for a target. Raises InputError as pricing.priced does."""
    settings = profile_settings(target, space, parent)
    judge = check_trusted if own_file(space) == "table.json" else tell_what_speaks_against
    return pricing.priced(asked(target), space.preprocessing.side, settings, own_file(space), judge=judge)
