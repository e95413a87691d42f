"""CIFAR's pickled batches, read without running a pickle."""

import os
import pickle

import numpy as np
import pytest

from proxyless_arch.data.datasets import has_own_test, load_for_search, open_folder
from tests.errors import refused

CLASSES = ["truck", "bird", "cat"]  # in no order


def pixels_of(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write(path, value):
    path.write_bytes(pickle.dumps(value, protocol=2))


def batch(count: int, seed: int, key: str = "labels") -> dict:
    planes = pixels_of(count, seed).transpose(0, 3, 1, 2).reshape(count, 3072)
    return {"data": planes, key: [k % len(CLASSES) for k in range(count)], "filenames": ["x"] * count}


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    write(folder / "batches.meta", {"label_names": CLASSES, "num_vis": 3072})
    for number in range(1, 6):
        write(folder / f"data_batch_{number}", batch(6, number))
    write(folder / "test_batch", batch(3, 0))
    return folder


def test_batches_are_training_and_test_images(cifar10):
    for path in (cifar10, cifar10.parent):
        train, test = open_folder(path, "train"), open_folder(path, "eval")
        assert (len(train), len(test)) == (30, 3)
        assert train.class_names == test.class_names == ("bird", "cat", "truck")
        assert train.labels[:4].tolist() == [2, 0, 1, 2]  # truck, bird, cat, truck
        np.testing.assert_array_equal(np.asarray(train.read(7)), pixels_of(6, 2)[1])
        np.testing.assert_array_equal(np.asarray(test.read(2)), pixels_of(3, 0)[2])
        assert has_own_test(path)
    data = load_for_search("imagefolder", cifar10, 6, seed=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (24, 6, 3) and not data.left_out.lines()


def test_cifar100(tmp_path):
    write(tmp_path / "meta", {"fine_label_names": CLASSES, "coarse_label_names": ["a"]})
    write(tmp_path / "train", batch(6, 1, "fine_labels") | {"coarse_labels": [0] * 6})
    write(tmp_path / "test", batch(3, 2, "fine_labels"))
    assert len(open_folder(tmp_path, "train")) == 6
    assert open_folder(tmp_path, "test").labels.tolist() == [2, 0, 1]


class Runs:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    ("broken", "place", "values"),
    [
        ({"data": np.zeros((3, 3072), np.float32), "labels": [0, 1, 2]}, "data", ["uint8", "(images, 3072)"]),
        ({"data": np.zeros((3, 99), np.uint8), "labels": [0, 1, 2]}, "data", ["uint8", "(images, 3072)"]),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]}, "labels", ["below 3", "each of 3"]),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 3]}, "labels", ["below 3", "each of 3"]),
        ({"data": np.zeros((3, 3072), np.uint8)}, "labels", ["label"]),
        ({"data": Runs()}, "", ["pickle", "mkdir"]),
        ([1], "", ["{name: value}"]),
    ],
)
def test_other_pickles_are_refused_by_name_and_run_nothing(cifar10, monkeypatch, broken, place, values):
    monkeypatch.chdir(cifar10)
    write(cifar10 / "test_batch", broken)
    with refused(place, *values, source=cifar10 / "test_batch"):
        open_folder(cifar10, "test")
    assert not (cifar10 / "made-by-a-pickle").exists()
