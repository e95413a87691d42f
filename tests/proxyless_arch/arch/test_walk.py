"""Layer sizes, at odd resolutions too."""

import itertools

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import strided
from proxyless_arch.arch.walk import walk
from tests.proxyless_arch.nets import rich, three_blocks


@pytest.mark.parametrize(("size", "stride", "out"), [(224, 2, 112), (11, 2, 6), (1, 2, 1), (11, 1, 11), (7, 2, 4)])
def test_strided(size, stride, out):
    assert strided(size, stride) == out
    for kernel in (1, 3, 5, 7):  # the usual formula with symmetric padding k // 2
        assert (size + 2 * (kernel // 2) - kernel) // stride + 1 == out


def test_walk_of_three_blocks():
    assert [(call.name, call.in_hwc, call.out_hwc, call.skip) for call in walk(three_blocks())] == [
        ("first_conv", (11, 11, 3), (6, 6, 4), False),
        ("blocks.0", (6, 6, 4), (6, 6, 4), False),
        ("blocks.1", (6, 6, 4), (3, 3, 6), False),
        ("blocks.2", (3, 3, 6), (3, 3, 6), True),
        ("feature_mix_layer", (3, 3, 6), (3, 3, 8), False),
        ("classifier", (3, 3, 8), (1, 1, 5), False),
    ]


def test_zero_passes_its_input_on():
    call = walk(rich(), 12)[4]
    assert (call.name, call.in_hwc, call.out_hwc, call.skip) == ("blocks.3", (3, 3, 6), (3, 3, 6), True)


@pytest.mark.parametrize(("resolution", "last"), [(224, 7), (225, 8), (192, 6), (176, 6), (32, 1), (1, 1)])
def test_total_stride_is_32(resolution, last):
    calls = walk(catalog.load("proxyless_mobile"), resolution)
    assert calls[-1].in_hwc == (last, last, 1280)
    for before, after in itertools.pairwise(calls):
        assert before.out_hwc == after.in_hwc
