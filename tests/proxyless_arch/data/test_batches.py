"""The batch size that is advised where images are few, and batches read ahead by threads."""

import io
import re
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.data import datasets
from proxyless_arch.data.batches import (
    Batch,
    BatchPlan,
    eval_steps,
    fitting_batch_size,
    note_on_few_steps,
    read_ahead,
    read_batch,
)
from proxyless_arch.data.datasets import any_images, digits
from tests.errors import named


@pytest.mark.parametrize(
    ("n_images", "batch_size", "processes", "advised"),
    [
        (324, 256, 1, 32),
        (324, 256, 4, 32),
        (324, 256, 3, 30),
        (1279, 128, 1, 127),
        (1280, 128, 1, None),
        (12, 8, 1, 2),
        (12, 2, 1, None),  # nothing smaller
        (12, 8, 8, None),
    ],
)
def test_few_steps_per_epoch(n_images, batch_size, processes, advised):
    notes = note_on_few_steps(n_images, batch_size, processes)
    found = [int(size) for note in notes for size in re.findall(r"--batch_size (\d+)", note)]
    assert found == ([] if advised is None else [advised])


def test_the_note_counts_what_an_epoch_leaves_out():
    (note,) = note_on_few_steps(324, 256)
    named(note, "1 step", "256 images", "68 of 324", "--batch_size 32", 10)
    named(note_on_few_steps(324, 100)[0], "3 steps", "100 images", "24 of 324")


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_advised_batch_leaves_out_less_than_a_tenth(processes):
    for n_images in range(10 * max(2, processes), 2000):
        size = fitting_batch_size(n_images, processes)
        steps = BatchPlan(n_images=n_images, batch_size=size, seed=0, world_size=processes).steps_per_epoch
        assert steps >= 10 and 10 * (n_images - steps * size) < n_images
        assert note_on_few_steps(n_images, size, processes) == ()


@pytest.mark.parametrize("n_threads", [1, 2, 9])
def test_any_number_of_threads_gives_the_same_batches(n_threads):
    steps = eval_steps(20, 4)
    read = partial(read_batch, digits()[1].subset(range(20)), Preprocessing(resolution=16, resize=18), None, 0)
    here, there = list(read_ahead(read, steps, 0)), list(read_ahead(read, steps, n_threads))
    assert len(there) == len(here) == 5
    for batch, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(batch.images, other.images)
        np.testing.assert_array_equal(batch.labels, other.labels)


def test_threads_read_one_zip(tmp_path, monkeypatch):
    """Every image by eight threads through one archive, against each read alone."""
    monkeypatch.setattr(datasets, "CACHE_BYTES", 0)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(24):
            content = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(content, "png")
            archive.writestr(f"fox/{number:02d}.png", content.getvalue())
    dataset = any_images(tmp_path / "photos.zip")
    read = partial(read_batch, dataset, Preprocessing(resolution=16, resize=18), None, 0)
    steps = eval_steps(len(dataset), 1)
    for batch, step in zip(read_ahead(read, steps * 5, 8), steps * 5, strict=True):
        np.testing.assert_array_equal(batch.images, read(step).images)


def test_threads_stay_near_the_caller_and_end_with_an_abandoned_iterator():
    begun: list[int] = []

    def read(samples):
        begun.append(samples[0].image)
        return Batch(np.zeros((1, 1, 1, 3), np.float32), np.zeros(1, np.int64), ())

    before = threading.active_count()
    batches = read_ahead(read, eval_steps(100, 1), 2)
    next(batches)
    batches.close()
    assert len(begun) <= 5
    assert threading.active_count() == before


def test_an_error_of_a_thread_reaches_the_caller():
    def read(samples):
        if samples[0].image == 3:
            raise ZeroDivisionError
        return samples

    batches = read_ahead(read, eval_steps(6, 1), 2)
    assert [next(batches)[0].image for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(batches)
