"""MobileNetV4's blocks: both zoos, their files, exports and the graphs that are timed compute what the paper says.

The oracle is written down again here, with torch's functions.
"""

import torch  # isort: split

from dataclasses import replace

import numpy as np
import pytest
from torch.nn import functional as F

import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.export as keras_export
import proxyless_nas_tensorflow.weights as keras_weights
from hardware.profile.graphs import INPUT, to_litert, to_onnx, trace
from hardware.profile.measure import LiteRt, OnnxRuntime, torch_module
from proxyless_arch.arch.codec import parse_spec, spec_to_json
from proxyless_arch.arch.memory import trained
from proxyless_arch.arch.shrink import Shrunk, shrink, widths_of
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.uib import UIB
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.weights.slicing import sliced
from proxyless_nas.export import load_onnx, write_onnx
from proxyless_nas.inference import fold_bn
from proxyless_nas.network import build
from proxyless_nas.weights import load_named, load_weights, save_weights, to_named
from tests.errors import refused
from tests.torch_zoo.test_memory import images_of, kept_values
from tests.uib import SPEC, block

ATOL = 1e-5
IMAGES = np.random.default_rng(0).standard_normal((2, 26, 26, 3), dtype=np.float32)
NCHW = IMAGES.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def net(lively):
    return lively(SPEC).eval()


@pytest.fixture(scope="module")
def wanted(net):
    with torch.no_grad():
        logits = net(torch.from_numpy(NCHW)).numpy()
    assert logits.std() > 0.01
    return logits


def by_hand(tensors, x, spec):
    """The logits and the multiply-accumulates of one image."""
    tensors = {name: torch.from_numpy(array) for name, array in tensors.items()}
    macs = 0

    def conv(x, name, stride=1, groups=1, relu=True):
        nonlocal macs
        weight = tensors[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        macs += x[0].numel() * weight[0].numel()
        parts = (tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parts, eps=spec.bn.eps)
        return F.relu(x) if relu else x

    x = conv(x, "first_conv", stride=2)
    for index, each in enumerate(spec.blocks):
        op, skip = each.op, each.skip
        name, before = f"blocks.{index}.mobile_inverted_conv", x
        if isinstance(op, UIB):
            if op.start_kernel_size:
                stride = op.stride if not op.kernel_size else 1
                x = conv(x, f"{name}.start_conv", stride, groups=x.shape[1], relu=False)
            x = conv(x, f"{name}.inverted_bottleneck")
            if op.kernel_size:
                x = conv(x, f"{name}.depth_conv", op.stride, groups=x.shape[1])
            x = conv(x, f"{name}.point_linear", relu=False)
        else:
            x = conv(x, name, op.stride)
        x = before + x if skip else x
    x = conv(x.mean((2, 3), keepdim=True), "feature_mix_layer").flatten(1)
    weight = tensors["classifier.linear.weight"]
    return F.linear(x, weight, tensors["classifier.linear.bias"]).numpy(), macs + weight.numel()


def test_it_computes_what_the_paper_says(net, wanted):
    logits, macs = by_hand(to_named(net), torch.from_numpy(NCHW), SPEC)
    np.testing.assert_allclose(wanted, logits, rtol=0, atol=ATOL)
    assert macs == total_macs(SPEC)
    assert {name: array.shape for name, array in to_named(net).items()} == expected_tensors(SPEC)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_both_zoos_agree_at_even_and_odd_sizes(padding, lively):
    net = lively(replace(SPEC, padding=padding)).eval()
    twin = keras_zoo.build(net.spec)
    keras_weights.load_named(twin, net.spec, to_named(net))
    for size in (26, 33):
        images = np.random.default_rng(size).standard_normal((1, size, size, 3), dtype=np.float32)
        with torch.no_grad():
            logits = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(twin(images), logits, rtol=0, atol=ATOL)


def test_json_and_files(net, tmp_path):
    assert parse_spec(spec_to_json(SPEC), "net.json") == SPEC
    save_weights(tmp_path / "net.safetensors", net, {})
    again, twin = load_weights(SPEC, tmp_path / "net.safetensors"), keras_zoo.build(SPEC)
    twin.save_weights(tmp_path / "own.weights.h5")
    keras_weights.load_named(twin, SPEC, to_named(again))
    for named in (to_named(again), keras_weights.to_named(twin)):
        for name, array in named.items():
            np.testing.assert_array_equal(array, to_named(net)[name])


@pytest.mark.slow
def test_exports(net, wanted, tmp_path):
    twin = keras_zoo.build(SPEC, 26)
    keras_weights.load_named(twin, SPEC, to_named(net))
    write_onnx(fold_bn(net), tmp_path / "net.onnx", "{}")
    np.testing.assert_allclose(load_onnx(tmp_path / "net.onnx", 1).forward(NCHW), wanted, rtol=0, atol=ATOL)
    np.testing.assert_allclose(run_litert(keras_export.to_litert(twin)), wanted[:1], rtol=0, atol=ATOL)


def test_graphs_that_are_timed(net, wanted):
    tensors = {name: tensor.numpy() for name, tensor in fold_bn(net).state_dict().items()}
    graph = trace(walk(SPEC))
    onnx = OnnxRuntime().load(to_onnx(graph, lambda name, shape: tensors[name].reshape(shape)))
    np.testing.assert_allclose(onnx.run(None, {INPUT: NCHW[:1]})[0], wanted[:1], rtol=0, atol=ATOL)
    litert = to_litert(graph, lambda name, shape: tensors[name])
    np.testing.assert_allclose(run_litert(litert), wanted[:1], rtol=0, atol=ATOL)
    with torch.no_grad():
        assert torch_module(walk(SPEC))(torch.zeros(1, 3, 26, 26)).shape == (1, 5)


def run_litert(model):
    loaded = LiteRt().load(model)
    loaded.set_tensor(loaded.get_input_details()[0]["index"], IMAGES[:1])
    loaded.invoke()
    return loaded.get_tensor(loaded.get_output_details()[0]["index"])


def test_the_memory_that_is_counted_is_autograds(net):
    """The difference of two batches: what does not grow with the batch (BN statistics) falls out.

    Not counted: what an activation in front of a pool keeps, of the last block and of the head.
    """
    trains = build(SPEC).train()
    two, three = (kept_values(trains, trains, images_of(count, 26)) for count in (2, 3))
    assert three - two == sum(trained(call, SPEC.padding).kept for call in walk(SPEC)) + 24 * 4 * 4 + 32


def test_pruning_zeroed_channels_is_cutting_them(lively):
    net = lively(SPEC).eval()
    widths = {"blocks.1": 8, "blocks.3": 16, "blocks.5": 24}
    assert all(widths_of(SPEC)[name] > width for name, width in widths.items())
    channels = {name: np.arange(width) for name, width in widths.items()}
    small = shrink(SPEC, Shrunk(widths))
    cut = sliced(to_named(net), SPEC, Shrunk(widths), channels)
    hidden = {1: "depth_conv", 3: "inverted_bottleneck", 5: "inverted_bottleneck"}
    with torch.no_grad():
        for index, layer in hidden.items():
            bn = net.get_submodule(f"blocks.{index}.mobile_inverted_conv.{layer}.bn")
            gone = slice(widths[f"blocks.{index}"], None)
            bn.weight[gone] = bn.bias[gone] = 0.0
        logits = net(torch.from_numpy(NCHW))
        pruned = build(small)
        load_named(pruned, small, cut)
        torch.testing.assert_close(pruned.eval()(torch.from_numpy(NCHW)), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        ({"start": 4, "kernel": 3}, "start_kernel_size", 4),
        ({"start": 0, "kernel": 2}, "kernel_size", 2),
        ({"start": 0, "kernel": 0, "stride": 2}, "stride", 2),
        ({"start": 0, "kernel": 3, "expand": 0}, "expand_ratio", 0),
    ],
)
def test_what_is_no_block_is_refused(words, place, value):
    with refused(place, value):
        block(8, 8, **words)
