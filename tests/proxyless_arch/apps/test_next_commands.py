"""Words of the commands that come next: what they ask of a network can be reached."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from proxyless_arch.apps.next_commands import quantizing
from proxyless_arch.arch.bits import FLOAT32, INT8, bit_layers, folds, least_share
from proxyless_arch.arch.shrink import can_shrink
from proxyless_arch.weights.lookup import find_network
from tests.compress.specs import SPEC

RUN = Path("runs/mine")


def share_asked(spec):
    words = quantizing(RUN, spec)
    assert words[:3] == ("quantize.py", "--arch", str(RUN))
    return float(words[words.index("--keep") + 1])


@pytest.mark.parametrize("name", ["efficientnet_lite0", "proxyless_mobile", "mobilenetv4_conv_small"])
def test_a_usual_network_becomes_three_times_smaller(name):
    assert share_asked(find_network(name)[0]) == 0.3


@pytest.mark.parametrize("classes", [2, 10, 3000])
def test_biases_and_scales_of_a_small_network_leave_less_to_save(classes):
    spec = replace(SPEC, classifier=replace(SPEC.classifier, out_features=classes))
    floats, least = (sum(layer.n_bytes(format) for layer in bit_layers(spec)) for format in (FLOAT32, INT8))
    assert least_share(spec) == pytest.approx(least / floats)
    assert share_asked(spec) == pytest.approx(max(0.3, math.ceil(100 * least / floats) / 100))
    assert share_asked(spec) * floats >= least


def test_tree_structured_cells_have_no_plans_and_nothing_to_prune():
    tree, usual = find_network("proxyless_cifar")[0], find_network("efficientnet_lite0")[0]
    assert (folds(tree), can_shrink(tree)) == (False, False)
    assert (folds(usual), can_shrink(usual)) == (True, True)
