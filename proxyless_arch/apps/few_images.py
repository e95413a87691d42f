"""What does not work with few images, and the command that does."""

from __future__ import annotations

import numpy as np

from proxyless_arch.base.cli import command_line
from proxyless_arch.data.datasets import SearchData

ENOUGH_IMAGES, ENOUGH_PER_CLASS = 2000, 20
"""Of a search, or of training from scratch: judgements, from what the searches in docs/results.md had."""
TRAINED = "efficientnet_lite0"
"""Whose weights come without a download."""

SEARCHING = "the network it finds will be inaccurate, and hardly better than one drawn at random"
FROM_SCRATCH = "a network trained from scratch will be inaccurate"


def notes_on_few_images(data: SearchData, data_path: str | None, doing: str) -> list[tuple[str, str]]:
    """Lines of a header, as (label, text), where there are fewer images than ENOUGH; none for the embedded digits.

    ``doing``: SEARCHING or FROM_SCRATCH.
    """
    if data_path is None:
        return []
    labels = np.concatenate([images.labels for images in (data.train, data.valid, data.test)])
    least = int(np.bincount(labels, minlength=len(data.class_names)).min())
    if len(labels) >= ENOUGH_IMAGES and least >= ENOUGH_PER_CLASS:
        return []
    command = command_line("train.py", "--arch", TRAINED, "--pretrained", "--data_path", data_path)
    return [
        (
            "few images",
            f"{len(labels)} in all, {least} in the smallest class, where some {ENOUGH_IMAGES} and {ENOUGH_PER_CLASS} "
            f"are wanted: {doing}",
        ),
        ("", f"fine-tuning a trained network needs far fewer:  {command}"),
    ]
