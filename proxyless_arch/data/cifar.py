"""CIFAR-10 and CIFAR-100 as their authors give them: pickled batches of 32 x 32 images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.data.sources import ArraySource
from proxyless_arch.weights.pickles import read_plain_pickle

SIDE = 32
LABELS = ("labels", "fine_labels")
"""The key of the labels in CIFAR-10's batches, and in CIFAR-100's."""


@dataclass(frozen=True)
class Batches:
    """A folder of pickled batches.

    Args:
        folder: where it is.
        files: the batches of ``train`` and ``test``.
        meta: the file with the names of the classes, and their key in it.
    """

    folder: Path
    files: Mapping[str, tuple[str, ...]]
    meta: tuple[str, str]

    def read(self, split: str) -> tuple[ArraySource, tuple[str, ...], np.ndarray, tuple[str, ...]]:
        """(source, names, labels, class names) of a part: what an ImageDataset is made of.

        Raises:
            InputError: a file that is damaged or holds something else. No pickle runs anything.
        """
        file, key = self.meta
        classes = read_plain_pickle(self.folder / file).get(key)
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise InputError("expected a list of class names", key, str(self.folder / file))
        batches = [_batch(self.folder / name, len(classes)) for name in self.files[split]]
        pixels = np.concatenate([pixels for pixels, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        # classes are in sorted order wherever images come from
        order = sorted(range(len(classes)), key=classes.__getitem__)
        rank = np.argsort(order)
        names = tuple(f"{index:05d}" for index in range(len(labels)))
        source = ArraySource(f"{self.folder}/{split}", pixels)
        return source, names, rank[labels].astype(np.int64), tuple(classes[index] for index in order)


CIFAR10 = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
CIFAR100 = {"train": ("train",), "test": ("test",)}
KINDS = ((CIFAR10, ("batches.meta", "label_names")), (CIFAR100, ("meta", "fine_label_names")))
USUAL = ("", "cifar-10-batches-py", "cifar-100-python")


def find_batches(path: str | os.PathLike[str]) -> Batches | None:
    """The batches in a folder, or in the usual one below it; None where there are none."""
    for folder in (Path(path, usual) for usual in USUAL):
        for files, meta in KINDS:
            if all((folder / name).is_file() for name in (meta[0], *files["train"], *files["test"])):
                return Batches(folder, files, meta)
    return None


def _batch(path: Path, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (images, 32, 32, 3), int64 labels) of a file whose rows are red, green, then blue."""
    found = read_plain_pickle(path)
    pixels = found.get("data")
    labels = next((found[key] for key in LABELS if key in found), None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise InputError(f"expected uint8 (images, {3 * SIDE * SIDE})", "data", str(path))
    is_label = isinstance(labels, list) and all(type(label) is int and 0 <= label < n_classes for label in labels)
    if labels is None or not is_label or len(labels) != len(pixels):
        raise InputError(f"expected a label below {n_classes} for each of {len(pixels)} images", LABELS[0], str(path))
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.array(labels, dtype=np.int64)
