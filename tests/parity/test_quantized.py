"""The same plan and weights give the same logits in both frameworks, and rounding is numpy's definition of it."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import torch

import proxyless_nas.quantized as torch_quantized
import proxyless_nas_tensorflow.quantized as keras_quantized
from proxyless_arch.arch.bits import BitPlan, Format, Range, bit_layers, ties, uniform_plan
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.data.batches import eval_steps, read_batch
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.weights.files import load_pth
from proxyless_arch.weights.quantizer import quantized_activation
from proxyless_nas.weights import to_named

ATOL = 1e-4
MIXED = [Format(8, 8), Format(4, 6), Format(3, 8), Format(), Format(8, None), Format(None, 4)]


def mixed_plan(spec, seed=0):
    """Formats at random, one for tied inputs."""
    rng = np.random.default_rng(seed)
    formats = {layer.name: MIXED[rng.integers(len(MIXED))] for layer in bit_layers(spec)}
    for chain in ties(spec):
        bits = formats[chain[0]].activation_bits
        formats |= {name: Format(formats[name].weight_bits, bits) for name in chain}
    ranges = {layer.name: Range(3.0, signed=layer.leads) for layer in bit_layers(spec)}
    return BitPlan(network=spec.name, formats=formats, ranges=ranges)


def both(spec, tensors, plan, images):
    ours = torch_quantized.exact_forward(torch_quantized.build_quantized(spec, tensors, plan))
    theirs = keras_quantized.exact_forward(spec, tensors, plan)
    return ours(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy(), theirs(images).numpy()


@pytest.mark.parametrize("padding", ["symmetric", pytest.param("same", marks=pytest.mark.slow)])
def test_logits_of_mixed_plans_are_equal(padding, lively, tiny_spec):
    spec = replace(tiny_spec, padding=padding, preprocessing=replace(tiny_spec.preprocessing, resolution=33, resize=33))
    net = lively(spec)
    images = np.random.default_rng(1).standard_normal((4, 33, 33, 3), dtype=np.float32)
    found, wanted = both(spec, to_named(net), mixed_plan(spec), images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL)
    plain = net(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    assert np.abs(found - plain).max() > 100 * ATOL, "nothing was rounded"
    floats, again = both(spec, to_named(net), uniform_plan(spec, Format(), {}), images)
    np.testing.assert_allclose(floats, plain, rtol=0, atol=1e-5)
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (4, False), (8, False), (2, True), (5, True), (8, True)])
def test_rounding_is_the_definition_and_gradients_pass_straight_through(bits, signed):
    x = np.random.default_rng(0).normal(0, 3, (50, 7))
    given = Range(4.0, signed)
    wanted = quantized_activation(x, bits, given)
    inside = (np.abs(x) < 4) & (signed | (x > 0))
    tensor = torch.from_numpy(x.copy()).requires_grad_()
    found = torch_quantized.fake_quantized(tensor, bits, given.clip, signed=signed)
    found.sum().backward()
    np.testing.assert_array_equal(found.detach().numpy(), wanted)
    np.testing.assert_allclose(tensor.grad.numpy(), inside)
    with torch.no_grad():  # in place, but not in x
        again = torch_quantized.fake_quantized(tensor, bits, given.clip, signed=signed)
    np.testing.assert_array_equal(again.numpy(), wanted)
    np.testing.assert_array_equal(tensor.detach().numpy(), x)
    layer, variable = keras_quantized.InputQuantizer(bits, given.clip, signed, dtype="float64"), tf.Variable(x)
    with tf.GradientTape() as tape:
        result = layer(variable)
    np.testing.assert_array_equal(result.numpy(), wanted)
    np.testing.assert_allclose(tape.gradient(result, variable).numpy(), inside)


def test_a_clip_learns():
    """d/dclip of the mean of what is clipped is their share, and rounding adds what it moved, over the clip."""
    x, clip = (
        torch.tensor([0.4, 5.0, 9.0], dtype=torch.float64),
        torch.tensor(3.0, dtype=torch.float64, requires_grad=True),
    )
    torch_quantized.fake_quantized(x, 2, clip).sum().backward()
    assert clip.grad.item() == pytest.approx(2 + (0.0 - 0.4) / 3)


@pytest.mark.slow
@pytest.mark.shared_data
def test_logits_of_the_released_small_network_are_equal(shared_data):
    official = shared_data / "official" / "proxyless-w0.3-r176_imagenet"
    spec = read_spec(official.with_name(f"{official.name}.json"))
    stored = load_pth(official.with_name(f"{official.name}.pth"))
    tensors = {name: stored[name] for name in expected_tensors(spec)}
    photos = open_folder(shared_data / "imagenet_sample.zip", "val")
    (samples,) = eval_steps(len(photos), 8, limit=8)
    images, _, _ = read_batch(photos, spec.preprocessing, None, 0, samples)
    found, wanted = both(spec, tensors, mixed_plan(spec), images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL)
