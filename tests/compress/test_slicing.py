"""Cutting a network: channels zeroed in the large one give the logits of the small one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from proxyless_arch.arch import catalog
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, shrink, widths_of
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.slicing import sliced
from proxyless_nas.network import build
from proxyless_nas.weights import load_named
from tests.compress.nets import images, tensors, trained
from tests.compress.specs import SPEC, block

MAKERS = {
    STEM: "first_conv",
    LAST_STAGE: "blocks.4.mobile_inverted_conv.point_linear",
    FEATURE_MIX: "feature_mix_layer",
}
WIDTHS = {STEM: 5, "blocks.1": 7, "blocks.2": 3, "blocks.4": 11, LAST_STAGE: 4, FEATURE_MIX: 9}


def channels_of(widths, spec=SPEC, seed=3):
    rng = np.random.default_rng(seed)
    full = widths_of(spec)
    return {name: np.sort(rng.permutation(full[name])[:width]) for name, width in widths.items()}


def zeroed(net, channels):
    """The large network, float64, with the BN behind every channel that goes at scale and shift 0."""
    net = net.double()
    with torch.no_grad():
        for name, kept in channels.items():
            layers = [f"{MAKERS.get(name, f'{name}.mobile_inverted_conv.inverted_bottleneck')}.bn"]
            inside = "blocks.0.mobile_inverted_conv.depth_conv.bn" if name == STEM else None
            inside = f"{name}.mobile_inverted_conv.depth_conv.bn" if name.startswith("blocks") else inside
            for layer in [*layers, *([inside] if inside else [])]:
                bn = net.get_submodule(layer)
                gone = np.setdiff1d(np.arange(len(bn.weight)), kept)
                bn.weight[gone] = 0.0
                bn.bias[gone] = 0.0
    return net


def test_the_widths_of_the_tiny_network():
    assert widths_of(SPEC) == {STEM: 8, "blocks.1": 12, "blocks.2": 18, "blocks.4": 18, LAST_STAGE: 10, FEATURE_MIX: 16}


@pytest.mark.parametrize("names", [[name] for name in WIDTHS] + [list(WIDTHS)])
def test_zeroed_channels_give_the_small_network(names):
    net = trained()
    channels = channels_of({name: WIDTHS[name] for name in names})
    change = Shrunk({name: WIDTHS[name] for name in names})
    found = sliced(tensors(net), SPEC, change, channels)
    spec = shrink(SPEC, change)
    small = build(spec)
    load_named(small, spec, found)
    x = images(4).double()
    with torch.no_grad():
        expected = zeroed(net, channels)(x)
        torch.testing.assert_close(small.eval().double()(x), expected, rtol=1e-12, atol=1e-12)
    assert {name: tensor.shape for name, tensor in found.items()} == expected_tensors(spec)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, padding="same")], ids=["symmetric", "same"])
def test_a_cropped_kernel_is_the_large_one_with_a_border_of_zeros(spec):
    net = trained(spec)
    change = Shrunk(kernels={1: 3, 2: 5})
    found = sliced(tensors(net), spec, change, {})
    small = build(shrink(spec, change))
    load_named(small, small.spec, found)
    with torch.no_grad():
        for index, margin in ((1, 1), (2, 1)):
            weight = net.blocks[index].mobile_inverted_conv.depth_conv.conv.weight
            kept = torch.zeros_like(weight)
            kept[..., margin:-margin, margin:-margin] = weight[..., margin:-margin, margin:-margin]
            weight.copy_(kept)
        x = images(2, side=13)
        torch.testing.assert_close(small.eval()(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_block_left_out_passes_its_input_on():
    net, change = trained(), Shrunk(left_out=frozenset({2, 3}))
    small = build(shrink(SPEC, change))
    load_named(small, small.spec, sliced(tensors(net), SPEC, change, {}))
    with torch.no_grad():
        for index in (2, 3):
            bn = net.blocks[index].mobile_inverted_conv.point_linear.bn
            bn.weight.zero_(), bn.bias.zero_()
        torch.testing.assert_close(small.eval()(images(2)), net(images(2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (Shrunk({"blocks.3": 2}), "widths"),  # its width is the stream's
        (Shrunk({"blocks.1": 13}), "widths.blocks.1"),
        (Shrunk({STEM: 0}), "widths.first_conv"),
        (Shrunk(kernels={0: 5}), "blocks[0].kernel_size"),
        (Shrunk(left_out=frozenset({1})), "left_out blocks[1]"),
    ],
)
def test_what_cannot_become_smaller_is_refused(change, place):
    with pytest.raises(InputError) as error:
        shrink(SPEC, change)
    assert error.value.place == place


def test_as_many_channels_as_the_width():
    with pytest.raises(ValueError, match="first_conv"):
        sliced(tensors(trained()), SPEC, Shrunk({STEM: 4}), {STEM: np.arange(5)})


def test_the_published_policy_of_amc_costs_what_was_published():
    """AMC's MobileNetV2 at 70 % of the FLOPs (amc-models): 210.6 M MACs, published as 210 M; x1.0 has 300.8 M."""
    stages = ((16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 2, 6), (320, 1, 1, 6))
    whole = mobilenet_v2(stages)
    assert total_macs(whole) == pytest.approx(300.8e6, rel=2e-4)
    hidden = (72, 104, 104, 136, 136, 136, 272, 272, 272, 272, 408, 400, 400, 712, 720, 712)
    widths = {STEM: 24, LAST_STAGE: 248, FEATURE_MIX: 848}
    change = Shrunk(widths | {f"blocks.{index}": width for index, width in enumerate(hidden, start=1)})
    assert total_macs(shrink(whole, change)) == pytest.approx(210.6e6, rel=3e-4)


def mobilenet_v2(stages):
    width, blocks = 32, []
    for out, count, stride, expand in stages:
        for number in range(count):
            first = number == 0
            blocks.append(block(width, out, expand=expand, stride=stride if first else 1, skip=not first))
            width = out
    lite = catalog.load("efficientnet_lite0")
    mix = replace(lite.feature_mix, in_channels=width, out_channels=1280)
    return replace(lite, name="v2", blocks=tuple(blocks), feature_mix=mix)


def test_walk_knows_a_shrunk_network():
    change = Shrunk({"blocks.2": 6}, {2: 3}, frozenset({3}))
    by_name = {call.name: call for call in walk(shrink(SPEC, change))}
    assert by_name["blocks.2"].op.bottleneck.hidden_channels == 6
    assert by_name["blocks.2"].op.bottleneck.kernel_size == 3
    assert by_name["blocks.3"].macs == 0
