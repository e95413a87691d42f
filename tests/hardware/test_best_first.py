"""The most probable networks, one after the other, against all of them in order and against the programs of HiGHS."""

import itertools
import math

import numpy as np
import pytest

from hardware import best_first, projection
from hardware.best_first import most_probable
from hardware.cost import MACS, CostTable, latency_price, price_space
from hardware.latency import shipped
from hardware.projection import TIE, Limit, k_best, window
from hardware.together import Lifted
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import mbconv_space
from tests.hardware.test_projection import brute_force, random_case, random_limits, random_log_probs

SPACE = mbconv_space()
MS, COUNTED = price_space(SPACE, latency_price(shipped("pixel1"))), price_space(SPACE, MACS)


def test_what_comes_first_equals_brute_force():
    """Tables with ties, zeros and both units, one to three limits; of half of them nothing is within the limits."""
    rng, counts = np.random.default_rng(5), []
    while len(counts) < 200:
        rows, table, *_ = random_case(rng)
        if any(np.isneginf(row).any() for row in rows):
            continue
        limits = random_limits(rng, table)
        ranked = brute_force(rows, limits)
        found = most_probable(rows, limits, 5, TIE * max(float(np.ptp(row)) for row in rows))
        assert len(set(found)) == len(found) == min(5, len(ranked))
        exact = {path: float(value) for _, value, path in ranked}
        for path, (_, value, _) in zip(found, ranked, strict=False):
            assert exact[path] == pytest.approx(float(value), rel=1e-8, abs=1e-8)
        counts.append(len(found))
    assert {0, 1, 5} <= set(counts)


def limits_of(share, with_macs):
    middle = MS.minimum + share * (MS.maximum - MS.minimum)
    macs = [Limit(COUNTED, COUNTED.minimum + (share - 0.1) * (COUNTED.maximum - COUNTED.minimum))]
    return [window(MS, middle), *(macs if with_macs else [])]


@pytest.mark.parametrize("with_macs", [False, True])
def test_they_equal_the_programs_one_after_the_other(with_macs):
    rows, limits = random_log_probs(MS, 3, 1.0), limits_of(0.5, with_macs)
    program, expected = projection._program(Lifted(MS), list(rows), limits, ()), []
    while len(expected) < 3:
        expected.append(program.best(expected, True))
    assert [each.path for each in k_best(rows, limits, 3)] == expected


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 100.0])
def test_many_networks_of_the_imagenet_space_come_in_order(spread):
    rows, (limit,) = random_log_probs(MS, 1, spread), limits_of(0.4, False)
    found = k_best(rows, [limit], 100)
    losses = [-each.log_prob for each in found]
    assert len({each.path for each in found}) == 100 and all(map(limit.holds, (each.path for each in found)))
    assert losses == pytest.approx(sorted(losses), abs=1e-6 * (spread or 1.0))
    # nothing within the limit that differs from one of them in two blocks is better than the last and missing
    known = {each.path for each in found}
    rng = np.random.default_rng(0)
    for _ in range(3000):
        path = list(found[int(rng.integers(100))].path)
        for block in rng.integers(len(path), size=2):
            path[block] = int(rng.integers(len(MS.groups[block])))
        loss = -math.fsum(row[choice] for row, choice in zip(rows, path, strict=True))
        assert tuple(path) in known or not limit.holds(tuple(path)) or loss >= losses[-1] - 1e-6


def test_of_equals_the_first_in_index_order_comes_first():
    table = CostTable(0.0, ((1.0, 2.0, 3.0),) * 3, Unit.MS, "hand")
    rows, limit = [np.zeros(3)] * 3, Limit(table, 6.0, 5.0)
    every = [path for path in itertools.product(range(3), repeat=3) if limit.holds(path)]
    assert most_probable(rows, [limit], 99, 0.0) == every


def test_too_long_a_search_is_given_up_and_the_programs_find_the_same(monkeypatch):
    table = CostTable(0.0, ((1.0, 2.0),) * 4, Unit.MS, "hand")
    rows, limit = [np.array([0.0, -step - 1.0]) for step in range(4)], Limit(table, 6.5)
    quick = k_best(rows, [limit], 11)
    monkeypatch.setattr(best_first, "MAX_GROWN", 3)
    assert most_probable(rows, [limit], 11, 0.0) is None
    assert k_best(rows, [limit], 6) == quick[:6]
    assert k_best(rows, [limit], 11) == quick[: projection.MOST_PROGRAMS]
    monkeypatch.setattr(best_first, "MAX_GROWN", 12)
    few = k_best(rows, [limit], 11)
    assert 0 < len(few) < len(quick) == 11 and few == quick[: len(few)]


def test_networks_that_were_found_outlast_a_program_that_is_given_up(monkeypatch):
    table = CostTable(0.0, ((1.0, 2.0),) * 4, Unit.MS, "hand")
    rows, limit = [np.array([0.0, -step - 1.0]) for step in range(4)], Limit(table, 6.5)
    quick, asked = k_best(rows, [limit], 3), []
    monkeypatch.setattr(best_first, "MAX_GROWN", 0)
    best = projection._Program.best

    def given_up(program, *words):
        asked.append(words)
        if len(asked) == 4:
            raise projection._UnsettledError(None)
        return best(program, *words)

    monkeypatch.setattr(projection._Program, "best", given_up)
    assert k_best(rows, [limit], 6) == quick
