"""Keras weights under their released names, and Keras' own weight files."""

from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest

import proxyless_nas_tensorflow as zoo
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import read_tensors
from proxyless_arch.weights.lookup import find_network
from proxyless_nas_tensorflow.weights import load_keras_weights, load_named, save_keras_weights, to_named
from tests.errors import named, refused


def noise(spec, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in expected_tensors(spec).items()}


def assert_equal(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.c_contiguous
        assert np.array_equal(found[name], array), name


def test_in_and_out_is_bit_exact(tiny_spec):
    net, tensors = zoo.build(tiny_spec), noise(tiny_spec)
    load_named(net, tiny_spec, tensors)
    assert_equal(to_named(net), tensors)


def test_layouts_by_hand(tiny_spec):
    net, tensors = zoo.build(tiny_spec), noise(tiny_spec)
    load_named(net, tiny_spec, tensors)
    name = "blocks.1.mobile_inverted_conv.depth_conv.conv"
    assert net.get_layer(name).kernel.numpy()[1, 2, 5, 0] == tensors[f"{name}.weight"][5, 0, 1, 2]
    assert net.get_layer("first_conv.conv").kernel.numpy()[0, 2, 1, 7] == tensors["first_conv.conv.weight"][7, 1, 0, 2]
    assert net.get_layer("classifier.linear").kernel.numpy()[8, 3] == tensors["classifier.linear.weight"][3, 8]


def test_the_copy_is_independent(tiny_spec):
    net = zoo.build(tiny_spec)
    to_named(net)["first_conv.conv.weight"][:] = 7
    assert not np.any(to_named(net)["first_conv.conv.weight"] == 7)


def test_a_network_without_its_top_takes_the_rest(tiny_spec):
    net, tensors = zoo.build(tiny_spec, include_top=False), noise(tiny_spec)
    load_named(net, tiny_spec, tensors)
    assert_equal(to_named(net), {n: array for n, array in tensors.items() if not n.startswith("classifier.")})


def test_a_mismatch_is_listed_and_changes_nothing(tiny_spec):
    net, tensors = zoo.build(tiny_spec), noise(tiny_spec)
    before = to_named(net)
    del tensors["first_conv.bn.bias"]
    tensors["stranger"] = np.zeros(1, np.float32)
    tensors["classifier.linear.bias"] = np.zeros(11, np.float32)
    with pytest.raises(InputError) as caught:
        load_named(net, tiny_spec, tensors, "some.pth")
    for part in ("first_conv.bn.bias", "stranger", "expected 10, got 11", "(in some.pth)"):
        assert part in str(caught.value)
    assert_equal(to_named(net), before)


# ------------------------------------------------------------------------------------------------------ .weights.h5


@pytest.mark.parametrize("dropout_rate", [0.0, 0.2])
def test_keras_weights_round_trip(tiny_spec, tmp_path, dropout_rate):
    spec = replace(tiny_spec, classifier=replace(tiny_spec.classifier, dropout_rate=dropout_rate))
    net, path = zoo.build(spec), tmp_path / "net.weights.h5"
    load_named(net, spec, noise(spec))
    save_keras_weights(path, net)
    assert list(tmp_path.iterdir()) == [path]
    for reader in (spec, tiny_spec):
        assert_equal(load_keras_weights(path, reader), noise(spec))


def test_the_optimizers_state_in_a_file_is_passed_over(tiny_spec, tmp_path):
    net = zoo.build(tiny_spec)
    net.compile("adam", "mse")
    net.optimizer.build(net.trainable_variables)
    net.save_weights(tmp_path / "net.weights.h5")
    assert_equal(load_keras_weights(tmp_path / "net.weights.h5", tiny_spec), to_named(net))


def test_keras_weights_of_another_network(tiny_spec, tmp_path, recwarn):
    path = tmp_path / "net.weights.h5"
    save_keras_weights(path, zoo.build(tiny_spec))
    # the last block has a skip, so the network without it takes a prefix of everything but the last layers
    shorter = replace(tiny_spec, blocks=tiny_spec.blocks[:-1])
    for other in (with_classes(tiny_spec, 3), shorter):
        with pytest.raises(InputError, match=r"'tiny'.*net\.weights\.h5"):
            load_keras_weights(path, other)
    assert not [warning for warning in recwarn.list if warning.category is UserWarning]


@pytest.mark.parametrize("names", [True, False], ids=["named", "by order"])
def test_a_mismatch_in_keras_weights_is_listed(tiny_spec, tmp_path, names):
    """Older Keras files hold no layer names; the order of the layers then names them."""
    path = tmp_path / "net.weights.h5"
    save_keras_weights(path, zoo.build(tiny_spec))
    with h5py.File(path, "r+") as file:
        if not names:
            for group in file["layers"].values():
                if "vars" in group and "name" in group["vars"].attrs:
                    del group["vars"].attrs["name"]
        load_keras_weights_of(file, path, tiny_spec)
        file["layers/conv2d_99/vars/0"] = np.zeros(3, np.float32)
        del file["layers/conv2d/vars/0"], file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.zeros(3, np.float32)
    with pytest.raises(InputError) as caught:
        load_keras_weights(path, tiny_spec)
    assert (caught.value.place, caught.value.source) == ("", str(path))
    missing, unexpected, shape = caught.value.problem.split("; ")
    named(missing, "'tiny'", "1 missing (first_conv.conv.weight)")
    named(unexpected, "1 unexpected (layers/conv2d_99/vars/0)")
    named(shape, 1, "classifier.linear.bias: expected 10, got 3")


def load_keras_weights_of(file, path, spec):
    """Whether the file, still open, holds the weights of ``spec``."""
    file.flush()
    assert list(load_keras_weights(path, spec)) == list(expected_tensors(spec))


def test_keras_weights_of_another_depth_name_the_block(tiny_spec, tmp_path):
    path = tmp_path / "net.weights.h5"
    save_keras_weights(path, zoo.build(tiny_spec))
    last = len(tiny_spec.blocks) - 1
    with pytest.raises(InputError, match=rf"unexpected \(blocks\.{last}\."):
        load_keras_weights(path, replace(tiny_spec, blocks=tiny_spec.blocks[:-1]))


def test_files_that_are_none(tiny_spec, tmp_path):
    path = tmp_path / "net.weights.h5"
    with pytest.raises(InputError, match="no such file"):
        load_keras_weights(path, tiny_spec)
    path.write_bytes(b"not HDF5")
    with pytest.raises(InputError):
        load_keras_weights(path, tiny_spec)
    with h5py.File(path, "w") as file:
        file["tensors"] = np.zeros(3)
    with refused("", "Keras model", source=path):
        load_keras_weights(path, tiny_spec)
    with pytest.raises(InputError, match=r"ends in \.weights\.h5"):
        save_keras_weights(tmp_path / "net.h5", zoo.build(tiny_spec))


# ------------------------------------------------------------------------------------------------ whole saved models


@pytest.fixture
def trained(tiny_spec):
    net = zoo.build(tiny_spec)
    load_named(net, tiny_spec, noise(tiny_spec))
    net.compile("adam", keras.losses.MeanSquaredError())
    net.optimizer.build(net.trainable_variables)
    return net


@pytest.mark.filterwarnings("ignore:.*HDF5.*")
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_saved_model_is_read_without_keras(trained, tiny_spec, tmp_path, name):
    trained.save(tmp_path / name)
    for wanted in (None, tiny_spec):
        found = read_tensors(tmp_path / name, wanted)
        assert found.spec == tiny_spec
        assert_equal(found.tensors, noise(tiny_spec))
    assert_equal(to_named(zoo.load(tmp_path / name)), noise(tiny_spec))
    assert find_network(str(tmp_path / name)) == (tiny_spec, tmp_path / name)
    with pytest.raises(InputError, match=r"expected 3x?9?.*, got 10"):
        read_tensors(tmp_path / name, with_classes(tiny_spec, 3))


@pytest.mark.filterwarnings("ignore:.*HDF5.*")
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_keras_loads_what_it_saved(trained, tiny_spec, tmp_path, name):
    trained.save(tmp_path / name)
    net = keras.models.load_model(tmp_path / name)
    assert isinstance(net, zoo.ProxylessNet)
    assert net.spec == tiny_spec
    assert_equal(to_named(net), noise(tiny_spec))


def test_our_network_within_a_persons_model(trained, tiny_spec, tmp_path):
    keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(2.0), trained]).save(tmp_path / "m.keras")
    found = read_tensors(tmp_path / "m.keras")
    assert found.spec == tiny_spec
    assert_equal(found.tensors, noise(tiny_spec))


def test_h5_weights_of_keras_2(tiny_spec, tmp_path):
    """Its save_weights wrote a group for each layer, with ':0' behind the names of variables."""
    net = zoo.build(tiny_spec)
    load_named(net, tiny_spec, noise(tiny_spec))
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for layer in net.layers:
            for variable in layer.weights:
                file[f"{layer.name}/{layer.name}/{variable.name}:0"] = variable.numpy()
    assert_equal(read_tensors(tmp_path / "net.h5", tiny_spec).tensors, noise(tiny_spec))


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_damaged_archives(trained, tiny_spec, tmp_path, keep):
    trained.save(tmp_path / "m.keras")
    whole = (tmp_path / "m.keras").read_bytes()
    for content in (whole[: int(len(whole) * keep)], whole.replace(b"proxyless-arch/spec", b"proxyless-arch/spac")):
        (tmp_path / "m.keras").write_bytes(content)
        with pytest.raises(InputError, match=r"\(in .*m\.keras\)"):
            read_tensors(tmp_path / "m.keras", tiny_spec)
