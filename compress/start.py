"""What a run of this room starts from: the network and the images as train.py would take them up, in three parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.config import TrainedConfig
from proxyless_arch.apps.memory import Free, Plan, Reading, cached_bytes, image_bytes, scoring_plan
from proxyless_arch.apps.train_settings import INHERIT, PRETRAINED, TrainConfig, effective_config
from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import expanded
from proxyless_arch.data.datasets import ImageDataset, SearchData
from proxyless_arch.data.streams import Stream, numpy_rng


def split_images(data: SearchData, config: TrainedConfig) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
    """(images to calibrate with, images to choose by in two parts), disjoint; the test images are neither.

    Those that choose are the held-out ones and, where they are too few, training images that do not calibrate.
    """
    order = numpy_rng(config.manual_seed, Stream.RECALIBRATION).permutation(len(data.train))
    n_calibrating = min(config.calibration_images, max(1, len(order) * 3 // 4))
    calibrating, left = data.train.subset(order[:n_calibrating]), order[n_calibrating:]
    held = numpy_rng(config.manual_seed, Stream.RECALIBRATION, 1).permutation(len(data.valid))
    held = held[: config.choosing_images]
    return calibrating, data.valid.subset(held), data.train.subset(left[: config.choosing_images - len(held)])


def training_config(config: TrainedConfig) -> tuple[TrainConfig, tuple[str, ...]]:
    """The settings with which train.py would take up the network: its images, its split, its weights."""
    if not config.arch:
        raise InputError("name a trained network: a known name, a run folder, or a weight file", "--arch")
    given: dict[str, Any] = {
        "arch": config.arch,
        "manual_seed": config.manual_seed,
        "data_edition": config.data_edition,
    }
    for name in ("dataset", "data_path", "valid_size", "split_seed", "image_size", "n_worker"):
        value = getattr(config, name)
        if value is not None:
            given[name] = value
    known = config.arch in catalog.known_names()
    if config.data_path is None and config.dataset is None and not Path(expanded(config.arch)).is_dir():
        raise InputError(f"only a run folder says which images it is for: name those of {config.arch}", "--data_path")
    if config.weights is not None or known:
        given["weights"] = config.weights or PRETRAINED
    found, notes = effective_config(given, "finetune")
    has_own = found.weights == INHERIT or (known and config.arch in catalog.trained_names())
    if config.weights is None and not has_own:
        raise InputError("this network has no weights: it takes a trained one", "--arch", config.arch)
    return found, notes


def memory_plan(spec: ArchSpec, data: SearchData, config: TrainedConfig, free: Free) -> Plan:
    """How many images are scored at once, where those that calibrate and choose are held."""
    parts, each = split_images(data, config), image_bytes(spec.preprocessing)
    reading = Reading(
        image_bytes=each,
        readers=config.n_worker or 0,
        n_images=len(data.train),
        cached_bytes=cached_bytes(spec.preprocessing, (data.train, None), (data.valid, None))
        + sum(map(len, parts)) * each,
    )
    return scoring_plan(spec, min(config.test_batch_size, len(parts[0])), reading, free)
