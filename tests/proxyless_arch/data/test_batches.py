"""The batch size that is advised where images are few."""

import re

import pytest

from proxyless_arch.data.batches import BatchPlan, fitting_batch_size, note_on_few_steps


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
    found = [int(size) for note in notes for size in re.findall(r"--train_batch_size (\d+)", note)]
    assert found == ([] if advised is None else [advised])


def test_the_note_counts_what_an_epoch_leaves_out():
    assert note_on_few_steps(324, 256) == (
        "few steps per epoch: 1 step of 256 images, 68 of 324 left out; --train_batch_size 32 makes 10",
    )
    assert note_on_few_steps(324, 100)[0].startswith("few steps per epoch: 3 steps of 100 images, 24 of 324 left out;")


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_advised_batch_leaves_out_less_than_a_tenth(processes):
    for n_images in range(10 * max(2, processes), 2000):
        size = fitting_batch_size(n_images, processes)
        steps = BatchPlan(n_images=n_images, batch_size=size, seed=0, world_size=processes).steps_per_epoch
        assert steps >= 10 and 10 * (n_images - steps * size) < n_images
        assert note_on_few_steps(n_images, size, processes) == ()
