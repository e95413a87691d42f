"""The same tensors give the same logits in both frameworks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import proxyless_nas
import proxyless_nas.weights as torch_weights
import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.weights as keras_weights
from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.shrink import Shrunk, shrink, widths_of
from proxyless_arch.arch.spec import ArchSpec, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.data.batches import eval_steps, read_batch
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.weights.files import load_pth
from proxyless_arch.weights.slicing import sliced
from proxyless_nas_tensorflow.steps import compiled

ATOL_RANDOM = 1e-5  # at logits of standard deviation 0.1 to 1
ATOL_REAL = 1e-4  # at logits of standard deviation 2
SIZES = (224, 192, 160, 225)
# one network at an odd size too, others at an even one, where paddings differ; each size is a graph of seconds
CASES = [
    pytest.param(name, sizes, marks=[pytest.mark.slow] if slow else [])
    for index, name in enumerate(catalog.names())
    for sizes, slow in (((224, 225) if index == 0 else (224,), False), (SIZES, True))
]


def keras_logits(spec: ArchSpec, tensors: dict[str, np.ndarray]):
    """A function from images (N, H, W, 3) of any size to logits."""
    net = keras_zoo.build(spec)
    keras_weights.load_named(net, spec, tensors)
    forward = compiled(net)
    return lambda images: forward(images).numpy()


@torch.no_grad()
def torch_logits(net: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    return net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def test_a_pruned_network_is_the_same_in_both():
    """Channels zeroed in the large Keras network give the logits of the small one, and so does torch."""
    spec = replace(catalog.load("proxyless_cpu"), preprocessing=Preprocessing(resolution=32, resize=32))
    rng = np.random.default_rng(0)
    net = proxyless_nas.network.build(spec, torch.Generator().manual_seed(0))
    tensors = torch_weights.to_named(net)
    widths = {"first_conv": 24, "blocks.3": 40, "feature_mix_layer": 640}
    channels = {name: np.sort(rng.permutation(widths_of(spec)[name])[:width]) for name, width in widths.items()}
    change = Shrunk(widths)
    small = shrink(spec, change)
    cut = sliced(tensors, spec, change, channels)
    whole = dict(tensors)
    makers = {"blocks.3": "blocks.3.mobile_inverted_conv.inverted_bottleneck"}
    for name, kept in channels.items():
        scale = np.zeros_like(tensors[f"{makers.get(name, name)}.bn.weight"])
        scale[kept] = tensors[f"{makers.get(name, name)}.bn.weight"][kept]
        whole[f"{makers.get(name, name)}.bn.weight"] = scale  # shifts are 0 in random weights
    images = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    expected = keras_logits(spec, whole)(images)
    np.testing.assert_allclose(keras_logits(small, cut)(images), expected, atol=ATOL_RANDOM)
    torch_small = proxyless_nas.network.build(small)
    torch_weights.load_named(torch_small, small, cut)
    np.testing.assert_allclose(torch_logits(torch_small.eval(), images), expected, atol=ATOL_RANDOM)


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_random_weights(name, sizes, lively):
    net = lively(catalog.load(name))
    forward = keras_logits(net.spec, torch_weights.to_named(net))
    for size in sizes:
        images = np.random.default_rng(size).standard_normal((1, size, size, 3), dtype=np.float32)
        wanted = torch_logits(net, images)
        assert 0.1 < wanted.std() < 1
        np.testing.assert_allclose(forward(images), wanted, rtol=0, atol=ATOL_RANDOM)


def test_negative_control(tiny_spec, lively):
    """The comparison above would notice TensorFlow's own padding rule."""
    net = lively(tiny_spec)
    same_padding = keras_logits(replace(tiny_spec, padding="same"), torch_weights.to_named(net))
    # not an odd size: from there every strided layer sees an odd size, where both rules agree
    images = np.random.default_rng(0).standard_normal((1, 32, 32, 3), dtype=np.float32)
    assert np.abs(same_padding(images) - torch_logits(net, images)).max() > 1000 * ATOL_RANDOM


def test_same_padding_agrees_too(tiny_spec, lively):
    spec = replace(tiny_spec, padding="same")
    net = lively(spec)
    forward = keras_logits(spec, torch_weights.to_named(net))
    for size in (32, 34, 39, 41):
        images = np.random.default_rng(size).standard_normal((2, size, size + 3, 3), dtype=np.float32)
        np.testing.assert_allclose(forward(images), torch_logits(net, images), rtol=0, atol=ATOL_RANDOM)


def test_features_agree_block_by_block(tiny_spec, lively):
    net = lively(tiny_spec)
    twin = keras_zoo.build(tiny_spec)
    keras_weights.load_named(twin, tiny_spec, torch_weights.to_named(net))
    images = np.random.default_rng(0).standard_normal((2, 38, 38, 3), dtype=np.float32)
    names = [f"blocks.{index}" for index in range(len(tiny_spec.blocks))]
    found = keras_zoo.network.feature_extractor(twin, names)(images)
    with torch.no_grad():
        x = net.first_conv(torch.from_numpy(images).permute(0, 3, 1, 2))
        for name, block in zip(names, net.blocks, strict=True):
            x = block(x)
            np.testing.assert_allclose(found[name], x.permute(0, 2, 3, 1), rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.shared_data
def test_real_weights_on_real_photos(shared_data):
    official = shared_data / "official" / "proxyless-w0.3-r176_imagenet"
    recipe = Preprocessing(resolution=176, resize=int(176 * 256 / 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    spec = replace(read_spec(official.with_name(f"{official.name}.json")), preprocessing=recipe)
    stored = load_pth(official.with_name(f"{official.name}.pth"))
    tensors = {name: stored[name] for name in expected_tensors(spec)}
    net = proxyless_nas.build(spec).eval()
    torch_weights.load_named(net, spec, tensors)
    forward = keras_logits(spec, tensors)
    same_padding = keras_logits(replace(spec, padding="same"), tensors)

    photos = open_folder(shared_data / "imagenet_sample.zip", "val")
    (samples,) = eval_steps(len(photos), 50, limit=50)
    images, labels, errors = read_batch(photos, recipe, None, 0, samples)
    assert not errors
    wanted, found = torch_logits(net, images), forward(images)
    assert 1.5 < wanted.std() < 4
    assert (wanted.argmax(1) == labels).sum() >= 25  # 63 % of all photos: the weights are where they belong
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL_REAL)
    order = np.argsort(-wanted, axis=1, kind="stable")[:, :5]
    assert np.array_equal(np.argsort(-found, axis=1, kind="stable")[:, :5], order)
    assert np.abs(same_padding(images) - wanted).max() > 1, "the negative control passes"
