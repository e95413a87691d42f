"""Batches of labelled images as numpy arrays, read by any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.batches import Sample, Unreadable, eval_steps, read_ahead, read_batch
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.data.images import AnyImage, network_input

ArrayBatch = tuple[np.ndarray, np.ndarray]
"""(images float32 (n, H, W, 3), labels int64 (n,))."""


@dataclass(frozen=True)
class ImageTransform:
    """An image as the network's input: float32 (H, W, 3), prepared as for evaluation.

    It takes a file, uint8 RGB pixels (height, width, 3), or an image of Pillow.
    """

    preprocessing: Preprocessing

    def __call__(self, image: AnyImage) -> np.ndarray:
        """Raises InputError for an image that cannot be read."""
        return network_input(image, self.preprocessing)


def eval_batches(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    n_workers: int = 0,
    limit: int | None = None,
    strict: bool = False,
) -> Batches:
    """Every image once, in order; the last batch may be short, and a batch with no readable image is passed over.

    Args:
        dataset: the images.
        preprocessing: the preprocessing.
        batch_size: images per batch.
        n_workers: threads that read ahead; 0 reads in this one.
        limit: at most this many images, evenly spaced over the data set.
        strict: an unreadable image is an InputError naming it; otherwise it is left out with a warning.

    Raises:
        InputError: now, for impossible sizes; at a batch, when strict and an image is unreadable.
    """
    if n_workers < 0:
        raise InputError(f"expected 0 or more, got {n_workers}", "n_workers")
    return Batches(
        dataset, preprocessing, eval_steps(len(dataset), batch_size, limit), n_workers, Unreadable(strict=strict)
    )


class Batches(Iterator[ArrayBatch]):
    """An iterator of (images, labels) that can be run through once.

    ``len()`` is the number of batches planned; ``unreadable.places`` names the images left out so far.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        preprocessing: Preprocessing,
        steps: list[list[Sample]],
        n_workers: int,
        unreadable: Unreadable,
    ) -> None:
        self.unreadable = unreadable
        self._n_batches = len(steps)
        self._batches = self._run(read_ahead(partial(read_batch, dataset, preprocessing, None, 0), steps, n_workers))

    def __len__(self) -> int:
        return self._n_batches

    def __next__(self) -> ArrayBatch:
        return next(self._batches)

    def _run(self, batches: Iterator) -> Iterator[ArrayBatch]:
        for images, labels, errors in batches:
            self.unreadable.record(errors)
            if len(labels):
                yield images, labels
