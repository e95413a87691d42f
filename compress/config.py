"""What the commands of this room are asked alike: a network, the images that judge it, the run. No framework."""

from __future__ import annotations

from dataclasses import dataclass

from proxyless_arch.base.settings import setting
from proxyless_arch.base.words import (
    ARCH,
    DATA_EDITION,
    DATA_PATH,
    DEVICE,
    RESOLUTION,
    SEED,
    THREADS,
    WORKERS,
)
from proxyless_arch.data.datasets import DATASETS
from proxyless_arch.data.sources import EDITION

FREE = ("data_path", "device", "torch_threads", "n_worker", "test_batch_size")
"""Settings that may be others when a run is resumed."""
PATHS = ("arch", "weights", "data_path", "latency_table")


@dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """A trained network, the images that judge what is done to it, and the run: of every command of this room."""

    arch: str | None = ARCH.setting(None, ", with its weights", group="network", common=True)
    weights: str | None = setting(
        None, "a weight file (default: the network's own, or its published ones)", group="network", common=True
    )
    dataset: str | None = setting(
        None, "digits (embedded), or class folders: imagefolder, cifar10, imagenet", DATASETS, group="images"
    )
    data_path: str | None = DATA_PATH.setting(None, " (default: those of the run folder)", group="images", common=True)
    valid_size: float | None = setting(
        None,
        "training images that choose: a count, or a fraction below 1 (default: the run folder's split, else 0.15)",
        group="images",
        minimum=0,
    )
    split_seed: int | None = setting(None, "seed of the split", group="images", minimum=0, maximum=2**31 - 1)
    image_size: int | None = RESOLUTION.setting(
        None, " (default: the network's)", group="images", minimum=8, maximum=4096, common=True
    )
    calibration_images: int = setting(
        512, "training images that weights and BN statistics are made up from", group="images", minimum=8
    )
    choosing_images: int = setting(
        512, "images that choices are judged by: held-out ones, then training images", group="images", minimum=8
    )
    test_batch_size: int = setting(64, "images per batch of calibrating and scoring", group="images", minimum=2)
    n_worker: int | None = WORKERS.setting(None, group="images", minimum=0, maximum=256)
    data_edition: int = DATA_EDITION.setting(EDITION, group="images", minimum=1, maximum=EDITION, older=1)
    manual_seed: int = SEED.setting(0, group="the run", common=True)
    device: str = DEVICE.setting("auto", group="the run", common=True)
    torch_threads: int | None = THREADS.setting(
        None,
        " (default: torch's own choice)",
        group="the run",
        aliases=("--torch_threads",),
        older=None,
        minimum=1,
        maximum=1024,
    )
