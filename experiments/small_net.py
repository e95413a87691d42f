"""A small network for 32 px that trains in minutes on one thread, and its trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxyless_arch.arch.spec import ArchSpec, Preprocessing
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from proxyless_nas.train import TrainConfig, run_training

MACRO = Macro(
    name="dq_proof",
    stem_width=16,
    stem_stride=2,
    first_width=8,
    stages=(Stage(16, 2, 2), Stage(24, 2, 2), Stage(40, 2, 1)),
    mix_width=160,
)
"""7 blocks; all but the first are 3x3 with expansion 3, and half of them have a skip."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
COMMON: dict[str, Any] = {
    "recipe": "default",
    "device": "cpu",
    "n_worker": 0,
    "valid_size": 0,
    "train_batch_size": 64,
    "weight_decay": 1e-4,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    "save_every_seconds": 3600.0,
}


def spec_of() -> ArchSpec:
    preprocessing = Preprocessing(resolution=32, resize=32, mean=MEAN, std=STD)
    space = mbconv_space(macro=MACRO, num_classes=10, preprocessing=preprocessing)
    return space.spec_for((0,) * 6, "dq_proof")


def trained(folder: Path, **settings: Any) -> Path:
    """The folder of a finished training: as it is, or made."""
    if not (folder / "result.json").exists():
        begun = (folder / "config.json").exists()
        run_training(TrainConfig.of(**COMMON | settings), folder, say=None, resume=begun)
    return folder
