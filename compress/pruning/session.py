"""What a pruning starts from: settings become a trained network, its images, what may change, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from compress.config import TrainedConfig
from compress.folder import Batches, batches_of
from compress.pruning.choices import price_groups, rising
from compress.pruning.config import PruneConfig
from compress.pruning.device import latency_source, own_profiles, unmeasured
from compress.start import memory_plan, split_images, training_config
from hardware.cost import MACS, PARAMS, CostTable, price_by
from hardware.latency import LatencySource, network_ms
from hardware.profile.device import ProfileSettings
from hardware.profile.landing import settled
from hardware.profile.pricing import Bench
from hardware.projection import Limit, check_limits
from hardware.table import LookupTable
from proxyless_arch.apps.memory import Free, Plan
from proxyless_arch.apps.train_settings import TrainConfig, open_data, start_of
from proxyless_arch.arch import catalog
from proxyless_arch.arch.shrink import shrink
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import ImageDataset, SearchData
from proxyless_arch.space.shrinking import Group, change_of, groups_of, whole_path
from proxyless_arch.weights.files import NamedTensors


@dataclass(frozen=True)
class Goal:
    """A target: its ``value`` in the unit of the table, and what it is called as a folder and for a person."""

    value: float
    name: str
    flag: str


class Whole(NamedTuple):
    """What the network took before it was pruned, at the speed at which the anchor takes ``anchor_ms``."""

    ms: float
    anchor_ms: float | None


@dataclass(frozen=True)
class Job:
    """Settings with everything they refer to found, opened and checked.

    ``whole_ms``: what the whole network takes on ``measured_on``; ``table`` has been multiplied by that over what it
    was predicted to take, so that a target is one of measured ms. None where nothing is measured.
    """

    config: PruneConfig
    training: TrainConfig
    data: SearchData
    spec: ArchSpec
    tensors: NamedTensors
    origin: str
    groups: tuple[Group, ...]
    table: CostTable
    goals: tuple[Goal, ...]
    device: torch.device
    source: LatencySource | None
    measured_on: Bench | None
    whole_ms: float | None
    memory: Plan
    notes: tuple[str, ...] = ()
    unmeasured: ProfileSettings | None = None
    """What measures this machine, where nothing is priced yet: ``table`` counts MACs, and there are no goals."""

    @cached_property
    def macs(self) -> CostTable:
        return price_groups(self.spec, self.groups, MACS)

    @cached_property
    def params(self) -> CostTable:
        return price_groups(self.spec, self.groups, PARAMS)

    @cached_property
    def whole_cost(self) -> float:
        return self.table.of_path(whole_path(self.groups))

    @cached_property
    def predicted_ms(self) -> float | None:
        """Of the whole network."""
        return network_ms(self.source, walk(self.spec)) if self.source is not None else None

    @property
    def scale(self) -> float:
        """What the prices were multiplied by."""
        return self.whole_ms / self.predicted_ms if self.whole_ms and self.predicted_ms else 1.0

    def limits(self, target: float, flag: str = "--keep") -> list[Limit]:
        """What a plan must keep to, the target first."""
        found = [Limit(self.table, target, flag=flag)]
        if self.config.max_params is not None:
            found.append(Limit(self.params, self.config.max_params, flag="--max_params"))
        return found

    @cached_property
    def _parts(self) -> tuple[ImageDataset, ...]:
        return split_images(self.data, self.config)

    @cached_property
    def calibration(self) -> Batches:
        """Training images, which BN statistics and weights are made up from."""
        return self.batches(self._parts[0], drop_last=True)

    @cached_property
    def choosing(self) -> Batches:
        return [batch for part in self._parts[1:] if len(part) for batch in self.batches(part)]

    def batches(self, images: ImageDataset, *, drop_last: bool = False) -> Batches:
        size = min(self.config.test_batch_size, self.memory.images)
        found = list(batches_of(images, self.spec, self.config, self.memory))
        whole = [each for each in found if 2 * len(each[0]) >= size]
        return whole if drop_last and whole else found


def prepare(
    config: PruneConfig, device: torch.device, free: Free, measure: bool = True, known: Whole | None = None
) -> Job:
    """Open everything. Raises InputError before anything is written.

    Args:
        measure: profile this machine now where that was not done yet; else the job is without prices there.
        known: what the whole network took when the run began; None: it is timed now where it can be.
    """
    training, notes = training_config(config)
    data = open_data(training)
    start = start_of(training, data.train)
    check_images(start.has_fresh_classifier, start.spec, data, config)
    spec = start.spec
    groups = groups_of(spec, config.freedom)
    if not groups:
        raise InputError("nothing of this network can become smaller", "--arch", config.arch)
    lacking = None if measure else unmeasured(config, spec)
    source, measured_on = latency_source(config, spec) if lacking is None else (None, None)
    table = price(spec, groups, source, config)
    if measured_on is not None:
        bench = measured_on = measured_on.beside(smallest(spec, groups), known.anchor_ms if known else None)
        known = known or Whole(settled(lambda: bench.time(walk(spec))).ms, bench.reference_ms)
        table = table.scaled(known.ms / table.of_path(whole_path(groups)))
    job = Job(
        config=config,
        training=training,
        data=data,
        spec=spec,
        tensors=start.tensors,
        origin=start.origin,
        groups=groups,
        table=table,
        goals=(),
        device=device,
        source=source,
        measured_on=measured_on,
        whole_ms=known.ms if known is not None and measured_on is not None else None,
        memory=memory_plan(spec, data, config, free),
        notes=notes,
        unmeasured=lacking,
    )
    return replace(job, goals=_goals(job) if lacking is None else ())


def smallest(spec: ArchSpec, groups: Sequence[Group]) -> tuple[LayerCall, ...]:
    """The layers of the network with the smallest widths and kernels, which others are timed beside.

    It fits into a core's cache, as they do or nearly: on a busy machine a larger one wavers by more than they.
    """
    return walk(shrink(spec, change_of(groups, tuple(group.smallest for group in groups))))


def check_images(is_fresh: bool, spec: ArchSpec, data: SearchData, config: TrainedConfig) -> None:
    if is_fresh:
        raise InputError(
            f"these images have other classes than the network was trained for: expected those of {config.arch}; "
            f"train it on them first: {_training(config)}",
            "--data_path",
            config.data_path,
        )
    if len(data.train) < spec.num_classes or len(data.train) < 2:
        raise InputError(
            f"expected at least {max(2, spec.num_classes)} training images (one of each class), got {len(data.train)}",
            "--data_path",
            config.data_path,
        )


def _training(config: PruneConfig) -> str:
    """The command that fits the network to the images."""
    words = ["--pretrained"] if config.arch in catalog.known_names() and config.weights is None else []
    words += ["--weights", config.weights] if config.weights is not None else []
    words += ["--data_path", config.data_path] if config.data_path is not None else []
    return command_line("train.py", "--arch", str(config.arch), *words)


def price(spec: ArchSpec, groups: Sequence[Group], source: LatencySource | None, config: PruneConfig) -> CostTable:
    """MACs without a source of ms. Raises InputError where a width has no price, naming what measures it."""
    try:
        found = price_groups(spec, groups, price_by(source))
        return rising(found, groups) if isinstance(source, LookupTable) else found
    except InputError as error:
        hint = (
            f"{error.problem}; a table holds the layers that were measured, and pruning needs others: measure them "
            f"({own_profiles(config, spec)[1].command()}), or give the predictor.json beside it, which prices any width"
        )
        raise InputError(hint, error.place, error.source) from None


def _goals(job: Job) -> tuple[Goal, ...]:
    """The targets asked for, each within what can be reached; none with --max_drop."""
    config = job.config
    if config.max_params is not None and config.max_params < job.params.minimum:
        least = f"{int(job.params.minimum):,}"
        raise InputError(
            f"this network cannot have fewer than {least} parameters, got {config.max_params:g}", "--max_params"
        )
    if config.max_drop is not None:
        return ()
    given = next(
        ((name, text) for name in ("target_latency_ms", "target_macs", "keep") if (text := getattr(config, name))), None
    )
    if given is None:
        if config.max_params is not None:
            goal = Goal(job.whole_cost, "", "--max_params")
            check_limits(job.limits(goal.value, flag=goal.flag))
            return (goal,)
        given = ("keep", "0.5")
    flag, values = f"--{given[0]}", [float(word) for word in given[1].split(",")]
    goals = []
    for value in dict.fromkeys(values):
        target = value * job.whole_cost if given[0] == "keep" else value
        _check_reachable(job, target, value, flag)
        goals.append(Goal(target, f"{value:g}{'ms' if given[0] == 'target_latency_ms' else ''}", flag))
        check_limits(job.limits(target, flag=flag))
    return tuple(goals)


def _check_reachable(job: Job, target: float, asked: float, flag: str) -> None:
    table = job.table
    if table.minimum <= target <= job.whole_cost:
        return
    shares = (table.minimum / job.whole_cost, 1.0)
    reach = f"{table.reachable}" if flag != "--keep" else f"{np.ceil(1000 * shares[0]) / 1000:g} to 1"
    got = table.shown(target) if flag != "--keep" else f"{asked:g}"
    raise InputError(
        f"pruning this network reaches {reach} (widths from {100 * job.config.smallest_width:g} % on, "
        f"{table.source}), got {got}",
        flag,
    )
