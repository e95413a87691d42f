"""Keras networks against what the spec says of them, without another framework to compare with."""

import random
from dataclasses import replace

import keras
import numpy as np
import pytest

import proxyless_nas_tensorflow as zoo
from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import MBConv, Zero
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import SMALL, mbconv_space
from proxyless_nas_tensorflow.layers import build_op
from proxyless_nas_tensorflow.network import feature_extractor
from proxyless_nas_tensorflow.weights import to_named
from tests.errors import refused


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def shapes_of(model: keras.Model) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in to_named(model).items()}


# ------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", catalog.names())
def test_a_released_network_has_the_expected_tensors_in_order(name):
    net = getattr(zoo, name)()
    assert list(shapes_of(net).items()) == list(expected_tensors(catalog.load(name)).items())
    assert net.spec == catalog.load(name)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_path_has_the_expected_tensors(seed):
    space = mbconv_space(macro=SMALL, width_mult=0.25, num_classes=7)
    path = tuple(random.Random(seed).randrange(len(ops)) for ops in space.choices)
    spec = space.spec_for(path)
    assert list(shapes_of(zoo.build(spec)).items()) == list(expected_tensors(spec).items())


def test_every_weight_of_the_model_is_named(tiny_spec):
    net = zoo.build(tiny_spec)
    assert len(to_named(net)) == len(net.weights)


# --------------------------------------------------------------------------------------- sizes, classes, features


@pytest.mark.parametrize("resolution", [32, 33, 47])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_every_block_output_has_the_size_that_walk_says(tiny_spec, resolution, padding):
    net = zoo.build(replace(tiny_spec, padding=padding))
    names = [f"blocks.{index}" for index in range(len(tiny_spec.blocks))]
    outputs = feature_extractor(net, ["first_conv.act", *names, "feature_mix_layer.act"])(
        pixels(2, resolution, resolution, 3)
    )
    sizes = [call.out_hwc for call in walk(tiny_spec, resolution)][:-1]
    assert [tuple(output.shape) for output in outputs.values()] == [(2, *size) for size in sizes]


def test_a_vanished_block_passes_its_input_on(tiny_spec):
    assert isinstance(tiny_spec.blocks[2].op, Zero)
    outputs = feature_extractor(zoo.build(tiny_spec), ["blocks.1", "blocks.2"])(pixels(1, 32, 32, 3))
    assert np.array_equal(outputs["blocks.1"], outputs["blocks.2"])


def test_zero_is_zero():
    x = keras.Input((4, 4, 8))
    model = keras.Model(x, build_op(x, "z", Zero(channels=8), catalog.load("proxyless_cpu").bn, "symmetric"))
    assert not np.any(model(pixels(1, 4, 4, 8)))


def test_one_network_takes_any_size_and_rectangles(tiny_spec):
    net = zoo.build(tiny_spec)
    assert net.input_shape == (None, None, None, 3)
    for size in ((32, 32), (1, 1), (37, 64)):
        assert net(pixels(2, *size, 3)).shape == (2, 10)


def test_a_fixed_size_gives_the_same_logits_and_takes_no_other(tiny_spec):
    free, fixed = zoo.build(tiny_spec, seed=1), zoo.build(tiny_spec, (32, 40), seed=1)
    assert fixed.input_shape == (None, 32, 40, 3)
    images = pixels(2, 32, 40, 3)
    assert np.array_equal(free(images), fixed(images))
    with pytest.raises(ValueError, match="shape"):
        fixed(pixels(1, 48, 48, 3))


def test_another_class_count(tiny_spec):
    assert zoo.build(with_classes(tiny_spec, 3)).output_shape == (None, 3)
    net = zoo.proxyless_mobile(num_classes=12, dropout_rate=0.3, input_shape=(96, 96, 3))
    assert net.output_shape == (None, 12)
    assert net.input_shape == (None, 96, 96, 3)
    assert net.get_layer("classifier.dropout").rate == 0.3


def test_without_its_top_a_network_gives_the_feature_map(tiny_spec):
    whole, headless = zoo.build(tiny_spec, seed=2), zoo.build(tiny_spec, include_top=False, seed=2)
    images = pixels(2, 40, 40, 3)
    features = headless(images)
    assert tuple(features.shape) == (2, *walk(tiny_spec, 40)[-1].in_hwc)
    assert np.array_equal(
        features, feature_extractor(whole, ["feature_mix_layer.act"])(images)["feature_mix_layer.act"]
    )
    kept = {name: shape for name, shape in expected_tensors(tiny_spec).items() if not name.startswith("classifier.")}
    assert shapes_of(headless) == kept


def test_padding_differs_at_even_sizes_and_agrees_at_odd_ones(tiny_spec):
    symmetric = zoo.build(tiny_spec, seed=3, include_top=False)
    same = zoo.build(replace(tiny_spec, padding="same"), seed=3, include_top=False)
    odd, even = pixels(1, 33, 33, 3), pixels(1, 32, 32, 3)
    assert np.array_equal(symmetric(odd), same(odd))  # 33, 17, 9, 5: odd in front of every stride
    assert not np.allclose(symmetric(even), same(even))


# -------------------------------------------------------------------------------------------------- initial weights


def test_initial_weights_follow_the_release(tiny_spec):
    net = to_named(zoo.build(with_classes(tiny_spec, 1000), seed=4))
    mix, depthwise = net["feature_mix_layer.conv.weight"], net["blocks.1.mobile_inverted_conv.depth_conv.conv.weight"]
    assert mix.std() == pytest.approx((2 / len(mix)) ** 0.5, rel=0.1)
    assert depthwise.std() == pytest.approx((2 / (25 * len(depthwise))) ** 0.5, rel=0.2)
    linear = net["classifier.linear.weight"]
    bound = linear.shape[1] ** -0.5
    assert bound * 0.99 < np.abs(linear).max() <= bound
    assert linear.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not net["classifier.linear.bias"].any()
    for name, array in net.items():
        if ".bn." in name:
            assert np.all(array == (name.endswith(("weight", "running_var")))), name


def test_a_seed_decides_the_weights(tiny_spec):
    first, again, other, free = (to_named(zoo.build(tiny_spec, seed=seed)) for seed in (0, 0, 1, None))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    convolutions = [name for name in first if name.endswith("conv.weight")]
    for different in (other, free):
        assert not any(np.array_equal(first[name], different[name]) for name in convolutions)
    same_shape = "blocks.0.mobile_inverted_conv.point_linear.bn.weight"
    assert np.all(first[same_shape] == 1)


def test_batch_norm_constants_come_from_the_spec(tiny_spec):
    spec = replace(tiny_spec, bn=replace(tiny_spec.bn, eps=2e-3, momentum=0.03))
    layers = [layer for layer in zoo.build(spec).layers if isinstance(layer, keras.layers.BatchNormalization)]
    n_convs = sum(2 + (block.op.expand_ratio > 1) for block in spec.blocks if isinstance(block.op, MBConv)) + 2
    assert len(layers) == n_convs
    assert {(layer.epsilon, layer.momentum) for layer in layers} == {(2e-3, 0.97)}


# --------------------------------------------------------------------------------------------- life after building


def test_a_saved_model_keeps_its_spec(tiny_spec, tmp_path):
    net = zoo.build(tiny_spec, (32, 48), include_top=False)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert isinstance(loaded, zoo.ProxylessNet)
    assert (loaded.spec, loaded.include_top, loaded.input_shape) == (tiny_spec, False, (None, 32, 48, 3))
    images = pixels(1, 32, 48, 3)
    assert np.array_equal(loaded(images), net(images))


def test_a_name_that_tensorflow_would_not_take(tiny_spec):
    net = zoo.build(replace(tiny_spec, name="_my net/ü"))
    assert net.spec.name == "_my net/ü"
    assert net.predict(pixels(1, 32, 32, 3), verbose=0).shape == (1, 10)


def test_a_network_trains_with_fit(tiny_spec):
    net = zoo.build(replace(tiny_spec, classifier=replace(tiny_spec.classifier, dropout_rate=0.1)))
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = net.fit(pixels(8, 32, 32, 3), np.arange(8), verbose=0)
    assert np.isfinite(history.history["loss"][0])


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("resolution", [0, -1, True, 1.5, "224", (224,), (224, 0), (1, 2, 3)])
def test_a_resolution_that_is_none(tiny_spec, resolution):
    with refused("resolution", "positive integer"):
        zoo.build(tiny_spec, resolution)


def test_other_bad_input(tiny_spec):
    with pytest.raises(InputError, match="seed: "):
        zoo.build(tiny_spec, seed=-1)
    with refused("input_shape", "(height, width, 3 or 1)", "(3, 224, 224)"):
        zoo.proxyless_cpu(input_shape=(3, 224, 224))
    with refused("layer_names", "'blocks.9'", "'blocks."):
        feature_extractor(zoo.build(tiny_spec), ["blocks.9"])


def test_a_network_without_feature_mix(tiny_spec):
    """The last block's output goes into the pool, as in MCUNet's networks."""
    last = len(tiny_spec.blocks) - 1
    width = tiny_spec.blocks[-1].op.out_channels
    spec = replace(tiny_spec, feature_mix=None, classifier=replace(tiny_spec.classifier, in_features=width))
    net = zoo.build(spec, seed=1)
    assert {name: array.shape for name, array in to_named(net).items()} == expected_tensors(spec)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)
    found = feature_extractor(net, [f"blocks.{last}", "classifier.linear"])(images)
    head = net.get_layer("classifier.linear")
    pooled = np.mean(found[f"blocks.{last}"], axis=(1, 2))
    np.testing.assert_allclose(
        found["classifier.linear"], pooled @ head.kernel.numpy() + head.bias.numpy(), rtol=1e-4, atol=1e-6
    )
