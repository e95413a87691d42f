"""A space whose widths are chosen: what its networks cost, exactly; its file; and what it refuses."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize  # noqa: F401  # which takes time itself

from hardware.cost import MACS, PARAMS, latency_price, price_space
from hardware.latency import network_ms, shipped
from hardware.projection import Limit, project, window
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import IMAGENET, TINY, Macro, Stage
from proxyless_arch.space.search_space import SearchSpace, Width
from proxyless_arch.space.wide import wide_space, width_options

STAGES = (Stage(16, 2, 1), Stage(32, 2, 2))
MACRO = Macro(name="few", stem_width=16, stem_stride=2, first_width=8, stages=STAGES, mix_width=32)
SMALL = wide_space(MACRO, multipliers=(0.5, 1, 1.5), expand_ratios=(1, 3), num_classes=4)


def drawn(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.integers(size)) for size in space.sizes) for _ in range(count)]


@pytest.mark.parametrize("space", [SMALL, wide_space(TINY)], ids=["few", "tiny"])
def test_costs_are_those_of_the_networks(space):
    source = shipped("pixel1")
    tables = [price_space(space, price) for price in (MACS, PARAMS, latency_price(source))]
    for path in [space.largest_path, space.smallest_path, *drawn(space, 6)]:
        spec = space.spec_for(path)
        expected = (total_macs(spec), total_params(spec), network_ms(source, walk(spec)))
        assert [table.of_path(path) for table in tables] == pytest.approx(expected)
    assert tables[0].maximum == total_macs(space.spec_for(space.largest_path))
    assert tables[0].minimum == total_macs(space.spec_for(space.smallest_path))


def test_a_path_and_its_network():
    """Widths stand in front of their stages; blocks, their neighbours and the feature mix follow them."""
    assert SMALL.sizes == (3, 4, 5, 3, 4, 5)
    assert [place for place, _ in SMALL.entries] == [1, 1, 2, 3, 3, 4]
    assert SMALL.choice_labels[0] == ("8 channels", "16 channels", "24 channels")
    spec = SMALL.spec_for((1, 0, 4, 2, 3, 2))
    assert [block.op.in_channels for block in spec.blocks] == [16, 8, 16, 16, 48]
    assert [block.op.label for block in spec.blocks] == ["MB1 3x3", "MB1 3x3", "-- skipped", "MB3 5x5 s2", "MB3 3x3"]
    assert (spec.blocks[4].op.hidden_channels, spec.feature_mix.in_channels) == (144, 48)
    for path in drawn(SMALL, 10):
        assert SMALL.path_of(SMALL.spec_for(path)) == path
    assert SearchSpace.from_json(SMALL.to_json()) == SMALL
    with pytest.raises(InputError) as caught:
        SMALL.path_of(replace(spec, blocks=tuple(SMALL.at({1: 12, 2: 12}).spec_for((0, 0, 0, 0)).blocks)))
    assert caught.value.place == "blocks[1].out_channels"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_the_whole_space_is_projected_at_once_and_lands(seed):
    space, rng = wide_space(IMAGENET), np.random.default_rng(seed)
    assert space.size > 10**24
    table = price_space(space, latency_price(shipped("pixel1")))
    target = float(rng.uniform(table.minimum, table.maximum) * 0.5 + 0.25 * table.maximum)
    log_probs = [np.log(rng.dirichlet(np.ones(size))) for size in space.sizes]
    params = price_space(space, PARAMS)
    few = Limit(params, params.minimum + 0.4 * (params.maximum - params.minimum))
    for rows, limits in (
        (log_probs, [window(table, target)]),
        ([np.zeros(size) for size in space.sizes], [window(table, target)]),
        (log_probs, [window(table, target), few]),
    ):
        before = time.process_time()
        best = project(rows, limits)
        assert time.process_time() - before < 1
        assert 0.99 * target <= best.cost <= target
        assert all(limit.holds(best.path) for limit in limits)
        assert best.cost == pytest.approx(network_ms(shipped("pixel1"), walk(space.spec_for(best.path))))


def test_widths_are_multiples_of_8():
    assert width_options(40) == (24, 32, 40, 48, 64)
    assert width_options(24) == (16, 24, 32, 40)
    with pytest.raises(InputError) as caught:
        wide_space(TINY, 0.05)
    assert caught.value.place == "--width_mult"


@pytest.mark.parametrize("multipliers", [(), (-1, 2), (0, 1), (math.nan, 1), (math.inf, 1), ("a", 1), (None,)])
def test_what_is_no_multiplier(multipliers):
    with pytest.raises(InputError) as caught:
        wide_space(TINY, multipliers=multipliers)
    assert caught.value.place == "multipliers"


@pytest.mark.parametrize("choice", [0.5, "a", None, -1, 99])
def test_what_is_no_choice(choice):
    with pytest.raises(InputError) as caught:
        SMALL.spec_for((0, choice, 0, 0, 0, 0))
    assert caught.value.place == "path[1]"


@pytest.mark.parametrize(
    ("widths", "place"),
    [
        ([{"options": [8, 24], "first": 1, "last": 3}, {"options": [16, 32, 48], "first": 3, "last": 4}], "blocks[3]"),
        ([{"options": [8, 20], "first": 1, "last": 2}], "blocks[1]"),
        ([{"options": [24, 8], "first": 1, "last": 2}], "widths[0].options"),
        ([{"options": [0, 24], "first": 1, "last": 2}], "widths[0].options"),
        ([{"options": [8, 24], "first": 0, "last": 2}], "blocks[0]"),
        ([{"options": [8, 24], "first": 1, "last": 9}], "widths[0]"),
    ],
)
def test_widths_that_are_not_those_of_the_blocks(widths, place):
    with pytest.raises(InputError) as caught:
        SearchSpace.from_json({**SMALL.to_json(), "widths": widths})
    assert caught.value.place == place


def test_widths_need_shared_weights():
    with pytest.raises(InputError) as caught:
        replace(SMALL, weights="own")
    assert caught.value.place == "weights"
    with pytest.raises(InputError):
        Width(options=(), first=0, last=1)
