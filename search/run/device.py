"""A search for the machine at hand: which runtime it means, its latency table, and landing on it.

``--target_hardware cpu`` (batch 1) and ``gpu8`` (batch 8) are this machine's unless the table given was measured on
another one; then the network is priced by that table and not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hardware.cost import CostTable
from hardware.latency import LatencySource, load_latency_source
from hardware.predictor import Predictor
from hardware.profile import device as profiler
from hardware.profile.device import ProfileSettings
from hardware.profile.landing import Landing, land
from hardware.profile.measure import Runtime, parse_hardware, runtime_named
from hardware.profile.profiling import measure_network
from hardware.profile.trust import anchor_of, check_trusted
from hardware.projection import LOWER, Limit, Projection
from hardware.table import LookupTable
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import judged_at
from proxyless_arch.space.search_space import SearchSpace
from search.config import Target

MEASURABLE = ("cpu", "gpu8")


@dataclass(frozen=True)
class Device:
    """A runtime of this machine and the batch size it is used at."""

    hardware: str
    runtime: Runtime
    batch_size: int

    def facts(self) -> dict[str, Any]:
        return self.runtime.facts()

    def land(
        self,
        space: SearchSpace,
        choose: Callable[[Sequence[Limit]], Projection],
        table: CostTable,
        goal: float,
        source: LatencySource,
        limits: Sequence[Limit] = (),
        lower: float = LOWER,
    ) -> Landing:
        """Choose, measure here, and choose again while the measurement is off (hardware/profile/landing.py).

        ``source``: what ``table`` was priced by; a table measured here knows its anchor's time, and networks are
        measured at that speed of the machine.
        """
        anchor, reference_ms = anchor_of(self.runtime, space, self.batch_size, source)
        of_this_sitting = anchor.now() if reference_ms is None else reference_ms
        landing = land(
            choose,
            table,
            goal,
            lambda path: measure_network(anchor, walk(space.spec_for(path)), of_this_sitting),
            lower=lower,
            limits=limits,
        )
        return replace(landing, reference_ms=reference_ms)


def device_of(target: Target) -> Device | None:
    """The device that the settings mean; None for a GPU that is elsewhere, whose table was given.

    Raises InputError for a runtime that is not installed, or for a GPU that is not here when no table of it is given.
    """
    hardware = parse_hardware(target.target_hardware)
    if hardware.kind == "cuda" and not torch.cuda.is_available():
        if target.latency_table is not None:
            return None
        raise InputError(
            f"there is no CUDA GPU here to measure; make the table on the machine that has it (python "
            f"hardware/profile_latency.py --target_hardware {target.target_hardware}) and give it with --latency_table",
            "--target_hardware",
        )
    with judged_at("", {"--threads": "--latency_threads"}):
        runtime = runtime_named(hardware, target.runtime, target.latency_threads)
    return Device(target.target_hardware, runtime, hardware.batch_size)


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


def _kept_in(target: Target, space: SearchSpace, device: Device) -> Path:
    """The folder under runs/latency of this device's table of this space."""
    return profiler.default_output(profiler.conditions_of(profile_settings(target, space)) | device.facts())


def missing_table(target: Target, space: SearchSpace) -> ProfileSettings | None:
    """What makes the latency table of this device where it is needed and none was given or made yet; else None.

    Raises InputError for a device that cannot be measured.
    """
    device = device_of(target)
    if device is None or target.latency_table is not None:
        return None
    if (_kept_in(target, space, device) / "table.json").is_file():
        return None
    return profile_settings(target, space)


def make_table(
    settings: ProfileSettings, target: Target, space: SearchSpace, say: Callable[[str], Any] = print
) -> None:
    """Profile this device now. For one process alone. Raises InputError when the measurement fails."""
    device = device_of(target)
    assert device is not None
    say(
        "no latency table of this device yet: measuring one now, some minutes (once; it is kept in "
        f"{_kept_in(target, space, device)})\n  {settings.command()}"
    )
    say(profiler.profile_device(settings, device.runtime, say).summary())


def load_table(target: Target, space: SearchSpace) -> tuple[LookupTable | Predictor, Device | None, Path]:
    """(what prices layers, the device to measure on, its file); the device is None when the table is of another one.

    For ``mobile`` a table was given. Raises InputError when it was made under other conditions (batch, resolution,
    threads, runtime, dtype) or did not pass its validation, unless --force_latency_table. What a file does not record
    is not checked: the released YAML records nothing.
    """
    is_ours = target.target_hardware in MEASURABLE
    device = device_of(target) if is_ours else None
    if target.latency_table is not None:
        path = Path(target.latency_table)
    else:
        assert device is not None
        path = _kept_in(target, space, device) / "table.json"
    source = load_latency_source(path)
    facts = device.facts() if device is not None else {}
    here = device is not None and source.provenance.get("device") == facts["device"]
    if not target.force_latency_table:
        batch_size = parse_hardware(target.target_hardware).batch_size if is_ours else 1
        wanted: dict[str, Any] = {
            "batch_size": batch_size,
            "dtype": "float32",
            "resolution": space.preprocessing.resolution,
        }
        if here:
            wanted |= {name: facts[name] for name in ("runtime", "threads")}
        elif target.runtime is not None:
            wanted["runtime"] = target.runtime
        ours = profile_settings(target, space) if here and not target.latency_table else None
        check_trusted(source, str(path), wanted, ours)
    return source, device if here else None, path
