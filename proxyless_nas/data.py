"""Batches of labelled images as torch tensors, read by any number of worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError, LostProcessError
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.data.batches import BatchPlan, Sample, Unreadable, eval_steps, read_batch
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.data.images import AnyImage, Augment, network_input

WAIT_SECONDS = 600
"""For a batch that other processes read. A full one takes seconds; a file system that has to wake up, minutes."""

TensorBatch = tuple[torch.Tensor, torch.Tensor]
"""(images float32 (n, 3, H, W) in channels_last memory, labels int64 (n,))."""


@dataclass(frozen=True)
class ImageTransform:
    """An image as the network's input: float32 (3, H, W), prepared as for evaluation.

    It takes a file, uint8 RGB pixels (height, width, 3), or an image of Pillow, and so fits torchvision's data sets.
    """

    preprocessing: Preprocessing

    def __call__(self, image: AnyImage) -> torch.Tensor:
        """Raises InputError for an image that cannot be read."""
        return torch.from_numpy(network_input(image, self.preprocessing)).permute(2, 0, 1)


def train_batches(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    augment: Augment | None,
    *,
    batch_size: int,
    seed: int,
    n_steps: int,
    first_step: int = 0,
    n_workers: int = 0,
    drop_last: bool = True,
    rank: int = 0,
    world_size: int = 1,
    strict: bool = False,
) -> Batches:
    """The batches of training steps first_step .. first_step + n_steps - 1, over as many epochs as that takes.

    The batch of a step depends on (dataset, preprocessing, augment, batch_size, seed, step) alone, bit for bit: not
    on the step this run started from nor on the number of workers. torch's global random state is not touched.

    Args:
        dataset: the training images.
        preprocessing: the preprocessing.
        augment: None for the evaluation transform (the images for alpha).
        batch_size: images per step over all ranks; each of world_size processes gets an equal share of them.
        seed: 0 or more.
        n_steps: how many batches.
        first_step: the global step of the first one.
        n_workers: processes that read ahead; 0 reads in this one.
        drop_last: see BatchPlan.
        rank: of this process, 0 .. world_size - 1.
        world_size: number of training processes.
        strict: an unreadable image is an InputError naming it; otherwise it is left out with a warning.

    Raises:
        InputError: now, for impossible sizes; at a batch, when strict and an image is unreadable, or when every
            image of the batch is.
    """
    plan = BatchPlan(
        n_images=len(dataset),
        batch_size=batch_size,
        seed=seed,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
    )
    if first_step < 0 or n_steps < 0:
        raise InputError(f"expected 0 or more, got {first_step} and {n_steps}", "first_step, n_steps")
    steps = plan.steps(first_step, n_steps)
    loader = _loader(_Reader(dataset, preprocessing, augment, seed), _Steps(steps), min(n_workers, n_steps))
    return Batches(loader, n_steps, Unreadable(strict=strict), keep_going=False)


def eval_batches(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    n_workers: int = 0,
    limit: int | None = None,
    strict: bool = False,
    augment: Augment | None = None,
    seed: int = 0,
) -> Batches:
    """Every image once, in order; the last batch may be short, and a batch with no readable image is passed over.

    Args:
        dataset: the images.
        preprocessing: the preprocessing.
        batch_size: images per batch.
        n_workers: processes that read ahead; 0 reads in this one.
        limit: at most this many images, evenly spaced over the data set.
        strict: an unreadable image is an InputError naming it; otherwise it is left out with a warning.
        augment: the images as in training, for statistics that the weights were trained with; None to score.
        seed: of the augmentation.

    Raises:
        InputError: now, for impossible sizes; at a batch, when strict and an image is unreadable.
    """
    steps = eval_steps(len(dataset), batch_size, limit)
    loader = _loader(_Reader(dataset, preprocessing, augment, seed), _Steps(steps), min(n_workers, len(steps)))
    return Batches(loader, len(steps), Unreadable(strict=strict), keep_going=True)


class Batches(Iterator[TensorBatch]):
    """An iterator of (images, labels) that can be run through once.

    ``len()`` is the number of batches planned; ``unreadable.places`` names the images left out so far, and
    ``first_images`` the first few of the batch given last.
    """

    def __init__(self, loader: DataLoader, n_batches: int, unreadable: Unreadable, keep_going: bool) -> None:
        self.unreadable = unreadable
        self.first_images: list[str] = []
        self._loader, self._n_batches, self._keep_going = loader, n_batches, keep_going
        self._batches = self._run()

    def __len__(self) -> int:
        return self._n_batches

    def __next__(self) -> TensorBatch:
        return next(self._batches)

    def _run(self) -> Iterator[TensorBatch]:
        for images, labels, errors, first_images in _watched(self._loader):
            self.first_images = first_images
            self.unreadable.record(errors)
            if len(labels):
                # NHWC in memory is exactly what torch calls channels_last.
                yield images.permute(0, 3, 1, 2), labels
            elif not self._keep_going:
                raise InputError(f"no image of this batch can be read; the first: {errors[0]}", "dataset")


@dataclass(frozen=True)
class _Reader(Dataset):
    """Reads a whole step at once; errors travel as values, because torch rewrites an exception from a worker."""

    dataset: ImageDataset
    preprocessing: Preprocessing
    augment: Augment | None
    seed: int

    def __getitems__(self, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, list[InputError], list[str]]:
        images, labels, errors = read_batch(self.dataset, self.preprocessing, self.augment, self.seed, samples)
        first = [self.dataset.place(sample.image) for sample in samples[:3]]
        return torch.from_numpy(images), torch.from_numpy(labels), list(errors), first


@dataclass(frozen=True)
class _Steps:
    """The batch sampler: the samples of each step."""

    steps: Iterable[list[Sample]]

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter(self.steps)


def _watched(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader. Raises LostProcessError where a process that reads is gone or does not answer.

    DataLoader's own time limit does not hold while it waits for the memory of a batch from one that is stopped.
    """
    try:
        batches = iter(loader)
    except (ConnectionError, EOFError) as error:  # one that helps to start them is gone
        raise LostProcessError(f"the processes that read images cannot be started: {error}") from None
    workers = getattr(batches, "_workers", ())
    if not workers:
        yield from batches
        return
    while True:
        patience = threading.Timer(WAIT_SECONDS, _kill, (workers,))
        patience.start()
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, EOFError, OSError) as error:
            if patience.is_alive() and not _tells_of_a_loss(error):
                raise
            raise _lost(workers, patience) from None
        finally:
            patience.cancel()
        yield batch


def _tells_of_a_loss(error: Exception) -> bool:
    """Whether it is of the connection to a process that reads, and not what happened there."""
    return isinstance(error, ConnectionError | EOFError) or "dataloader worker" in str(error).lower()


def _kill(workers: Sequence[Any]) -> None:
    """One that is stopped would not hear a request to end."""
    for worker in workers:
        worker.kill()


def _lost(workers: Sequence[Any], patience: threading.Timer) -> LostProcessError:
    """What became of processes that read; none of them is left."""
    was_in_time = patience.is_alive()
    _kill(workers)
    for worker in workers:
        worker.join()
    what = "is gone: killed, often since memory was short" if was_in_time else (
        f"has not answered for {format_seconds(WAIT_SECONDS)}"
    )  # fmt: skip
    return LostProcessError(
        f"a process that reads images {what}; with fewer --workers it takes less memory, 0 reads here"
    )


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the parent decides, saves, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _as_is(batch: tuple) -> tuple:
    return batch


def _loader(reader: _Reader, steps: _Steps, n_workers: int) -> DataLoader:
    if n_workers < 0:
        raise InputError(f"expected 0 or more, got {n_workers}", "n_workers")
    reader.dataset.prepared(reader.preprocessing, reader.augment)  # found here, once, and not by each reader
    return DataLoader(
        reader,
        batch_sampler=steps,
        num_workers=n_workers,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        # Its own generator: else every loader draws from torch's global one and a resumed run differs.
        generator=torch.Generator(),
    )
