"""The knapsack against brute force, at the edges of what can be reached, and on the whole ImageNet space."""

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest

from hardware import projection
from hardware.cost_table import CostTable, latency_cost_table, macs_cost_table
from hardware.latency import shipped
from hardware.projection import project
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import mbconv_space


def brute_force(log_probs, table, target, lower):
    """Best path by exact rational sums, fewest choices of probability 0 first; the first in index order of equals."""
    best, chosen = None, None
    for path in itertools.product(*(range(len(edges)) for edges in table.per_edge)):
        if not lower * target <= table.of_path(path) <= target:
            continue
        values = [float(row[j]) for row, j in zip(log_probs, path, strict=True)]
        finite = [value for value in values if value != -math.inf]
        key = (len(finite), sum(map(Fraction, finite), Fraction(0)))
        # where the counts of finite terms differ more is better; the sums then compare only among equals
        if best is None or key > best:
            best, chosen = key, path
    return chosen


def random_case(rng: np.random.Generator):
    """A tiny table with many ties, zero costs and both units; log-probabilities with ties, extremes and zeros."""
    sizes = rng.integers(1, 5, size=rng.integers(1, 6))
    style = rng.integers(4)
    scale = [1.0, 1e8, 1e-3, 0.1][style]
    per_edge = tuple(
        tuple((float(value) if style == 3 else round(float(value))) * scale for value in rng.uniform(0, 12, size=size))
        for size in sizes
    )
    table = CostTable(float(rng.integers(0, 5)) * scale, per_edge, "MACs" if style == 1 else "ms", "random")
    log_probs = []
    for size in sizes:
        logits = rng.normal(size=size) * rng.choice([0.0, 0.1, 1.0, 50.0, 1e6])
        logits = np.round(logits) if rng.random() < 0.3 else logits
        if size > 1 and rng.random() < 0.15:
            logits[rng.integers(size)] = -np.inf
        top = logits.max()
        log_probs.append(logits - top - np.log(np.exp(logits - top).sum()))
    kind = rng.integers(4)
    if kind == 0:
        target = table.minimum
    elif kind == 1:
        target = table.maximum
    else:
        target = float(rng.uniform(0.9 * table.minimum, 1.1 * table.maximum))
    return log_probs, table, target, float(rng.choice([0.5, 0.9, 0.99, 1.0]))


@pytest.mark.parametrize(
    ("cells", "pops"), [(projection.CELLS, projection.POPS), ((1, 3, 7), (2, 5, 10**6))], ids=["as_is", "coarse"]
)
def test_projection_equals_brute_force(monkeypatch, cells, pops):
    """Whatever the grid: it only orders the search."""
    monkeypatch.setattr(projection, "CELLS", cells)
    monkeypatch.setattr(projection, "POPS", pops)
    rng = np.random.default_rng(2024)
    feasible = infeasible = 0
    while feasible + infeasible < 1000:
        log_probs, table, target, lower = random_case(rng)
        if target <= 0:
            continue
        expected = brute_force(log_probs, table, target, lower)
        if expected is None:
            infeasible += 1
            with pytest.raises(InputError, match="no network of this space costs"):
                project(log_probs, table, target, lower)
            continue
        feasible += 1
        found = project(log_probs, table, target, lower)
        assert found.path == expected
        assert found.cost == table.of_path(expected)
        assert lower * target <= found.cost <= target
        assert found.log_prob == math.fsum(float(row[j]) for row, j in zip(log_probs, expected, strict=True))
        argmax = [int(np.argmax(row)) for row in log_probs]
        assert found.n_changed_from_argmax == sum(a != b for a, b in zip(argmax, expected, strict=True))
    assert min(feasible, infeasible) > 200


IMAGENET = {"ms": latency_cost_table(mbconv_space(), shipped("pixel1")), "MACs": macs_cost_table(mbconv_space())}


def random_log_probs(table, seed, spread):
    rng = np.random.default_rng(seed)
    rows = []
    for edges in table.per_edge:
        logits = rng.normal(size=len(edges)) * spread
        rows.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return rows


@pytest.mark.parametrize("spread", [0.0, 0.001, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("unit", ["ms", "MACs"])
def test_the_imagenet_space_is_projected_fast_and_into_the_window(unit, spread):
    table = IMAGENET[unit]
    for share in (0.0, 0.05, 0.3, 0.5, 0.9, 1.0):
        target = table.minimum + share * (table.maximum - table.minimum) if share < 1 else table.maximum
        log_probs = random_log_probs(table, seed=round(100 * share), spread=spread)
        start = time.perf_counter()
        found = project(log_probs, table, target)
        assert time.perf_counter() - start < 1
        assert 0.99 * target <= found.cost <= target
        assert found.cost == table.of_path(found.path)


def test_the_imagenet_optimum_is_certified_by_exchanges():
    """No change of one or two blocks that stays in the window is more probable."""
    table = IMAGENET["ms"]
    log_probs = random_log_probs(table, seed=5, spread=1.0)
    found = project(log_probs, table, 80.0)
    path = list(found.path)
    for first, second in itertools.combinations(range(table.n_blocks), 2):
        for i, j in itertools.product(range(len(log_probs[first])), range(len(log_probs[second]))):
            other = [*path]
            other[first], other[second] = i, j
            value = math.fsum(float(row[k]) for row, k in zip(log_probs, other, strict=True))
            assert value <= found.log_prob or not 79.2 <= table.of_path(tuple(other)) <= 80.0


def test_the_argmax_is_kept_when_it_fits():
    table = IMAGENET["ms"]
    log_probs = random_log_probs(table, seed=1, spread=3.0)
    argmax = tuple(int(np.argmax(row)) for row in log_probs)
    found = project(log_probs, table, table.of_path(argmax))
    assert (found.path, found.n_changed_from_argmax) == (argmax, 0)


@pytest.mark.parametrize("unit", ["ms", "MACs"])
def test_the_extremes_are_reachable_to_the_last_bit(unit):
    table = IMAGENET[unit]
    log_probs = random_log_probs(table, seed=3, spread=1.0)
    assert project(log_probs, table, table.minimum, lower=1.0).cost == table.minimum
    assert project(log_probs, table, table.maximum, lower=1.0).path == table.max_path
    with pytest.raises(InputError, match="no network"):
        project(log_probs, table, math.nextafter(table.minimum, 0))


def test_a_choice_of_probability_zero_is_the_last_resort():
    table = CostTable(0.0, ((10.0, 20.0), (10.0, 20.0)), "ms", "hand")
    log_probs = [np.array([0.0, -np.inf]), np.array([-1e300, 0.0])]
    assert project(log_probs, table, 30.0).path == (0, 1)
    assert project(log_probs, table, 20.0).path == (0, 0)
    forced = project(log_probs, table, 40.0)
    assert (forced.path, forced.log_prob) == ((1, 1), -math.inf)
    assert project([row - 7 for row in log_probs], table, 30.0).path == (0, 1)


def test_ties_go_to_the_first_path():
    table = CostTable(1.0, ((1.0, 2.0, 1.0),) * 4, "ms", "hand")
    uniform = [np.log(np.full(3, 1 / 3))] * 4
    assert project(uniform, table, 6.0).path == (0, 0, 0, 1)


def test_an_empty_window_names_its_neighbours():
    table = CostTable(10.0, ((0.0, 5.0), (0.0, 40.0)), "ms", "hand")
    log_probs = [np.zeros(2), np.zeros(2)]
    with pytest.raises(InputError) as caught:
        project(log_probs, table, 30.0)
    assert str(caught.value) == (
        "target: no network of this space costs 29.7 ms to 30 ms; the nearest that exist cost 15 ms and 50 ms: set "
        "the target to one of these"
    )
    with pytest.raises(InputError, match=r"nearest that exist cost 10 ms: set"):
        project(log_probs, table, 3.0)
    with pytest.raises(InputError, match=r"nearest that exist cost 55 ms: set"):
        project(log_probs, table, 100.0)


def test_wrong_arguments_are_refused():
    table = CostTable(10.0, ((0.0, 5.0),), "ms", "hand")
    good = [np.zeros(2)]
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="target"):
            project(good, table, target)
    for lower in (0.0, 1.01, math.nan):
        with pytest.raises(InputError, match="lower"):
            project(good, table, 10.0, lower)
    with pytest.raises(InputError, match="expected 1 blocks, got 2"):
        project(good * 2, table, 10.0)
    with pytest.raises(InputError, match=r"log_probs\[0\]: expected 2 numbers"):
        project([np.zeros(3)], table, 10.0)
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match=r"log_probs\[0\]: expected numbers below infinity"):
            project([np.array([0.0, bad])], table, 10.0)
