"""What the flags of a search say of its device, in the words of hardware/profile/pricing.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardware.profile import pricing
from hardware.profile.device import ProfileSettings
from hardware.profile.pricing import Asked, Priced
from proxyless_arch.space.search_space import SearchSpace
from search.config import Target

TABLE = "table.json"


def asked(target: Target) -> Asked:
    return Asked(
        target_hardware=target.target_hardware,
        table=target.latency_table,
        fallback=target.latency_fallback,
        runtime=target.runtime,
        threads=target.latency_threads,
        forced=target.force_latency_table,
    )


def profile_settings(target: Target, space: SearchSpace) -> ProfileSettings:
    """What makes the table of this space on this device."""
    return ProfileSettings(
        target_hardware=target.target_hardware,
        runtime=target.runtime,
        threads=target.latency_threads,
        space=space.name,
        width_mult=space.width_mult,
        resolution=space.preprocessing.resolution,
        num_classes=space.num_classes,
    )


def missing_table(target: Target, space: SearchSpace) -> ProfileSettings | None:
    """What makes the latency table of this device where it is needed and none was given or made yet; else None.

    Raises InputError for a device that cannot be measured.
    """
    return pricing.missing(asked(target), profile_settings(target, space), TABLE)


def make_table(
    settings: ProfileSettings, target: Target, space: SearchSpace, say: Callable[[str], Any] = print
) -> None:
    """Profile this device now. For one process alone. Raises InputError when the measurement fails."""
    device = pricing.device_of(asked(target))
    assert device is not None
    device.profile(settings, "latency table", say)


def load_prices(target: Target, space: SearchSpace) -> Priced:
    """What prices the layers of a space for a target. Raises InputError as pricing.priced does."""
    return pricing.priced(asked(target), space.preprocessing.resolution, profile_settings(target, space), TABLE)
