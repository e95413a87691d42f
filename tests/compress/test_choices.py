"""What there is to choose, what it costs, and that both add up."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from compress.pruning.choices import price_groups, rising
from hardware.cost import MACS, PARAMS, latency_price
from hardware.latency import network_ms, shipped
from hardware.projection import Limit, project
from proxyless_arch.arch import catalog
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, shrink
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.space.shrinking import Freedom, change_of, groups_of, whole_path, width_options
from tests.compress.specs import SPEC

FREE = Freedom(multiple=4, most=3)


def test_widths_are_multiples_from_a_fifth_on_and_the_whole():
    assert width_options(96, Freedom()) == (*range(24, 96, 8), 96)
    assert width_options(30, Freedom()) == (8, 16, 24, 30)
    assert width_options(8, Freedom()) == (8,)
    assert len(width_options(1152, Freedom(most=10))) == 10
    assert width_options(1152, Freedom(most=10))[0] == 232


def test_the_groups_of_the_tiny_network():
    groups = groups_of(SPEC, FREE)
    assert [group.layers for group in groups] == [
        (STEM, "blocks.0"),
        ("blocks.1",),
        ("blocks.2",),
        ("blocks.3",),
        ("blocks.4", FEATURE_MIX, "classifier"),
    ]
    assert [group.block for group in groups] == [None, None, 2, 3, None]
    assert [axis.name for axis in groups[-1].axes] == ["blocks.4", LAST_STAGE, FEATURE_MIX, "blocks.4"]
    assert all(group.options(group.index(options)) == options for group in groups for options in every(group))


def every(group):
    return itertools.product(*(range(len(axis.options)) for axis in group.axes))


def test_costs_of_any_plan_add_up_exactly():
    spec = catalog.load("efficientnet_lite0")
    groups, rng = groups_of(spec, Freedom(most=5)), np.random.default_rng(0)
    macs, params = price_groups(spec, groups, MACS), price_groups(spec, groups, PARAMS)
    ms = price_groups(spec, groups, latency_price(source := shipped("pixel1")))
    for _ in range(5):
        path = tuple(int(rng.integers(len(group.choices))) for group in groups)
        small = shrink(spec, change_of(groups, path))
        assert macs.of_path(path) == total_macs(small)
        assert params.of_path(path) == total_params(small)
        assert ms.of_path(path) == pytest.approx(network_ms(source, walk(small)), rel=1e-12)
    assert change_of(groups, whole_path(groups)).key == ""


def test_projection_on_the_table_is_the_best_by_brute_force():
    groups = groups_of(SPEC, Freedom(multiple=8, most=2, kernels=False))
    macs, params = price_groups(SPEC, groups, MACS), price_groups(SPEC, groups, PARAMS)
    rng = np.random.default_rng(1)
    damages = [rng.random(len(group.choices)) for group in groups]
    limits = [Limit(macs, 0.6 * macs.maximum), Limit(params, 0.7 * params.maximum)]
    paths = [
        path
        for path in itertools.product(*(range(len(group.choices)) for group in groups))
        if all(limit.holds(path) for limit in limits)
    ]
    best = min(sum(row[choice] for row, choice in zip(damages, path, strict=True)) for path in paths)
    found = project([-row for row in damages], limits)
    assert -found.log_prob == pytest.approx(best)
    assert all(limit.holds(found.path) for limit in limits)


def test_measured_prices_rise_with_widths_and_stay_where_they_do():
    groups = groups_of(SPEC, Freedom(multiple=2, most=5))
    table = price_groups(SPEC, groups, MACS)
    assert rising(table, groups) == replace(table, groups=rising(table, groups).groups)
    for same, costs in zip(rising(table, groups).groups, table.groups, strict=True):
        assert same == pytest.approx(costs)  # without noise nothing changes
    rng = np.random.default_rng(0)
    noisy = replace(
        table,
        fixed=-1e9,
        groups=tuple(tuple(float(cost * rng.uniform(0.5, 1.5) - 100) for cost in group) for group in table.groups),
    )
    found = rising(noisy, groups)
    assert found.minimum == pytest.approx(0, abs=1e-6) and min(map(min, found.groups)) >= 0
    for costs, before, group in zip(found.groups, noisy.groups, groups, strict=True):
        shape = [len(axis.options) for axis in group.axes]
        inside = np.array(costs[: math.prod(shape)]).reshape(shape)
        for place, axis in enumerate(group.axes):
            if axis.kind == "width":
                assert (np.diff(inside, axis=place) >= 0).all()
        if len(shape) == 1 and group.axes[0].kind == "width":  # least squares: their sum stays
            assert inside.sum() == pytest.approx(np.maximum(before[: shape[0]], 0).sum())
