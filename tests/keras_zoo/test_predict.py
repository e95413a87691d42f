"""load and predict: from a name and one image to class names."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from proxyless_arch.arch.codec import write_spec
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.images import eval_transform
from proxyless_arch.weights.files import save_safetensors
from proxyless_nas_tensorflow import build, load, predict
from proxyless_nas_tensorflow.weights import load_named, save_keras_weights, to_named
from tests.demo_net import NAME, needs_demo
from tests.proxyless_arch.nets import assert_equal, random_tensors, three_blocks

SPEC = replace(three_blocks(), class_names=("ant", "bee", "cat", "dog", "elk"))
TENSORS = {name: np.abs(t) if name.endswith("running_var") else t for name, t in random_tensors(SPEC).items()}
PHOTO = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def weights(tmp_path):
    save_safetensors(tmp_path / "net.safetensors", SPEC, TENSORS, {})
    return tmp_path / "net.safetensors"


def test_load_takes_a_weight_file_or_a_spec_with_one(weights, tmp_path):
    """Keras's own files too, which hold no network."""
    write_spec(tmp_path / "spec.json", SPEC)
    own = build(SPEC)
    load_named(own, SPEC, TENSORS)
    save_keras_weights(tmp_path / "net.weights.h5", own)
    for file in (weights, tmp_path / "net.weights.h5"):
        net = load(tmp_path / "spec.json", file)
        assert_equal(to_named(net), TENSORS)
        assert net.spec == SPEC
    assert_equal(to_named(load(str(weights))), TENSORS)


def test_load_refuses_a_spec_without_weights(tmp_path):
    write_spec(tmp_path / "spec.json", SPEC)
    with pytest.raises(InputError) as caught:
        load(tmp_path / "spec.json")
    assert caught.value.place == "weights"


def test_predict_is_the_softmax_of_the_forward_pass(weights):
    net = load(weights)
    logits = np.asarray(net(eval_transform(Image.fromarray(PHOTO), SPEC.preprocessing)[None]), np.float64)[0]
    wanted = np.exp(logits) / np.exp(logits).sum()
    found = predict(net, PHOTO)
    assert sorted(entry.label for entry in found) == [0, 1, 2, 3, 4]
    for name, probability, label in found:
        assert name == SPEC.class_names[label]
        assert probability == pytest.approx(wanted[label], rel=1e-5)
    assert wanted.std() > 1e-3


def test_predict_needs_the_classifier():
    with pytest.raises(InputError) as caught:
        predict(build(SPEC, include_top=False), PHOTO)
    assert caught.value.place == "net"


def test_a_loaded_network_unpacks_into_all_that_its_use_takes(weights, tmp_path):
    """By hand what predict does, from a file, an array and an image of Pillow; the names are the spec's."""
    net, transform, classes = load(weights)
    assert classes == SPEC.class_names
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    (wanted,) = predict(net, PHOTO, top=1)
    for image in (tmp_path / "photo.png", PHOTO, Image.fromarray(PHOTO)):
        pixels = pickle.loads(pickle.dumps(transform))(image)
        assert pixels.shape == (SPEC.resolution, SPEC.resolution, 3)
        label = int(np.argmax(net(pixels[None])))
        assert (classes[label], label) == (wanted.name, wanted.label)


@needs_demo
@pytest.mark.slow
def test_the_photos_that_eval_shows(capsys):
    """eval_tf.py --arch efficientnet_lite0 prints these classes too: the same top-1, within its printed digits."""
    import eval_tf

    assert eval_tf.main(["--arch", NAME]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if " %  " in line]
    assert len(shown) == 10
    net = load(NAME)
    for photo, first in (("china.jpg", shown[0]), ("flower.jpg", shown[5])):
        (best,) = predict(net, load_sample_image(photo), top=1)
        assert " ".join(first[2:]) == best.name
        assert 100 * best.probability == pytest.approx(float(first[0]), abs=0.1)
    assert best.name == "daisy"
