"""What layers keep and pass, against closed forms; tests/torch_zoo/test_memory.py holds them against autograd."""

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.memory import BYTES, LayerMemory, peak_bytes, scored, scoring_bytes, trained, training_bytes
from proxyless_arch.arch.ops import Conv, Linear, MBConv, Zero
from proxyless_arch.arch.walk import LayerCall, walk

IN = (8, 8, 4)


def call(op, in_hwc=IN, skip=False):
    return LayerCall("blocks.1", op, in_hwc, op.out_hwc(in_hwc), skip)


def test_a_convolution_keeps_its_input_its_output_and_a_copy_for_the_activation():
    conv = call(Conv(in_channels=4, out_channels=6, kernel_size=3, stride=2))
    assert trained(conv, "symmetric").kept == 8 * 8 * 4 + 2 * 4 * 4 * 6
    assert trained(conv, "symmetric").passing == 8 * 8 * 4 + 4 * 4 * 6  # the gradients of both ends
    assert scored(conv, "symmetric") == LayerMemory(0, 8 * 8 * 4 + 2 * 4 * 4 * 6)


def test_same_padding_at_a_stride_keeps_a_padded_copy_instead():
    """From 8 to 4 pixels with a kernel of 3 one row and one column are added."""
    op = Conv(in_channels=4, out_channels=6, kernel_size=3, stride=2)
    assert trained(call(op), "same").kept == 9 * 9 * 4 + 2 * 4 * 4 * 6
    odd = (9, 9, 4)  # one on each side
    assert trained(call(op, odd), "same").kept == 11 * 11 * 4 + 2 * 5 * 5 * 6
    whole = Conv(in_channels=4, out_channels=6, kernel_size=3)
    assert trained(call(whole), "same") == trained(call(whole), "symmetric")


def test_a_bottleneck_keeps_three_convolutions_and_the_skip_passes():
    op = MBConv(in_channels=4, out_channels=4, kernel_size=5, expand_ratio=3)
    kept = 64 * (4 + 2 * 12) + 64 * (12 + 2 * 12) + 64 * (12 + 4)
    assert trained(call(op), "symmetric") == LayerMemory(kept, 2 * 64 * 12)
    assert trained(call(op, skip=True), "symmetric") == LayerMemory(kept, 2 * 64 * 12 + 64 * 4)


def test_what_vanishes_costs_nothing_and_the_classifier_its_features():
    assert trained(call(Zero(channels=4), skip=True), "symmetric") == LayerMemory(0, 0)
    assert trained(call(Linear(in_features=4, out_features=9)), "symmetric") == LayerMemory(4, 0)


def test_the_peak_is_where_what_is_held_and_what_passes_are_most():
    layers = [LayerMemory(kept=10, passing=100), LayerMemory(kept=50, passing=5)]
    assert peak_bytes((1, 1, 3), layers) == BYTES * (3 + 10 + 100)
    assert peak_bytes((1, 1, 3), [*layers, LayerMemory(60, 7)]) == BYTES * (3 + 120 + 7)
    assert peak_bytes((1, 1, 3), []) == BYTES * 3


@pytest.mark.parametrize("name", ["proxyless_cpu", "efficientnet_lite0"])
def test_memory_grows_with_the_pixels_and_training_takes_several_times_that_of_scoring(name):
    spec = catalog.load(name)
    small, large = (training_bytes(walk(spec, size), spec.padding) for size in (112, 224))
    assert large == pytest.approx(4 * small, rel=0.05)
    assert 5 < large / scoring_bytes(walk(spec, 224), spec.padding) < 15
