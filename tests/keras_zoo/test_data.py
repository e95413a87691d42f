"""Keras batches: the shared pipeline's pixels, and never silent about bad files."""

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import digits, open_folder
from proxyless_arch.data.images import eval_transform
from proxyless_nas_tensorflow.data import eval_batches

RECIPE = Preprocessing(resolution=16, resize=18)


@pytest.fixture
def damaged(tmp_path):
    """Two classes of four photos; cat/1 is a text file, cat/2 is cut off."""
    for label, name in enumerate(("cat", "dog")):
        for k in range(4):
            path = tmp_path / name / f"{k}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 20), (50 * label, 10 * k, 0)).save(path)
    (tmp_path / "cat/1.jpg").write_bytes(b"a text file")
    whole = (tmp_path / "cat/2.jpg").read_bytes()
    (tmp_path / "cat/2.jpg").write_bytes(whole[: len(whole) // 2])
    return open_folder(tmp_path)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_are_the_shared_pipeline(n_workers):
    images = digits()[1].subset(range(10))
    batches = eval_batches(images, RECIPE, batch_size=4, n_workers=n_workers)
    assert len(batches) == 3
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert pixels.dtype == np.float32 and pixels.shape == (10, 16, 16, 3)
    np.testing.assert_array_equal(labels, images.labels)
    for index in range(10):
        np.testing.assert_array_equal(pixels[index], eval_transform(images.read(index), RECIPE))


def test_limit_is_spread_over_the_classes():
    images = digits()[1]
    batches = list(eval_batches(images, RECIPE, batch_size=50, limit=60))
    assert [len(labels) for _, labels in batches] == [50, 10]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_unreadable_images_are_left_out_and_named(damaged, n_workers):
    batches = eval_batches(damaged, RECIPE, batch_size=2, n_workers=n_workers)
    with pytest.warns(UserWarning, match="image left out"):
        labels = np.concatenate([labels for _, labels in batches])
    assert labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert [place.rsplit("/", 2)[-2:] for place in batches.unreadable.places] == [["cat", "1.jpg"], ["cat", "2.jpg"]]


def test_a_batch_of_unreadable_images_is_passed_over(damaged):
    batches = eval_batches(damaged.subset([1, 2, 3]), RECIPE, batch_size=2)
    with pytest.warns(UserWarning, match="image left out"):
        assert [labels.tolist() for _, labels in batches] == [[0]]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_strict_names_the_first_unreadable_image(damaged, n_workers):
    with pytest.raises(InputError, match=r"cat/1\.jpg"):
        list(eval_batches(damaged, RECIPE, batch_size=2, n_workers=n_workers, strict=True))


@pytest.mark.parametrize(
    "sizes", [{"batch_size": 0}, {"batch_size": 2, "n_workers": -1}, {"batch_size": 2, "limit": 0}]
)
def test_impossible_sizes(damaged, sizes):
    with pytest.raises(InputError, match="expected"):
        eval_batches(damaged, RECIPE, **sizes)
