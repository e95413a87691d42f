"""What the commands made of a network, one after the other: a Chain of steps, from the first run to the last.

A figure says how it is known: measured, added up from measured layers, predicted, simulated or counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a step did."""

    GIVEN = "given"
    SEARCHED = "searched"
    TRAINED = "trained"
    PRUNED = "pruned"
    QUANTIZED = "quantized"


class How(StrEnum):
    """How a figure is known."""

    MEASURED = "measured"
    SUMMED = "sum of measured layers"
    PREDICTED = "predicted"
    SIMULATED = "simulated"
    COUNTED = "counted"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 of ``n_images`` (None: not recorded). ``tested``: a digest of which images they were, where it is known."""

    percent: float
    n_images: int | None
    images: str = "test images"
    tested: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Milliseconds per image, or bytes. ``by``: the runtime, the price table, or what was counted."""

    value: float
    how: How
    by: str


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What the network gets right still after all attacks; ``as_float``: though it has a bit plan, without it."""

    folder: Path
    percent: float
    n_images: int
    epsilon: str
    n_alarms: int
    as_float: bool = False


@dataclass(frozen=True, kw_only=True)
class Export:
    """A file: its milliseconds in its runtime, its bytes, and its top-1 of the images that checked it, if labelled.

    ``is_quantized``: whether it is of a kind with few bits. ``drift_percent``: by how much the machine's speed moved
    while it was timed.
    """

    file: Path
    format: str
    is_quantized: bool
    runtime: str
    ms: float
    n_bytes: int
    percent: float | None
    n_images: int
    drift_percent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """A run, or what the first one was given.

    ``folder``: None where it is no run, or is gone; ``notes`` say so. ``data_path``: its images; None of the digits.
    ``hardware``: of a quantization, what is to run it.
    """

    kind: Kind
    name: str
    folder: Path | None = None
    data_path: str | None = None
    hardware: str | None = None
    accuracy: Accuracy | None = None
    latencies: tuple[Cost, ...] = ()
    sizes: tuple[Cost, ...] = ()
    attacks: tuple[Attack, ...] = ()
    exports: tuple[Export, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def own_exports(self) -> tuple[Export, ...]:
        """The files that are this step's: of a quantization those with few bits, where there are any; else float ones.

        Others are written beside them to compare with.
        """
        wanted = self.kind is Kind.QUANTIZED and any(each.is_quantized for each in self.exports)
        return tuple(each for each in self.exports if each.is_quantized == wanted)

    @property
    def all_latencies(self) -> tuple[Cost, ...]:
        """Of its files, as measured, and what was recorded of the network."""
        files = (Cost(value=each.ms, how=How.MEASURED, by=each.runtime) for each in self.own_exports)
        return (*files, *self.latencies)

    @property
    def all_sizes(self) -> tuple[Cost, ...]:
        files = (Cost(value=each.n_bytes, how=How.MEASURED, by=f"{each.runtime} file") for each in self.own_exports)
        return (*files, *self.sizes)


@dataclass(frozen=True)
class Chain:
    """The steps, the first run in front."""

    steps: tuple[Step, ...]

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def same_images(self) -> bool:
        """Whether all accuracies are of the same images, as far as that is known."""
        tested = {step.accuracy.tested for step in self.steps if step.accuracy is not None and step.accuracy.tested}
        return len(tested) <= 1
