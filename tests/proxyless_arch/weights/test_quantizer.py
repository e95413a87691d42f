"""The definition of quantization, against closed forms and brute force."""

from dataclasses import replace

import numpy as np
import pytest

from proxyless_arch.arch.bits import CHANNEL, KMEANS, TENSOR, Format, Range, bit_layers, uniform_plan
from proxyless_arch.weights.files import load_h5, load_safetensors, save_h5, save_safetensors
from proxyless_arch.weights.quantizer import (
    codebook,
    folded,
    kl_clip,
    levels,
    quantized_activation,
    quantized_tensors,
    quantized_weight,
)
from tests.errors import refused
from tests.proxyless_arch.nets import assert_equal, random_tensors, rich, three_blocks

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(6, 5, 3, 3)) * np.geomspace(0.1, 10, 6).reshape(-1, 1, 1, 1)
SPEC = rich()


def plan_of(spec, bits=4, quantizer=CHANNEL):
    ranges = {layer.name: Range(6.0, signed=layer.leads) for layer in bit_layers(spec)}
    return uniform_plan(spec, Format(bits, 8), ranges, quantizer=quantizer)


@pytest.mark.parametrize("bits", range(1, 9))
def test_activations_have_as_many_values_as_their_bits(bits):
    x = np.linspace(-7, 7, 100_001)
    found = np.unique(quantized_activation(x, bits, Range(6.0)))
    np.testing.assert_allclose(found, np.linspace(0, 6, 2**bits))
    inside = (x >= 0) & (x <= 6)
    assert np.abs(quantized_activation(x, bits, Range(6.0)) - x)[inside].max() <= 3 / levels(bits, signed=False) + 1e-9
    if bits > 1:
        np.testing.assert_allclose(
            np.unique(quantized_activation(x, bits, Range(6.0, signed=True))),
            np.linspace(-6, 6, 2**bits - 1),
            atol=1e-12,
        )


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_channel_is_a_multiple_of_its_step_and_errs_least_of_all_steps_tried(bits):
    found = quantized_weight(WEIGHT, bits).reshape(6, -1)
    rows = WEIGHT.reshape(6, -1)
    for row, values in zip(rows, found, strict=True):
        step = np.diff(np.unique(np.append(np.abs(values), 0))).min()
        assert np.allclose(np.rint(values / step), values / step)
        plain = np.abs(row).max() / levels(bits, signed=True)
        assert ((values - row) ** 2).sum() <= ((np.rint(row / plain) * plain - row) ** 2).sum() + 1e-12
        assert len(np.unique(values)) <= 2**bits - 1


def test_more_bits_err_less_and_channels_less_than_the_whole_tensor():
    def error(bits, quantizer=CHANNEL):
        return ((quantized_weight(WEIGHT, bits, quantizer) - WEIGHT) ** 2).sum()

    assert all(error(bits) > 2 * error(bits + 1) for bits in range(2, 8))
    assert all(error(bits) < error(bits, TENSOR) for bits in range(2, 9))
    assert all(error(bits, KMEANS) > error(bits + 1, KMEANS) for bits in range(1, 8))


def test_a_channel_of_zeros_and_weights_that_are_levels_stay():
    whole = np.arange(-7, 8).astype(float).reshape(1, -1)
    np.testing.assert_array_equal(quantized_weight(whole, 4), whole)
    np.testing.assert_array_equal(quantized_weight(np.zeros((2, 3)), 4), np.zeros((2, 3)))


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_codebook_is_a_fixed_point_of_k_means(bits):
    values = RNG.normal(size=500)
    centres = codebook(values, bits)
    nearest = np.abs(values[:, None] - centres).argmin(1)
    np.testing.assert_allclose(centres, [values[nearest == index].mean() for index in range(2**bits)])
    few = np.array([1.0, 1.0, 2.0, 2.0])
    np.testing.assert_array_equal(codebook(few, 1), [1, 2])


def test_the_threshold_of_few_levels_cuts_outliers_off():
    values = np.abs(np.append(RNG.normal(size=20_000), [40.0]))
    assert kl_clip(values, 7) < 20
    assert kl_clip(np.abs(RNG.uniform(-1, 1, 20_000)), 7) > 0.9


@pytest.mark.parametrize("quantizer", [CHANNEL, TENSOR, KMEANS])
def test_tensors_under_a_plan_are_the_quantized_folded_weights(quantizer):
    tensors = random_tensors(SPEC)
    tensors |= {name: np.abs(value) for name, value in tensors.items() if name.endswith("running_var")}
    found = quantized_tensors(SPEC, tensors, plan_of(SPEC, 4, quantizer))
    assert list(found) == list(tensors) and all(found[name].shape == tensors[name].shape for name in tensors)
    for layer in bit_layers(SPEC):
        whole, rounded = folded(layer, tensors, SPEC.bn.eps), folded(layer, found, SPEC.bn.eps)
        np.testing.assert_allclose(rounded.bias, whole.bias, rtol=1e-5, atol=1e-6)
        wanted = quantized_weight(whole.weight, 4, quantizer)
        np.testing.assert_allclose(rounded.weight, wanted, rtol=1e-5, atol=1e-7)
    floats = quantized_tensors(SPEC, tensors, uniform_plan(SPEC, Format(), {}))
    assert_equal(floats, tensors)


def test_weight_files_hold_the_plan(tmp_path):
    tensors, plan = random_tensors(SPEC), plan_of(SPEC)
    for save, load, name in ((save_safetensors, load_safetensors, "a.safetensors"), (save_h5, load_h5, "a.h5")):
        save(tmp_path / name, SPEC, tensors, {}, plan)
        assert load(tmp_path / name).bits == plan
        assert_equal(load(tmp_path / name).tensors, tensors)
        save(tmp_path / name, SPEC, tensors, {})
        assert load(tmp_path / name).bits is None
    with refused("layers.blocks.4.mobile_inverted_conv.inverted_bottleneck"):
        save_safetensors(tmp_path / "a.safetensors", SPEC, tensors, {}, plan_of(three_blocks()))
    with refused("layers.blocks.4.mobile_inverted_conv.inverted_bottleneck"):
        quantized_tensors(SPEC, tensors, replace(plan_of(three_blocks()), network="other"))
