"""When a header says that there are few images, and that the command it names can be typed."""

import shlex

import numpy as np
import pytest

from proxyless_arch.apps import train_settings
from proxyless_arch.apps.few_images import SEARCHING, notes_on_few_images
from proxyless_arch.base.settings import parse
from proxyless_arch.data.datasets import ArraySource, ImageDataset, SearchData
from tests.errors import named


def images_of(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    source = ArraySource("blank", np.zeros((1, 1, 1), np.uint8))
    return ImageDataset(source, ("0",) * len(labels), labels, tuple(map(str, range(len(counts)))))


def data_of(train, valid, test):
    return SearchData(train=images_of(train), valid=images_of(valid), test=images_of(test))


@pytest.mark.parametrize(
    ("sets", "few"),
    [
        (((1500, 15), (200, 3), (280, 2)), False),  # 2000, 20 of the second class
        (((1500, 15), (200, 3), (279, 2)), True),
        (((2500, 15), (200, 2), (279, 2)), True),
        (((2500, 2500), (0, 0), (0, 0)), False),
        (((5000, 0), (0, 0), (0, 0)), True),
    ],
)
def test_fewer_than_2000_or_than_20_of_a_class(sets, few):
    assert bool(notes_on_few_images(data_of(*sets), "my photos", SEARCHING)) is few


def test_the_embedded_digits_are_no_ones_photos():
    assert notes_on_few_images(data_of((9, 9), (1, 1), (1, 1)), None, SEARCHING) == []


def test_the_command_that_works_is_named():
    (label, counts), (_, command) = notes_on_few_images(data_of((30, 9), (1, 1), (1, 1)), "my photos", SEARCHING)
    assert label == "few images"
    named(counts, 43, 11)
    words = shlex.split(command.split("fewer:")[1])
    assert words[1] == "train.py"
    given = parse(train_settings.TrainConfig, words[2:], "train.py", None)
    assert (given.weights, given.data.data_path) == (train_settings.PRETRAINED, "my photos")
