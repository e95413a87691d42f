"""What the runs of this room do alike: how their folder begins, which images they read at a time, and what a network
scores on some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from compress.config import TrainedConfig
from proxyless_arch.apps.memory import Plan
from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base import runs
from proxyless_arch.base.files import write_json
from proxyless_arch.base.run_settings import RunSettings
from proxyless_arch.data.datasets import ImageDataset
from proxyless_nas.data import eval_batches
from proxyless_nas.devices import device_name
from proxyless_nas.steps import evaluate

Batches = list[tuple[Tensor, Tensor]]
Config = TypeVar("Config", bound=TrainedConfig)


def write_environment(home: Path, words: Sequence[str], device: torch.device, resume: bool) -> None:
    facts = runs.environment(words, torch=torch.__version__, numpy=np.__version__, device=device_name(device))
    runs.write_environment(home, facts, resume)


def write_config(settings: RunSettings[Config], config: Config, training: TrainConfig, home: Path) -> None:
    """config.json, with which train.py finds the images and their split by the folder alone."""
    data = training.data
    seed = training.manual_seed if data.split_seed is None else data.split_seed
    told = {"dataset": data.dataset, "data_path": data.data_path, "valid_size": data.valid_size, "split_seed": seed}
    own = replace(config, **told, data_edition=data.data_edition)
    write_json(home / runs.CONFIG_FILE, settings.to_dict(settings.anchored(own, catalog.known_names())))


def batches_of(images: ImageDataset, spec: ArchSpec, config: TrainedConfig, memory: Plan) -> Any:
    """Batches of (pixels, labels), as many images at a time as are asked for and fit."""
    size = min(config.test_batch_size, memory.images)
    return eval_batches(images, spec.preprocessing, batch_size=size, n_workers=config.n_worker or 0)


def top1_percent(forward: Any, images: ImageDataset, job: Any) -> float | None:
    """Of a network, or what computes it; None without images. ``job``: of a pruning or a quantization."""
    if not len(images):
        return None
    return evaluate(
        forward, batches_of(images, job.spec, job.config, job.memory), job.device, EvalResult()
    ).top1_percent
