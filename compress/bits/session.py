"""What a quantization starts from: a trained network, its images in three parts, the formats, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from compress.bits.choices import (
    BitGroup,
    bytes_table,
    groups_of,
    matches_of,
    nearest_path,
    simulated_table,
)
from compress.bits.config import BitsConfig
from compress.bits.layer_times import measured_table
from compress.folder import Batches, batches_of
from compress.start import memory_plan, split_images, training_config
from hardware.cost import CostTable, Path
from hardware.projection import Limit, Match, check_limits
from hardware.simulators import SIMULATORS
from proxyless_arch.apps.evaluation import open_images
from proxyless_arch.apps.memory import Free, Plan
from proxyless_arch.apps.train_settings import TrainConfig, open_data, start_of
from proxyless_arch.arch.bits import FLOAT_BITS, INT8
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import ImageDataset, SearchData
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.lookup import find_network


@dataclass(frozen=True)
class BitJob:
    """Settings with everything they refer to found, opened and checked. ``target``: None with --max_drop."""

    config: BitsConfig
    training: TrainConfig
    data: SearchData
    spec: ArchSpec
    tensors: NamedTensors
    origin: str
    groups: tuple[BitGroup, ...]
    matches: tuple[Match, ...]
    table: CostTable
    target: float | None
    flag: str
    device: torch.device
    memory: Plan
    notes: tuple[str, ...] = ()

    def limits(self, target: float) -> list[Limit]:
        return [Limit(self.table, target, flag=self.flag)]

    @cached_property
    def bytes(self) -> CostTable:
        return bytes_table(self.groups)

    @cached_property
    def whole(self) -> Path:
        """Every layer with the most bits there are."""
        return tuple(group.whole for group in self.groups)

    @cached_property
    def _parts(self) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
        return split_images(self.data, self.config)

    @cached_property
    def calibration(self) -> Batches:
        return self.batches(self._parts[0])

    @cached_property
    def choosing(self) -> Batches:
        return [batch for part in self._parts[1:] if len(part) for batch in self.batches(part)]

    def batches(self, images: ImageDataset) -> Batches:
        return list(batches_of(images, self.spec, self.config, self.memory))


def prepare(config: BitsConfig, device: torch.device, free: Free) -> BitJob:
    """Open everything. Raises InputError before anything is written."""
    training, notes = training_config(config)
    data, more = open_parts(training, config)
    start = start_of(training, data.train)
    if start.has_fresh_classifier:
        raise InputError(
            f"these images have other classes than the network was trained for: expected those of {config.arch}; "
            "train it on them first (python train.py)",
            "--data_path",
            config.data_path,
        )
    if len(data.train) < 2:
        raise InputError(
            f"expected at least 2 images to calibrate with, got {len(data.train)}", "--data_path", config.data_path
        )
    spec = start.spec
    groups = groups_of(spec, config.formats, image=config.quantizes_image)
    parts = split_images(data, config)
    if not sum(map(len, parts[1:])):
        raise InputError("no images are left to choose by: give more of them", "--data_path", config.data_path)
    table = price(config, groups)
    target, flag = target_of(config, groups, table)
    matches = matches_of(spec, groups)
    if target is not None:
        check_reachable(config, table, target, flag)
        check_limits([Limit(table, target, flag=flag)], matches)
    return BitJob(
        config=config,
        training=training,
        data=data,
        spec=spec,
        tensors=start.tensors,
        origin=start.origin,
        groups=groups,
        matches=matches,
        table=table,
        target=target,
        flag=flag,
        device=device,
        memory=memory_plan(spec, data, config, free),
        notes=(*notes, *start.notes, *more),
    )


def open_parts(training: TrainConfig, config: BitsConfig) -> tuple[SearchData, tuple[str, ...]]:
    """(images to calibrate, to choose and to test with, what was decided about them).

    Images that have no training part, as those of ImageNet's validation set, are split here in three.
    """
    try:
        return open_data(training), ()
    except InputError as error:
        if error.place != "split" or config.data_path is None:
            raise
    images = open_images(config.data_path, find_network(str(config.arch), "--arch")[0])
    order = numpy_rng(config.manual_seed, Stream.BIT_IMAGES).permutation(len(images))
    n_each = len(images) // 4
    train, valid, test = order[:n_each], order[n_each : 2 * n_each], order[2 * n_each :]
    note = f"no training images: {len(train)} of these calibrate, {len(valid)} choose, {len(test)} test"
    return SearchData(train=images.subset(train), valid=images.subset(valid), test=images.subset(test)), (note,)


def price(config: BitsConfig, groups: tuple[BitGroup, ...]) -> CostTable:
    if config.counts_bytes:
        return bytes_table(groups)
    if config.is_simulated:
        return simulated_table(groups, SIMULATORS[config.hardware])
    return measured_table(groups, config)


def target_of(config: BitsConfig, groups: tuple[BitGroup, ...], table: CostTable) -> tuple[float | None, str]:
    """(what is asked for in the unit of the table, the flag that asks for it)."""
    if config.drop is not None:
        return None, "--max_drop"
    if config.average_bits is not None:
        overhead = sum(8 * group.layer.shape[0] for group in groups)
        n_weights = sum(group.layer.n_weights for group in groups)
        return config.average_bits * n_weights / 8 + overhead, "--average_bits"
    if config.keep is not None:
        reference = table.of_path(nearest_path(groups, INT8)) if config.is_simulated else table.maximum
        return config.keep * reference, "--keep"
    if config.target_bytes is not None:
        return config.target_bytes, "--target_bytes"
    return config.target_latency_ms, "--target_latency_ms"


def check_reachable(config: BitsConfig, table: CostTable, target: float, flag: str) -> None:
    """Raises InputError below the cheapest plan."""
    if table.minimum <= target * (1 + 1e-12):
        return
    reach, got = f"{table.reachable} ({table.source})", table.shown(target)
    if flag == "--average_bits":
        bits = [format.weight_bits or FLOAT_BITS for format in config.formats]
        reach, got = f"{min(bits)} to {max(bits)} bits per weight", f"{config.average_bits:g}"
    raise InputError(f"the formats of --hardware {config.hardware} reach {reach}, got {got}", flag)
