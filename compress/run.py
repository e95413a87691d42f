"""A run of this room on its way: what it says, and what it has measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from compress.config import TrainedConfig
from compress.methods import Found
from compress.record import Record, read_record
from compress.scoring import Images
from hardware.cost import CostTable
from proxyless_arch.apps.memory import Plan
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base import runs
from proxyless_arch.base.progress import Progress
from proxyless_arch.base.text import labeled, number_of
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.base.units import format_count
from proxyless_arch.data.datasets import SearchData
from proxyless_nas.devices import device_name
from proxyless_nas.opening import Say, be_silent


class Work(Protocol):
    """What is shared by the jobs of pruning and of choosing bits."""

    training: TrainConfig
    data: SearchData
    spec: ArchSpec
    origin: str
    table: CostTable
    device: torch.device
    memory: Plan
    notes: tuple[str, ...]

    @property
    def config(self) -> TrainedConfig: ...

    @property
    def calibration(self) -> Images: ...

    @property
    def choosing(self) -> Images: ...


Job = TypeVar("Job", bound=Any)


def header(job: Work, lines: Sequence[tuple[str, str]], *, images: str = "images", more: str = "") -> str:
    """What is about to happen, for a person: the network and its images, ``lines``, and what computes it.

    Args:
        images: what those that calibrate are.
        more: said behind the number of images.
    """
    spec, data = job.spec, job.config.data_path or job.training.data.data_path or "digits (scikit-learn, embedded)"
    n_calibrating, n_choosing = (sum(len(labels) for _, labels in part) for part in (job.calibration, job.choosing))
    n_more = n_choosing - len(job.data.valid)
    of_training = f" ({n_more} of them training images: too few are held out)" if n_more > 0 else ""
    found = [
        (
            "network",
            f"{spec.name}: {format_count(total_macs(spec))} MACs, {format_count(total_params(spec))} parameters",
        ),
        ("weights", job.origin),
        (
            "data",
            f"{data}: {n_calibrating} {images} to calibrate, {n_choosing} to choose by{of_training}, "
            f"{len(job.data.test)} to test{more}",
        ),
        *[("note", note) for note in job.notes],
        *lines,
        ("runs on", f"{device_name(job.device)}, torch {torch.__version__}"),
        *job.memory.lines(),
    ]
    return "\n".join(labeled(*line) for line in found)


class Run(Generic[Job]):
    """A run in its folder. ``record``: what was measured, from which one that goes on is answered."""

    def __init__(self, job: Job, home: Path, tell: Say) -> None:
        self.job, self.home, self.tell = job, home, tell
        self.watch = Stopwatch()
        file = home / runs.METRICS_FILE
        lines, whole = read_record(file)
        self.metrics = runs.MetricsFile(home, whole if file.is_file() else None)
        self.record = Record.opened(self.metrics, lines)
        self.n_told = 0

    def doing(self, what: str, total: float, unit: str) -> Progress:
        """A step that takes a while: scoring.Watch."""
        self.tell(what)
        return Progress(total, unit, hidden=self.tell is be_silent)

    def tell_plan(self, found: Found) -> None:
        self.n_told += 1
        table = self.job.table
        self.tell(
            f"  plan {self.n_told:>3}/{self.job.config.n_plans}  {table.unit.short(table.of_path(found.path))}  "
            f"loss {number_of(found.score.loss, 1, 3)}  top-1 {found.score.top1_percent:.1f} %"
        )
