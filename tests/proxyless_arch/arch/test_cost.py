"""MACs and parameters against published tables and sums made by hand."""

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.walk import total_macs, total_params, walk
from tests.proxyless_arch.nets import rich, three_blocks

PUBLISHED = {
    "proxyless_cpu": (4_361_648, 439_243_864),
    "proxyless_gpu": (7_119_848, 465_260_160),
    "proxyless_mobile": (4_080_512, 320_427_584),
    "proxyless_mobile_14": (6_857_568, 580_883_408),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_networks(name):
    spec = catalog.load(name)
    assert (total_params(spec), total_macs(spec, 224)) == PUBLISHED[name]


def test_macs_by_hand():
    """11 x 11 input: the stem's stride 2 gives 6 x 6, the second block's 3 x 3."""
    by_hand = {
        "first_conv": 6 * 6 * 3 * 3 * 3 * 4,
        "blocks.0": 6 * 6 * 3 * 3 * 4 + 6 * 6 * 4 * 4,  # depthwise, project; no expansion
        "blocks.1": 6 * 6 * 4 * 12 + 3 * 3 * 5 * 5 * 12 + 3 * 3 * 12 * 6,  # expand at 6 x 6, the rest at 3 x 3
        "blocks.2": 3 * 3 * 6 * 36 + 3 * 3 * 7 * 7 * 36 + 3 * 3 * 36 * 6,
        "feature_mix_layer": 3 * 3 * 6 * 8,
        "classifier": 8 * 5,
    }
    assert {call.name: call.macs for call in walk(three_blocks(), 11)} == by_hand
    assert total_macs(three_blocks()) == 3888 + 1872 + 5076 + 19764 + 432 + 40


def test_params_by_hand():
    by_hand = {
        "first_conv": 3 * 3 * 3 * 4 + 2 * 4,
        "blocks.0": (3 * 3 * 4 + 2 * 4) + (4 * 4 + 2 * 4),
        "blocks.1": (4 * 12 + 2 * 12) + (5 * 5 * 12 + 2 * 12) + (12 * 6 + 2 * 6),
        "blocks.2": (6 * 36 + 2 * 36) + (7 * 7 * 36 + 2 * 36) + (36 * 6 + 2 * 6),
        "feature_mix_layer": 6 * 8 + 2 * 8,
        "classifier": 8 * 5 + 5,
    }
    assert {call.name: call.params for call in walk(three_blocks(), 11)} == by_hand


def test_vanished_blocks_are_free():
    calls = {call.name: call for call in walk(rich(), 11)}
    assert calls["blocks.3"].macs == calls["blocks.3"].params == 0


def test_mid_channels_are_what_is_computed():
    call = walk(rich(), 11)[5]
    assert call.macs == 3 * 3 * 6 * 40 + 3 * 3 * 3 * 3 * 40 + 3 * 3 * 40 * 6
    assert call.params == (6 * 40 + 2 * 40) + (3 * 3 * 40 + 2 * 40) + (40 * 6 + 2 * 6)
