"""Models of chips with few bits: closed forms, and the shape of the table that HAQ released."""

import numpy as np
import pytest

from hardware.simulators import SIMULATORS, products
from proxyless_arch.arch.bits import Format, bit_layers
from proxyless_arch.arch.catalog import load

LAYERS = {layer.name: layer for layer in bit_layers(load("proxyless_mobile"))}
DEEP = LAYERS["blocks.20.mobile_inverted_conv.inverted_bottleneck"]
WIDE = LAYERS["feature_mix_layer"]
DEPTHWISE = LAYERS["blocks.1.mobile_inverted_conv.depth_conv"]
BISMO, FUSION = SIMULATORS["bismo"], SIMULATORS["bitfusion"]


def test_a_bit_serial_product_takes_bits_times_bits():
    for layer in (WIDE, DEPTHWISE):
        one = BISMO.compute_cycles(layer, 1, 1, 1)
        assert all(BISMO.compute_cycles(layer, w, a, 1) == w * a * one for w in range(2, 9) for a in range(2, 9))


def test_a_tile_is_filled_or_wasted():
    count, rows, depth, columns = products(WIDE, 1)
    assert (count, rows, depth, columns) == (1, 49, 320, 1280)
    assert BISMO.compute_cycles(WIDE, 1, 1, 1) == 7 * 2 * 160
    assert FUSION.compute_cycles(WIDE, 8, 8, 1) == 49 * (1280 // 32) * (320 // 16)
    assert products(DEPTHWISE, 2) == (DEPTHWISE.shape[0], 2 * 56 * 56, 25, 1)


def test_units_split_at_powers_of_two_alone():
    assert [FUSION.compute_cycles(WIDE, bits, 8, 1) for bits in (3, 5, 6, 7)] == [
        FUSION.compute_cycles(WIDE, bits, 8, 1) for bits in (4, 8, 8, 8)
    ]
    assert FUSION.compute_cycles(WIDE, 2, 2, 1) < FUSION.compute_cycles(WIDE, 4, 4, 1)


def test_weights_are_what_the_last_layers_wait_for():
    """As in the released table: a classifier's time is that of fetching its weights, whatever its activations have."""
    classifier = LAYERS["classifier.linear"]
    costs = [BISMO.cycles(classifier, Format(4, bits)) for bits in (2, 4)]
    assert costs[0] == costs[1] == classifier.n_weights * 4 / 64


@pytest.mark.parametrize("simulator", SIMULATORS.values(), ids=SIMULATORS)
def test_fewer_bits_never_cost_more_and_the_source_says_simulated(simulator):
    for layer in LAYERS.values():
        table = np.array([[simulator.cycles(layer, Format(w, a)) for a in simulator.bits] for w in simulator.bits])
        assert (np.diff(table, axis=0) >= 0).all() and (np.diff(table, axis=1) >= 0).all()
    assert "simulated" in simulator.source
