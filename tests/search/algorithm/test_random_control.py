"""Random networks of a given cost, against enumeration."""

import itertools

import numpy as np
import pytest

from hardware.cost import CostTable, latency_price, price_space
from hardware.latency import shipped
from hardware.projection import Limit
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import mbconv_space
from search.algorithm.random_control import sample_at_cost


def small_table() -> CostTable:
    rng = np.random.default_rng(5)
    return CostTable(1.0, tuple(tuple(rng.uniform(0, 2, 4)) for _ in range(5)), Unit.MS, "made up")


def test_every_network_of_the_window_is_equally_likely():
    table = small_table()
    target = 7.0
    inside = {p for p in itertools.product(range(4), repeat=5) if 0.97 * target <= table.of_path(p) <= target}
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(inside, 0)
    draws = 1500
    for _ in range(draws):
        counts[sample_at_cost(table, target, 1, rng, lower=0.97)[0]] += 1
    expected = draws / len(inside)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # the mean of chi-square is its degrees of freedom, its variance twice that; 5 sd
    freedom = len(inside) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
    assert min(counts.values()) > 0


def test_all_networks_of_a_small_window_are_found_and_no_more():
    table = small_table()
    inside = {p for p in itertools.product(range(4), repeat=5) if 6.93 <= table.of_path(p) <= 7.0}
    assert len(inside) > 5
    assert set(sample_at_cost(table, 7.0, len(inside), np.random.default_rng(1))) == inside
    with pytest.raises(InputError, match=rf"found {len(inside)} different networks .* requested {len(inside) + 1}"):
        sample_at_cost(table, 7.0, len(inside) + 1, np.random.default_rng(1))


@pytest.mark.parametrize(("cost", "lower"), [(409.5, 0.99), (404.5, 4045 / 4095)])
def test_no_network_is_lost_to_rounding(cost, lower):
    """Bins of width 1; each of ten blocks is rounded by half a bin, all up (409.5) or all down (404.5)."""
    table = CostTable(0.0, ((0.0, cost),) * 10, Unit.MS, "made up")
    assert sample_at_cost(table, 4095.0, 1, np.random.default_rng(0), lower) == [(1,) * 10]


@pytest.mark.parametrize("target", [35.0, 60.0, 80.0, 114.0, 180.0])
def test_imagenet_space_at_several_costs(target):
    table = price_space(mbconv_space(), latency_price(shipped("pixel1")))
    paths = sample_at_cost(table, target, 30, np.random.default_rng(2))
    assert len(set(paths)) == 30
    assert all(0.99 * target <= table.of_path(path) <= target for path in paths)


def test_an_unreachable_window_is_refused():
    with pytest.raises(InputError, match="found 0 different networks"):
        sample_at_cost(small_table(), 0.5, 1, np.random.default_rng(0))


def test_networks_keep_to_limits_beside_the_target():
    table = small_table()
    sizes = CostTable(0.0, tuple((1.0, 2.0, 3.0, 4.0) for _ in range(5)), Unit.PARAMS, "made up")
    limit = Limit(sizes, 11.0)
    inside = {
        path
        for path in itertools.product(range(4), repeat=5)
        if 6.93 <= table.of_path(path) <= 7.0 and sizes.of_path(path) <= 11
    }
    found = sample_at_cost(table, 7.0, len(inside), np.random.default_rng(1), limits=[limit])
    assert set(found) == inside
    assert len(inside) < len(sample_at_cost(table, 7.0, len(inside) + 1, np.random.default_rng(1)))
