"""Weights travel between the frameworks without losing a bit."""

import numpy as np
import pytest

import proxyless_nas
import proxyless_nas.weights as torch_weights
import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.weights as keras_weights
from proxyless_arch.arch import catalog
from proxyless_arch.weights.files import load_h5, save_h5


def assert_same_bits(found, wanted):
    assert list(found) == list(wanted)
    assert [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()] == []


@pytest.mark.parametrize("name", ["tiny", "proxyless_mobile"])
def test_torch_h5_keras_h5_torch(name, tiny_spec, lively, tmp_path):
    spec = tiny_spec if name == "tiny" else catalog.load(name)
    source = torch_weights.to_named(lively(spec))

    save_h5(tmp_path / "from_torch.h5", spec, source, {})
    first = load_h5(tmp_path / "from_torch.h5")
    twin = keras_zoo.build(first.spec)
    keras_weights.load_named(twin, first.spec, first.tensors)

    save_h5(tmp_path / "from_keras.h5", twin.spec, keras_weights.to_named(twin), {})
    second = load_h5(tmp_path / "from_keras.h5")
    assert second.spec == spec
    back = proxyless_nas.build(second.spec)
    torch_weights.load_named(back, second.spec, second.tensors)
    assert_same_bits(torch_weights.to_named(back), source)


def test_torch_to_keras_weights_and_back(tiny_spec, lively, tmp_path):
    source = torch_weights.to_named(lively(tiny_spec))
    twin = keras_zoo.build(tiny_spec)
    keras_weights.load_named(twin, tiny_spec, source)
    keras_weights.save_keras_weights(tmp_path / "net.weights.h5", twin)
    assert_same_bits(keras_weights.load_keras_weights(tmp_path / "net.weights.h5", tiny_spec), source)


def test_both_zoos_give_the_same_names_in_the_same_order(tiny_spec):
    mine, theirs = (
        keras_weights.to_named(keras_zoo.build(tiny_spec)),
        torch_weights.to_named(proxyless_nas.build(tiny_spec)),
    )
    assert [(n, a.shape, a.dtype) for n, a in mine.items()] == [(n, a.shape, a.dtype) for n, a in theirs.items()]


def test_both_zoos_start_from_the_same_distribution():
    """Standard deviation of every large initial tensor, within the noise of a draw."""
    spec = catalog.load("proxyless_mobile")
    mine = keras_weights.to_named(keras_zoo.build(spec, seed=0))
    theirs = torch_weights.to_named(proxyless_nas.build(spec))
    for name, array in theirs.items():
        if array.size > 3000:
            assert abs(mine[name].std() / array.std() - 1) < 0.1, name
        if array.ndim == 1:
            assert np.array_equal(mine[name], array), name
