"""From flags to prices, the same for everything that chooses: what prices layers, and the device that it speaks of.

``--target_hardware cpu`` (batch 1) and ``gpu8`` (batch 8) are this machine's unless the file given was measured on
another one; then networks are priced by that file and not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from hardware.cost import CostTable
from hardware.latency import PHONE, LatencySource, filled, load_latency_source, shipped
from hardware.predictor import Predictor
from hardware.profile import device as profiler
from hardware.profile.device import ProfileSettings
from hardware.profile.landing import Landing, land
from hardware.profile.measure import Runtime, has_cuda, parse_hardware, runtime_named
from hardware.profile.profiling import Anchor, Measured, measure_network
from hardware.profile.trust import anchor_of, check_trusted, what_speaks_against
from hardware.projection import LOWER, Limit, Projection
from hardware.table import LookupTable
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.progress import speak
from proxyless_arch.base.strict import judged_at
from proxyless_arch.base.words import MEASURABLE
from proxyless_arch.space.search_space import SearchSpace


class LatencyFlags(Protocol):
    """Settings of a command that say what prices layers, by their flags."""

    @property
    def target_hardware(self) -> str: ...
    @property
    def latency_table(self) -> str | None: ...
    @property
    def runtime(self) -> str | None: ...
    @property
    def latency_threads(self) -> int: ...
    @property
    def force_latency_table(self) -> bool: ...


@dataclass(frozen=True)
class Asked:
    """The flags that say what prices layers.

    ``table``, ``fallback``: --latency_table and --latency_fallback. ``threads``: of the runtime. ``forced``: whatever
    conditions a file was made under, and however its validation went.
    """

    target_hardware: str
    table: str | None = None
    fallback: str | None = None
    runtime: str | None = None
    threads: int = 1
    forced: bool = False

    @staticmethod
    def by(flags: LatencyFlags, fallback: str | None = None) -> Asked:
        """By the settings that a search and a pruning share."""
        return Asked(
            target_hardware=flags.target_hardware,
            table=flags.latency_table,
            fallback=fallback,
            runtime=flags.runtime,
            threads=flags.latency_threads,
            forced=flags.force_latency_table,
        )

    @property
    def is_measurable(self) -> bool:
        return self.target_hardware in MEASURABLE

    @property
    def batch_size(self) -> int:
        return parse_hardware(self.target_hardware).batch_size if self.is_measurable else 1


@dataclass(frozen=True)
class Bench:
    """Where networks are timed: beside an anchor, at the speed at which the anchor takes ``reference_ms`` (None: what
    it takes beside them)."""

    anchor: Anchor
    reference_ms: float | None = None

    def time(self, calls: Sequence[LayerCall]) -> Measured:
        """A network, measured once."""
        return measure_network(self.anchor, calls, self.reference_ms)

    def steady(self) -> Bench:
        """At one speed for all networks: the one known, else the anchor's of now."""
        return replace(self, reference_ms=self.reference_ms or self.anchor.now())

    def beside(self, calls: Sequence[LayerCall], reference_ms: float | None = None) -> Bench:
        """Beside another network, at the speed at which that takes ``reference_ms`` (None: what it takes now)."""
        anchor = replace(self.anchor, calls=tuple(calls), _session=None)
        return Bench(anchor, reference_ms or anchor.now())


@dataclass(frozen=True)
class Device:
    """A runtime of this machine and the batch size it is used at."""

    runtime: Runtime
    batch_size: int = 1

    def facts(self) -> dict[str, Any]:
        return self.runtime.facts()

    def bench(self, space: SearchSpace, source: LatencySource) -> Bench:
        """Beside the anchor of ``space``, at the speed that the machine had when ``source`` was measured here."""
        return Bench(*anchor_of(self.runtime, space, self.batch_size, source))

    def land(
        self,
        space: SearchSpace,
        choose: Callable[[Sequence[Limit]], Projection],
        table: CostTable,
        goal: float,
        source: LatencySource,
        limits: Sequence[Limit] = (),
        lower: float = LOWER,
        beside: SearchSpace | None = None,
    ) -> Landing:
        """Choose, measure here, and choose again while the measurement is off (hardware/profile/landing.py).

        ``beside``: the space whose anchor networks are timed beside (default: ``space``).

        ``source``: what ``table`` was priced by; a table measured here knows its anchor's time, and networks are
        measured at that speed of the machine; else all of them at the anchor's of now.
        """
        known = self.bench(beside or space, source)
        bench = known.steady()
        landing = land(
            choose, table, goal, lambda path: bench.time(walk(space.spec_for(path))), lower=lower, limits=limits
        )
        return replace(landing, reference_ms=known.reference_ms)

    def kept_in(self, settings: ProfileSettings) -> Path:
        """The folder under runs/latency of what ``settings`` measures on this device."""
        return profiler.default_output(profiler.conditions_of(settings) | self.facts())

    def profile(self, settings: ProfileSettings, what: str, say: Callable[[str], Any] = speak) -> None:
        """Measure this device now. For one process alone. Raises InputError when the measurement fails.

        Args:
            what: is missing, for a person.
        """
        say(
            f"no {what} of this device yet: measuring one now (once; it is kept in "
            f"{self.kept_in(settings)})\n  {settings.command()}"
        )
        try:
            say(profiler.profile_device(settings, self.runtime, say).summary())
        except KeyboardInterrupt:
            say("\nevery timing is kept: the same command goes on with the measurement")
            raise


def device_of(asked: Asked) -> Device | None:
    """The device that the flags mean; None for one that is not measured: a phone, or a GPU that is elsewhere, whose
    table was given.

    Raises InputError for a runtime that is not installed, or for a GPU that is not here when no table of it is given.
    """
    if not asked.is_measurable:
        return None
    hardware = parse_hardware(asked.target_hardware)
    if hardware.kind == "cuda" and not has_cuda():
        if asked.table is not None:
            return None
        raise InputError(
            f"there is no CUDA GPU here to measure; make the table on the machine that has it (python "
            f"hardware/profile_latency.py --target_hardware {asked.target_hardware}) and give it with --latency_table",
            "--target_hardware",
        )
    with judged_at("", {"--threads": "--latency_threads"}):
        runtime = runtime_named(hardware, asked.runtime, asked.threads)
    return Device(runtime, hardware.batch_size)


def missing(asked: Asked, settings: ProfileSettings, name: str) -> ProfileSettings | None:
    """What measures this device where that is needed and was not done yet; else None.

    Raises InputError for a device that cannot be measured.

    Args:
        settings: of the measurement.
        name: of its file that is wanted.
    """
    device = device_of(asked)
    if device is None or asked.table is not None or (device.kept_in(settings) / name).is_file():
        return None
    return settings


@dataclass(frozen=True)
class Priced:
    """``source``: what prices layers; None where that is not by ms. ``device``: what networks are measured on, None
    where the prices are of another one. ``file``: that was read; None for what is shipped."""

    source: LatencySource | None
    device: Device | None = None
    file: Path | None = None


def priced(
    asked: Asked,
    resolution: int,
    settings: ProfileSettings,
    name: str,
    *,
    judge: Callable[..., Any] | None = check_trusted,
) -> Priced:
    """What prices layers, checked: the file given, else what is shipped, else what was measured on this device.

    What a file does not record is not checked: the released YAML records nothing.

    Args:
        resolution: of the networks' images.
        settings: of the measurement that makes this device's own file, ``name``.
        judge: of this device's own file, in place of check_trusted (None: it is used, whatever its record says).

    Raises:
        InputError: a file made under other conditions (batch, resolution, threads, runtime, dtype), or that did not
            pass its validation, unless ``asked.forced``.
    """
    hardware = asked.target_hardware
    if hardware in ("flops", "none"):
        return Priced(None)
    if asked.table is None and not asked.is_measurable:
        return Priced(shipped(PHONE))
    device = device_of(asked)
    is_own = asked.table is None
    if asked.table is not None:
        path = Path(asked.table)
    else:
        assert device is not None
        path = device.kept_in(settings) / name
    found = load_latency_source(path)
    facts = device.facts() if device is not None else {}
    is_here = device is not None and found.provenance.get("device") == facts["device"]
    check = judge if is_own else check_trusted
    if check is not None and not asked.forced:
        wanted: dict[str, Any] = {"batch_size": asked.batch_size, "dtype": "float32", "resolution": resolution}
        wanted |= {name: facts[name] for name in ("runtime", "threads")} if is_here else {"runtime": asked.runtime}
        check(found, str(path), wanted, settings if is_own and is_here else None)
    return Priced(filled(found, asked.fallback), device if is_here else None, path)


def tell_what_speaks_against(
    source: LookupTable | Predictor, path: str, wanted: Mapping[str, Any], made_by: ProfileSettings | None
) -> None:
    """A judge of this machine's own prices, which order networks: what one takes is measured, and chosen again where
    that is off. So prices that did not pass their validation are told of and used."""
    if reasons := what_speaks_against(source):
        what = "table" if isinstance(source, LookupTable) else "model"
        speak(f"note: this machine's latency {what} {reasons}; networks are measured, and chosen again where it is off")
