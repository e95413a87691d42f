"""What people who come from Keras Applications try: its arguments, preprocess_input, decode_predictions."""

import inspect

import keras
import numpy as np
import pytest

import proxyless_nas_tensorflow as zoo
from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.arch.spec import with_channels
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.images import as_image, eval_transform
from proxyless_arch.weights.files import save_safetensors
from proxyless_nas_tensorflow.network import build, feature_extractor
from proxyless_nas_tensorflow.weights import load_weights, to_named

IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)


def out(net, images=IMAGES):
    return np.asarray(net(images, training=False))


@pytest.mark.parametrize(("pooling", "pool"), [("avg", np.mean), ("max", np.max), (None, lambda x, axis: x)])
def test_pooling_is_that_of_the_feature_map(tiny_spec, pooling, pool):
    net = build(tiny_spec, include_top=False, pooling=pooling, seed=1)
    plain = build(tiny_spec, include_top=False, seed=1)
    np.testing.assert_allclose(out(net), pool(out(plain), axis=(1, 2)), rtol=1e-6)
    assert not any("classifier" in layer.name for layer in net.layers)


def test_pooled_features_are_the_input_of_the_classifier(tiny_spec):
    net = build(tiny_spec, include_top=False, pooling="avg", seed=1)
    whole = build(tiny_spec, seed=1)
    np.testing.assert_array_equal(out(net), feature_extractor(whole, ["global_pool"])(IMAGES)["global_pool"])
    head = whole.get_layer("classifier.linear")
    np.testing.assert_allclose(out(whole), out(net) @ head.kernel.numpy() + head.bias.numpy(), rtol=1e-5, atol=1e-6)


def test_classifier_activation(tiny_spec):
    logits = out(build(tiny_spec, seed=1))
    net = build(tiny_spec, seed=1, classifier_activation="softmax")
    exponentials = np.exp(logits)
    np.testing.assert_allclose(out(net), exponentials / exponentials.sum(1, keepdims=True), rtol=1e-5)
    assert build(tiny_spec, include_top=False, classifier_activation="softmax").classifier_activation is None
    image = np.zeros((40, 40, 3), np.uint8)
    plain = zoo.predict(build(tiny_spec, seed=1), image)
    for one, other in zip(zoo.predict(net, image), plain, strict=True):  # of the logits, whatever the output is
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, rel=1e-5)


def test_grey_images_get_the_sum_of_the_rgb_weights(tiny_spec, tmp_path):
    """A grey image gives what it gives in RGB, and what it gives in torch; the model and its file stay grey."""
    rgb = build(tiny_spec, seed=1)
    save_safetensors(tmp_path / "rgb.safetensors", tiny_spec, to_named(rgb), {})
    net = load_weights(with_channels(tiny_spec, 1), tmp_path / "rgb.safetensors")
    images = IMAGES[..., :1]
    np.testing.assert_allclose(out(net, images), out(rgb, np.repeat(images, 3, axis=3)), rtol=1e-4, atol=1e-5)
    net.save(tmp_path / "grey.keras")
    assert keras.models.load_model(tmp_path / "grey.keras").input_shape[-1] == 1
    for arguments in ({"input_shape": (32, 48, 1)}, {"input_tensor": keras.Input((32, 48, 1))}):
        named = zoo.proxyless_cpu(include_top=False, **arguments)
        assert named.input_shape == (None, 32, 48, 1)
        assert named.spec.stem.in_channels == 1


def test_saved_and_loaded(tiny_spec, tmp_path):
    for arguments in ({"include_top": False, "pooling": "max"}, {"classifier_activation": "sigmoid", "name": "mine"}):
        net = build(tiny_spec, (32, 32), seed=1, **arguments)
        net.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        assert (again.name, again.pooling, again.classifier_activation) == (
            net.name,
            net.pooling,
            net.classifier_activation,
        )
        np.testing.assert_array_equal(out(again), out(net))


@pytest.fixture(scope="module")
def mobile():
    """A function of the zoo with what it makes, built once."""
    return zoo.proxyless_mobile(include_top=False, pooling="avg", input_shape=(32, 32, 3), name="mine")


def test_a_released_function_takes_the_arguments(mobile):
    assert mobile.name == "mine"
    assert mobile.input_shape == (None, 32, 32, 3)
    assert mobile.output_shape == (None, 1280)
    wanted = {"include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "name"}
    for function in (zoo.proxyless_cpu, zoo.proxyless_gpu, zoo.proxyless_mobile, zoo.proxyless_mobile_14):
        assert {*wanted, "classifier_activation"} <= set(inspect.signature(function).parameters)
        assert "input_tensor" in function.__doc__
    with pytest.raises(InputError, match=r"^pooling"):
        zoo.proxyless_cpu(pooling="min")


def test_weights_classes_and_input_tensor(tmp_path):
    from proxyless_arch.arch import catalog

    spec = catalog.load("proxyless_cpu")
    rng = np.random.default_rng(0)
    tensors = {
        name: (0.1 * rng.standard_normal(shape) + name.endswith(("bn.weight", "running_var"))).astype(np.float32)
        for name, shape in expected_tensors(spec).items()
    }
    tensors = {name: np.abs(array) if name.endswith("running_var") else array for name, array in tensors.items()}
    save_safetensors(tmp_path / "net.safetensors", spec, tensors, {})
    images = keras.Input((None, None, 3))
    scaled = keras.layers.Rescaling(2.0)(images)
    net = zoo.proxyless_cpu(weights=tmp_path / "net.safetensors", classes=7, input_tensor=scaled)
    assert net.output_shape == (None, 7)
    inner = next(layer for layer in net.layers if isinstance(layer, zoo.ProxylessNet))
    assert inner.spec.num_classes == 7
    found = to_named(inner)
    assert all((found[name] == tensors[name]).all() for name in found if not name.startswith("classifier"))
    np.testing.assert_allclose(out(net), out(inner, 2 * IMAGES), rtol=1e-5)
    direct = zoo.proxyless_cpu(weights=tmp_path / "net.safetensors", input_tensor=images, include_top=False)
    assert isinstance(direct, zoo.ProxylessNet)
    assert direct.input is images


def test_imagenet_means_the_published_weights(monkeypatch):
    from proxyless_nas_tensorflow import zoo as module

    asked = []
    monkeypatch.setattr(module, "build", lambda *given, **also: None)
    monkeypatch.setattr(module, "load_pretrained", lambda net, release, what, classes: asked.append(what))
    zoo.proxyless_cpu(weights="imagenet")
    zoo.proxyless_cpu(weights=None)
    zoo.proxyless_cpu(pretrained=True)
    assert asked == [True, True]


@pytest.mark.parametrize("data_format", [None, "channels_last", "channels_first"])
def test_preprocess_input(data_format):
    from proxyless_arch.arch.spec import Preprocessing

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    wanted = eval_transform(as_image(pixels), Preprocessing(resolution=64, resize=64))
    given = pixels.transpose(2, 0, 1) if data_format == "channels_first" else pixels
    for batch in (given[None], keras.ops.convert_to_tensor(given[None])):
        before = np.array(batch)
        found = np.asarray(zoo.preprocess_input(batch, data_format=data_format))
        found = found.transpose(0, 2, 3, 1) if data_format == "channels_first" else found
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)
        np.testing.assert_array_equal(np.array(batch), before)
    with pytest.raises(InputError, match=r"^data_format"):
        zoo.preprocess_input(pixels, data_format="NHWC")


def test_decode_predictions():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, 985], scores[0, 3], scores[1, 7] = 0.75, 0.25, 1
    names = imagenet_classes()
    found = zoo.decode_predictions(scores, top=2)
    wnid = list(names)[985]
    assert found[0] == [(wnid, names[wnid], 0.75), (list(names)[3], names[list(names)[3]], 0.25)]
    assert found[0][0][:2] == ("n11939491", "daisy")
    assert [len(one) for one in found] == [2, 2]
    assert len(zoo.decode_predictions(keras.ops.convert_to_tensor(scores))[0]) == 5
    with pytest.raises(InputError, match=r"^preds"):
        zoo.decode_predictions(scores[:, :10])
