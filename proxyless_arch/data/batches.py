"""Which images make up a training step, and how they are read: the same for both frameworks.

The batch of step t is a function of (seed, t) alone: nothing needs to be saved to resume, and the number of
readers cannot change it.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError, LeftOutWarning
from proxyless_arch.base.strict import counted
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.data.images import Augment, eval_transform, train_transform, transform_prepared
from proxyless_arch.data.streams import Stream, numpy_rng

ENOUGH_STEPS = 10
"""Steps of an epoch; with as many, less than a tenth of the images is left out of it."""


def fitting_batch_size(n_images: int, processes: int = 1) -> int:
    """The largest batch that makes ENOUGH_STEPS of an epoch and is shared out equally; for few images the smallest."""
    size = max(2, n_images // ENOUGH_STEPS)
    return max(processes, size - size % processes)


def batch_for(n_images: int, batch_size: int, is_named: bool, processes: int = 1) -> tuple[int, tuple[str, ...]]:
    """(the batch size, what to say of it): a recipe's is made smaller where there are fewer images.

    Raises InputError for a batch that was named and is larger than the images are many.
    """
    if batch_size <= n_images:
        return batch_size, ()
    smaller = fitting_batch_size(n_images, processes)
    if is_named:
        problem = f"{batch_size} images per step, but there are {n_images} to train on; for so few try {smaller}"
        raise InputError(problem, "--batch_size")
    return smaller, (f"batches of {smaller}, not the recipe's {batch_size}: there are {n_images} images to train on",)


def note_on_few_steps(n_images: int, batch_size: int, processes: int = 1) -> tuple[str, ...]:
    """One line where an epoch has fewer than ENOUGH_STEPS and a smaller batch would give more; else none."""
    steps, left_out = divmod(n_images, batch_size)
    smaller = fitting_batch_size(n_images, processes)
    if steps >= ENOUGH_STEPS or smaller >= batch_size:
        return ()
    what = f"{counted(steps, 'step')} of {batch_size} images, {left_out} of {n_images} left out"
    return (f"few steps per epoch: {what}; --batch_size {smaller} makes {n_images // smaller}",)


def seconds_of(computing: float, reading: float, readers: int) -> float:
    """How long an image takes that is read in ``reading`` seconds by one of ``readers`` beside the computation."""
    return max(computing, reading / readers) if readers else computing + reading


def seconds_to_read(
    dataset: ImageDataset, preprocessing: Preprocessing, augment: Augment | None = None, count: int = 8
) -> float:
    """Of each of a few images, evenly spaced, in this process; 0 where none of them can be read."""
    watch = Stopwatch()
    (samples,) = eval_steps(len(dataset), count, limit=count)
    batch = read_batch(dataset.read_once(), preprocessing, augment, 0, samples)
    return watch.seconds / len(batch.labels) if len(batch.labels) else 0.0


class Sample(NamedTuple):
    """One image (its index) in one pass over the data; together with the seed it decides the augmentation."""

    epoch: int
    image: int


class Batch(NamedTuple):
    """Images float32 (n, H, W, 3), labels int64 (n,), and an error for each image that could not be read."""

    images: np.ndarray
    labels: np.ndarray
    errors: tuple[InputError, ...]


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The order of the images over all steps, or one rank's share of it.

    Args:
        n_images: size of the training set.
        batch_size: of the whole step, over all ranks.
        seed: 0 or more.
        drop_last: leave out the images that do not fill a batch (others every epoch); else the last batch is short.
        rank, world_size: this process takes every world_size-th image of each batch.

    Raises:
        InputError: sizes that leave no batch, or ranks with unequal shares.
    """

    n_images: int
    batch_size: int
    seed: int
    drop_last: bool = True
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"expected an integer, 0 or more, got {self.seed}", "seed")
        if self.n_images < 1:
            raise InputError("expected at least one image, got none", "dataset")
        if self.batch_size < 1 or (self.drop_last and self.batch_size > self.n_images):
            raise InputError(f"expected 1 to {self.n_images} (all images), got {self.batch_size}", "batch_size")
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"expected 0 to {self.world_size - 1}, got {self.rank}", "rank")
        if self.batch_size % self.world_size or (self.world_size > 1 and not self.drop_last):
            raise InputError(
                f"expected full batches that {self.world_size} processes can share equally, got {self.batch_size} "
                f"with drop_last={self.drop_last}",
                "batch_size",
            )

    @property
    def steps_per_epoch(self) -> int:
        whole, rest = divmod(self.n_images, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of all image indices in an epoch: int64, (n_images,)."""
        return numpy_rng(self.seed, Stream.ORDER, epoch).permutation(self.n_images)

    def steps(self, first_step: int, n_steps: int) -> Iterator[list[Sample]]:
        """This rank's samples of the global steps first_step .. first_step + n_steps - 1."""
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in range(first_step, first_step + n_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, order = epoch, self.order(epoch)
            whole = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [Sample(epoch, index) for index in whole[self.rank :: self.world_size].tolist()]


def eval_steps(n_images: int, batch_size: int, limit: int | None = None) -> list[list[Sample]]:
    """All images in order, cut into batches; the last may be short.

    Args:
        n_images: size of the data set.
        batch_size: images per batch.
        limit: at most this many images, evenly spaced (the first ones would all be of the first classes).
    """
    if batch_size < 1:
        raise InputError(f"expected an integer, 1 or more, got {batch_size}", "batch_size")
    if limit is not None and limit < 1:
        raise InputError(f"expected an integer, 1 or more, got {limit}", "limit")
    count = n_images if limit is None else min(limit, n_images)
    samples = [Sample(0, position * n_images // count) for position in range(count)]
    return [samples[start : start + batch_size] for start in range(0, count, batch_size)]


def read_batch(
    dataset: ImageDataset, preprocessing: Preprocessing, augment: Augment | None, seed: int, samples: Sequence[Sample]
) -> Batch:
    """Read and transform some images; those that cannot be read are left out and reported in ``errors``.

    Args:
        dataset: where the images are.
        preprocessing: the preprocessing.
        augment: None for the evaluation transform.
        seed: with a sample's epoch and index it decides that image's augmentation.
        samples: which images.
    """
    pixels = dataset.prepared(preprocessing, augment)
    images: list[np.ndarray] = []
    read: list[Sample] = []
    errors: list[InputError] = []
    for sample in samples:
        try:
            if pixels is not None:
                images.append(pixels(sample.image))
            else:
                images.append(_transformed(dataset, preprocessing, augment, seed, sample))
            read.append(sample)
        except InputError as error:
            errors.append(error.from_source(dataset.place(sample.image)))
    stacked = np.stack(images) if images else np.empty((0, *preprocessing.hwc), dtype=np.float32)
    if pixels is not None and images:
        stacked = transform_prepared(stacked, preprocessing, augment, lambda number: _rng(seed, read[number]))
    labels = np.array([dataset.labels[sample.image] for sample in read], dtype=np.int64)
    return Batch(stacked, labels, tuple(errors))


def _rng(seed: int, sample: Sample) -> np.random.Generator:
    return numpy_rng(seed, Stream.AUGMENT, *sample)


def _transformed(
    dataset: ImageDataset, preprocessing: Preprocessing, augment: Augment | None, seed: int, sample: Sample
) -> np.ndarray:
    photo = dataset.photo(sample.image, upright=bool(preprocessing.exif))
    if augment is None:
        return eval_transform(photo.decoded(), preprocessing)
    return train_transform(photo, preprocessing, _rng(seed, sample), augment)


READERS = "read ahead"
"""What the names of threads that read images begin with."""


def read_ahead(
    read: Callable[[Sequence[Sample]], Batch], steps: Sequence[Sequence[Sample]], n_threads: int
) -> Iterator[Batch]:
    """``read(samples)`` for each step, in order, by threads that are at most two batches each ahead of the caller.

    Pillow gives up the interpreter's lock while it decodes and resizes, and so does TensorFlow while it computes.

    Args:
        read: a function of one step's samples.
        steps: the samples of each batch.
        n_threads: 0 reads here, when a batch is asked for.
    """
    if not n_threads:
        yield from map(read, steps)
        return
    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix=READERS)
    try:
        for samples in steps:
            waiting.append(pool.submit(read, samples))
            if len(waiting) > 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # nobody asks for the rest; a generator that was left may be collected in a reader, which cannot wait for itself
        is_reader = threading.current_thread().name.startswith(READERS)
        pool.shutdown(wait=not is_reader, cancel_futures=True)


@dataclass
class Unreadable:
    """The images left out of batches because they could not be read.

    Args:
        strict: raise the first error instead of leaving the image out.
    """

    strict: bool = False
    places: list[str] = field(default_factory=list)
    """One entry per image and epoch it was left out of."""

    def record(self, errors: Sequence[InputError]) -> None:
        """Warn of each by name (or raise, when strict)."""
        for error in errors:
            if self.strict:
                raise error
            self.places.append(error.source or "")
            warnings.warn(f"image left out: {error}", LeftOutWarning, stacklevel=3)
