"""result.json of a training, for whoever reads it: train.py itself, the page of a search, a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.schema import Schema, amount, count, judged, mapping, percent, sides
from proxyless_arch.base.strict import Node


def _scores(node: Node) -> None:
    for _, score in node.items():
        if score.value is not None:
            percent(score)


SCHEMA: Schema = {
    "arch": Node.text,
    "weights": Node.text,
    **dict.fromkeys(("best_epoch", "n_epochs", "steps", "macs", "params", "num_classes"), count),
    "resolution": sides,
    **dict.fromkeys(("n_train_images", "n_valid_images", "n_test_images", "unreadable_images", "manual_seed"), count),
    "processes": count,
    **dict.fromkeys(("top1_percent", "test_top1_percent", "test_top5_percent"), percent),
    "test_loss": amount,
    "last_test_top1_percent": _scores,
    "test_images": Node.text,
    "images": mapping,
    "wall_seconds": amount,
}
NEEDED = ("weights", "n_valid_images", "n_test_images", "unreadable_images", "last_test_top1_percent", "wall_seconds")
NULLABLE = ("top1_percent", "test_top1_percent")
"""There, but null without images to score."""


def read_training_result(path: Path) -> Mapping[str, Any]:
    """result.json of a finished training. Raises InputError at what is missing or of the wrong kind."""
    record = judged(path, SCHEMA, NEEDED)
    for key in NULLABLE:
        if key not in record:
            raise InputError("missing", key, str(path))
    return record
