"""The knapsack against brute force, at the edges of what can be reached, and on the whole ImageNet space."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize

from hardware import projection
from hardware.cost import MACS, PARAMS, CostTable, latency_price, price_space
from hardware.latency import shipped
from hardware.projection import BINS, TIE, Limit, Match, check_limits, k_best, project, project_draws, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import mbconv_space
from tests.errors import refused


def brute_force(log_probs, limits):
    """Every path within the limits, best first: fewest choices of probability 0, then by exact rational sums."""
    found = []
    for path in itertools.product(*(range(len(group)) for group in limits[0].table.groups)):
        if all(limit.lower <= limit.table.of_path(path) <= limit.upper for limit in limits):
            values = [float(row[j]) for row, j in zip(log_probs, path, strict=True)]
            finite = [value for value in values if value != -math.inf]
            found.append((-len(finite), -sum(map(Fraction, finite), Fraction(0)), path))
    return sorted(found)


def first_of_equals(log_probs, ranked):
    """The first in index order of what is as probable as the best."""
    gaps = [max(row[np.isfinite(row)]) - row[np.isfinite(row)] for row in log_probs if np.isfinite(row).any()]
    within = Fraction(TIE) * Fraction(float(max(gap.max() for gap in gaps)))
    best = ranked[0]
    return min(path for banned, negated, path in ranked if banned == best[0] and negated <= best[1] + within)


def random_case(rng: np.random.Generator):
    """A tiny table with many ties, zero costs and both units; log-probabilities with ties, extremes and zeros."""
    sizes = rng.integers(1, 5, size=rng.integers(1, 6))
    style = rng.integers(4)
    scale = [1.0, 1e8, 1e-3, 0.1][style]
    groups = tuple(
        tuple((float(value) if style == 3 else round(float(value))) * scale for value in rng.uniform(0, 12, size=size))
        for size in sizes
    )
    table = CostTable(float(rng.integers(0, 5)) * scale, groups, Unit.MACS if style == 1 else Unit.MS, "random")
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


def test_projection_equals_brute_force():
    rng = np.random.default_rng(2024)
    feasible = infeasible = 0
    while feasible + infeasible < 400:
        log_probs, table, target, lower = random_case(rng)
        if target <= 0:
            continue
        limit = window(table, target, lower)
        ranked = brute_force(log_probs, [limit])
        if not ranked:
            infeasible += 1
            with refused("target"):
                project(log_probs, [limit])
            continue
        feasible += 1
        found = project(log_probs, [limit])
        expected = first_of_equals(log_probs, ranked)
        assert found.path == expected
        assert found.cost == table.of_path(expected)
        assert lower * target <= found.cost <= target
        assert found.log_prob == math.fsum(float(row[j]) for row, j in zip(log_probs, expected, strict=True))
        argmax = [int(np.argmax(row)) for row in log_probs]
        assert found.n_changed_from_argmax == sum(a != b for a, b in zip(argmax, expected, strict=True))
    assert min(feasible, infeasible) > 80


def random_limits(rng, table):
    """A window on ``table`` and two upper limits on tables of their own."""
    others = []
    for unit in (Unit.PARAMS, Unit.MACS):
        groups = tuple(tuple(map(float, rng.integers(1, 10**6, size=len(group)))) for group in table.groups)
        others.append(CostTable(float(rng.integers(10**6)), groups, unit, "random"))
    uppers = [rng.uniform(other.minimum, other.maximum) for other in others]
    target = rng.uniform(table.minimum, table.maximum)
    return [window(table, max(target, 1e-3), 0.7), *map(Limit, others, uppers)]


def test_several_budgets_and_the_k_best_equal_brute_force():
    rng = np.random.default_rng(7)
    numbers = []
    while len(numbers) < 80:
        log_probs, table, *_ = random_case(rng)
        limits = random_limits(rng, table)
        ranked = brute_force(log_probs, limits)
        if not ranked:
            with refused("target", "params", "MACs"):
                project(log_probs, limits)
            continue
        found = k_best(log_probs, limits, 3)
        assert found[0].path == first_of_equals(log_probs, ranked)
        assert len({each.path for each in found}) == len(found) == min(3, len(ranked))
        assert all(each.costs == tuple(limit.table.of_path(each.path) for limit in limits) for each in found)
        scores = {path: (banned, negated) for banned, negated, path in ranked}
        for ours, theirs in zip(found, ranked, strict=False):
            assert scores[ours.path][0] == theirs[0]
            assert float(scores[ours.path][1]) == pytest.approx(float(theirs[1]), rel=1e-8, abs=1e-8)
        numbers.append(len(found))
    assert {1, 3} <= set(numbers)


def test_the_k_best_of_equals_come_in_index_order():
    table = CostTable(0.0, ((1.0, 1.0), (1.0, 1.0)), Unit.MS, "hand")
    rows = [np.zeros(2), np.zeros(2)]
    assert [each.path for each in k_best(rows, [Limit(table, 2.0)], 9)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_an_upper_limit_alone():
    table = CostTable(0.0, ((1.0, 5.0), (1.0, 3.0)), Unit.PARAMS, "hand")
    rows = [np.array([0.0, 1.0]), np.array([0.0, 0.5])]
    assert project(rows, [Limit(table, 8.0)]).path == (1, 1)
    assert project(rows, [Limit(table, 7.0)]).path == (1, 0)
    with refused("--max_params", "1 params", "2 params"):
        check_limits([Limit(table, 1.0, flag="--max_params")])


IMAGENET = {
    Unit.MS: price_space(mbconv_space(), latency_price(shipped("pixel1"))),
    Unit.MACS: price_space(mbconv_space(), MACS),
    Unit.PARAMS: price_space(mbconv_space(), PARAMS),
}


def random_log_probs(table, seed, spread):
    rng = np.random.default_rng(seed)
    rows = []
    for edges in table.groups:
        logits = rng.normal(size=len(edges)) * spread
        rows.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return rows


@pytest.mark.parametrize("spread", [0.0, 0.001, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("unit", [Unit.MS, Unit.MACS])
def test_the_imagenet_space_is_projected_into_the_window(unit, spread):
    table = IMAGENET[unit]
    for share in (0.0, 0.05, 0.3, 0.5, 0.9, 1.0):
        target = table.minimum + share * (table.maximum - table.minimum) if share < 1 else table.maximum
        log_probs = random_log_probs(table, seed=round(100 * share), spread=spread)
        found = project(log_probs, [window(table, target)])
        assert 0.99 * target <= found.cost <= target
        assert found.cost == table.of_path(found.path)


def test_the_imagenet_optimum_is_certified_by_exchanges():
    """No change of one or two blocks that stays in the window is more probable."""
    table = IMAGENET[Unit.MS]
    log_probs = random_log_probs(table, seed=5, spread=1.0)
    found = project(log_probs, [window(table, 80.0)])
    path = list(found.path)
    for first, second in itertools.combinations(range(table.n_groups), 2):
        for i, j in itertools.product(range(len(log_probs[first])), range(len(log_probs[second]))):
            other = [*path]
            other[first], other[second] = i, j
            value = math.fsum(float(row[k]) for row, k in zip(log_probs, other, strict=True))
            assert value <= found.log_prob or not 79.2 <= table.of_path(tuple(other)) <= 80.0


def test_the_imagenet_space_keeps_to_three_budgets():
    log_probs = random_log_probs(IMAGENET[Unit.MS], seed=5, spread=1.0)
    landing = window(IMAGENET[Unit.MS], 80.0)
    alone = project(log_probs, [landing])
    tighter = [Limit(IMAGENET[unit], 0.97 * IMAGENET[unit].of_path(alone.path)) for unit in (Unit.PARAMS, Unit.MACS)]
    found = project(log_probs, [landing, *tighter])
    assert all(limit.holds(found.path) for limit in (landing, *tighter))
    for left_out in range(2):  # a relaxation is at least as probable
        relaxed = project(log_probs, [landing, tighter[left_out]])
        assert found.log_prob <= relaxed.log_prob <= alone.log_prob
    assert found.log_prob < alone.log_prob


def test_the_argmax_is_kept_when_it_fits():
    table = IMAGENET[Unit.MS]
    log_probs = random_log_probs(table, seed=1, spread=3.0)
    argmax = tuple(int(np.argmax(row)) for row in log_probs)
    found = project(log_probs, [window(table, table.of_path(argmax))])
    assert (found.path, found.n_changed_from_argmax) == (argmax, 0)


@pytest.mark.parametrize("unit", [Unit.MS, Unit.MACS])
def test_the_extremes_are_reachable_to_the_last_bit(unit):
    table = IMAGENET[unit]
    log_probs = random_log_probs(table, seed=3, spread=1.0)
    assert project(log_probs, [window(table, table.minimum, lower=1.0)]).cost == table.minimum
    assert project(log_probs, [window(table, table.maximum, lower=1.0)]).path == table.max_path
    with pytest.raises(InputError, match="no network"):
        project(log_probs, [window(table, math.nextafter(table.minimum, 0))])


def test_a_choice_of_probability_zero_is_the_last_resort():
    table = CostTable(0.0, ((10.0, 20.0), (10.0, 20.0)), Unit.MS, "hand")
    log_probs = [np.array([0.0, -np.inf]), np.array([-1e300, 0.0])]
    assert project(log_probs, [window(table, 30.0)]).path == (0, 1)
    assert project(log_probs, [window(table, 20.0)]).path == (0, 0)
    forced = project(log_probs, [window(table, 40.0)])
    assert (forced.path, forced.log_prob) == ((1, 1), -math.inf)
    assert project([row - 7 for row in log_probs], [window(table, 30.0)]).path == (0, 1)


def test_ties_go_to_the_first_path():
    table = CostTable(1.0, ((1.0, 2.0, 1.0),) * 4, Unit.MS, "hand")
    uniform = [np.log(np.full(3, 1 / 3))] * 4
    assert project(uniform, [window(table, 6.0)]).path == (0, 0, 0, 1)


def test_an_empty_window_names_its_neighbours():
    table = CostTable(10.0, ((0.0, 5.0), (0.0, 40.0)), Unit.MS, "hand")
    log_probs = [np.zeros(2), np.zeros(2)]
    with refused("target", "29.7 ms to 30 ms", "15 ms and 50 ms"):
        project(log_probs, [window(table, 30.0)])
    with refused("target", "10 ms"):
        project(log_probs, [window(table, 3.0)])
    with refused("target", "55 ms"):
        project(log_probs, [window(table, 100.0)])


def ones(n, *others):
    """Costs of 0 or 1; another group of 0 or 0.1 makes them no multiples of a step that can be told from 0."""
    return CostTable(0.0, ((0.0, 1.0),) * n + others, Unit.MS, "hand")


def rising(table, seed):
    """Log-probabilities by which the more expensive is the more probable, without ties."""
    return [np.array([0.0, gain]) for gain in np.random.default_rng(seed).uniform(1, 2, table.n_groups)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("others", [(), ((0.0, 0.1),)], ids=["steps", "no steps"])
def test_hundreds_of_equals_just_outside_a_limit(monkeypatch, seed, others):
    """252 of 5 ms, each more probable than anything inside."""
    if others:
        monkeypatch.setattr(projection, "MAX_CUTS", 5)
    table = ones(10, *others)
    limit, rows = Limit(table, 5 - 1e-12), rising(table, seed)
    assert project(rows, [limit]).path == brute_force(rows, [limit])[0][2]


def test_a_limit_between_steps_is_as_exact_as_a_cost_is_rounded():
    """0.1 seven times over is 0.7 rounded, and the limit on either side of it decides."""
    table = CostTable(0.1, ((0.0, 0.1),) * 6, Unit.MS, "hand")
    rows, most = rising(table, 0), table.maximum
    assert project(rows, [Limit(table, most)]).path == (1,) * 6
    assert sum(project(rows, [Limit(table, math.nextafter(most, 0))]).path) == 5
    assert project([-row for row in rows], [Limit(table, 1.0, lower=most)]).path == (1,) * 6


def test_the_k_best_do_not_use_up_the_cuts(monkeypatch):
    monkeypatch.setattr(projection, "MAX_CUTS", 2)
    table = ones(5, (0.0, 0.1))
    limit, rows = Limit(table, 5 - 1e-12), rising(table, 0)  # one is just outside
    assert [each.path for each in k_best(rows, [limit], 9)] == [path for *_, path in brute_force(rows, [limit])[:9]]


def giving_up(monkeypatch, first, **changes):
    """HiGHS stops at its limit of nodes, from the ``first`` program on."""
    real, calls = scipy.optimize.milp, []

    def milp(*args, **kwargs):
        calls.append(args)
        done = real(*args, **kwargs)
        if len(calls) > first:
            done.update(status=1, **changes)
        return done

    monkeypatch.setattr(scipy.optimize, "milp", milp)
    return calls


def test_what_is_found_before_the_solver_gives_up_is_taken(monkeypatch):
    table = ones(6)
    limit, rows = window(table, 4.0), rising(table, 0)
    best = brute_force(rows, [limit])[0][2]
    giving_up(monkeypatch, 0)
    assert project(rows, [limit]).path == best
    check_limits([limit])


def test_an_optimum_that_is_not_proven_the_only_one_is_taken(monkeypatch):
    table = ones(6)
    limit, rows = window(table, 4.0), rising(table, 0)
    best = brute_force(rows, [limit])[0][2]
    calls = giving_up(monkeypatch, 1, x=None)
    assert project(rows, [limit]).path == best
    assert len(calls) == 2


@pytest.mark.parametrize("x", [None, np.tile([0.0, 1.0], 6)], ids=["nothing held", "held outside"])
def test_what_is_not_settled_is_said_of_the_limit_that_was_asked_for(monkeypatch, x):
    table = ones(6)
    limit = Limit(table, 4.0000000001, flag="--max_latency")
    giving_up(monkeypatch, 0, x=x)
    with pytest.raises(InputError) as caught:
        project(rising(table, 0), [limit])
    assert caught.value.place == "--max_latency"
    assert "at most 4.0000000001 ms" in str(caught.value)


def test_wrong_arguments_are_refused():
    table = CostTable(10.0, ((0.0, 5.0),), Unit.MS, "hand")
    good = [np.zeros(2)]
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="target"):
            project(good, [window(table, target)])
    for lower in (0.0, 1.01, math.nan):
        with pytest.raises(InputError, match="lower"):
            project(good, [window(table, 10.0, lower)])
    with refused("log_probs", 1, 2):
        project(good * 2, [window(table, 10.0)])
    with refused("log_probs[0]", 2, "(3,)"):
        project([np.zeros(3)], [window(table, 10.0)])
    for bad in (math.nan, math.inf):
        with refused("log_probs[0]", "infinity"):
            project([np.array([0.0, bad])], [window(table, 10.0)])


@pytest.mark.parametrize("seed", range(4))
def test_tied_groups_have_one_label_as_brute_force_says(seed):
    rng = np.random.default_rng(seed)
    table = CostTable(0.0, tuple(tuple(rng.integers(1, 9, 4).tolist()) for _ in range(4)), Unit.BYTES, "test")
    rows = [rng.normal(size=4) for _ in range(4)]
    matches = [Match((0, 2), (("a", "a", "b", "c"), ("b", "a", "a", "d"))), Match((1, 3), ((1, 2, 3, 4), (4, 3, 2, 1)))]
    limits = [Limit(table, 18.0)]
    every = [path for path in itertools.product(range(4), repeat=4) if all(tie.holds(path) for tie in matches)]
    good = [path for path in every if limits[0].holds(path)]
    scores = {path: sum(row[choice] for row, choice in zip(rows, path, strict=True)) for path in good}
    found = k_best(rows, limits, 3, matches)
    assert [each.path for each in found] == sorted(scores, key=scores.get, reverse=True)[:3]
    assert project(rows, limits, matches).path == found[0].path
    with pytest.raises(InputError):
        check_limits([Limit(table, min(table.of_path(path) for path in every) - 1)], matches)


@pytest.mark.parametrize("lower", [-math.inf, 5.4])
@pytest.mark.parametrize("seed", range(3))
def test_draws_are_projected_within_the_limit_and_next_to_the_best(seed, lower):
    """The best of those that lie inside by more than a grid's rounding is never missed."""
    rng = np.random.default_rng(seed)
    table = CostTable(1.0, tuple(tuple(rng.uniform(0, 2, size)) for size in (4, 3, 5, 4, 2)), Unit.MS, "made up")
    limit = Limit(table, 6.0, lower)
    draws = [[rng.standard_normal(len(group)) for group in table.groups] for _ in range(20)]
    margin = 6 * (6.0 - table.minimum) / (BINS - 1)
    inside = Limit(table, 6.0 - margin, lower + margin)
    for rows, path in zip(draws, project_draws(draws, limit), strict=True):
        assert path is not None and limit.holds(path)

        def total(path, rows=rows):
            return sum(row[choice] for row, choice in zip(rows, path, strict=True))

        assert total(path) >= max(total(each) for *_, each in brute_force(rows, [inside])) - 1e-9


@pytest.mark.parametrize(("upper", "lower"), [(1.0, 1.0), (6.0, 6.0 - 1e-9)])
def test_draws_in_a_window_as_narrow_as_the_grid_are_left_to_the_exact_program(upper, lower):
    table = CostTable(1.0, ((0.0, 1.0, 5.0), (0.0, 2.0)), Unit.MS, "made up")
    assert project_draws([[np.zeros(3), np.zeros(2)]], Limit(table, upper, lower)) == [None]
    assert project_draws([], Limit(table, upper)) == []
