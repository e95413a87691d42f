"""Choices that cost something together: the exact projection and all that draws networks, against brute force."""

import itertools
import math

import numpy as np
import pytest

from hardware.cost import CostTable, Term
from hardware.projection import check_limits, k_best, project, project_draws, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from search.algorithm.predictor import neighbours
from search.algorithm.random_control import sample_up_to
from tests.errors import refused
from tests.hardware.test_projection import brute_force, first_of_equals


def chain(rng, unit=Unit.MS):
    """Stages of a width and one to two operations each; the first operation of a stage knows the width before it."""
    sizes, terms, before = [], [], None
    for _ in range(rng.integers(1, 4)):
        width = len(sizes)
        sizes.append(int(rng.integers(1, 4)))
        for index in range(rng.integers(1, 3)):
            group = len(sizes)
            sizes.append(int(rng.integers(1, 4)))
            groups = (*([before] if before is not None and index == 0 else []), width, group)
            values = rng.uniform(0, 9, math.prod(sizes[each] for each in groups))
            terms.append(Term(groups, tuple(float(value) for value in np.round(values, rng.integers(0, 3)))))
        before = width
    terms.append(Term((before,), tuple(rng.uniform(0, 3, sizes[before]).tolist())))
    alone = tuple(tuple(rng.choice([0.0, 1.5, 2.0], size).tolist()) for size in (*sizes, 2))  # the last is in no term
    return CostTable(1.25, alone, unit, "made up", terms=tuple(terms))


def every(table):
    return list(itertools.product(*(range(len(group)) for group in table.groups)))


def log_probs_of(table, rng):
    return [np.round(rng.normal(size=len(group)) * 3, rng.integers(0, 4)) for group in table.groups]


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_those_of_the_terms(seed):
    rng = np.random.default_rng(seed)
    table, probabilities = chain(rng), []
    for group in table.groups:
        values = rng.random(len(group))
        probabilities.append(values / values.sum())
    costs, expected = [], 0.0
    for path in every(table):
        cost = table.fixed + sum(group[choice] for group, choice in zip(table.groups, path, strict=True))
        for term in table.terms:
            shape = [len(table.groups[group]) for group in term.groups]
            cost += np.reshape(term.costs, shape)[tuple(path[group] for group in term.groups)]
        costs.append(cost)
        expected += cost * math.prod(values[choice] for values, choice in zip(probabilities, path, strict=True))
    assert [table.of_path(path) for path in every(table)] == pytest.approx(costs)
    assert table.of_paths(np.array(every(table))) == pytest.approx(costs)
    assert (table.minimum, table.maximum) == pytest.approx((min(costs), max(costs)))
    assert table.expected(probabilities) == pytest.approx(expected)
    assert table.scaled(2.0).of_path(every(table)[-1]) == pytest.approx(2 * costs[-1])


def test_projection_equals_brute_force():
    rng = np.random.default_rng(7)
    found = missed = 0
    for _ in range(60):
        table = chain(rng)
        counts = (rng.integers(0, 9, len(term.costs)).astype(float).tolist() for term in table.terms)
        terms = tuple(Term(term.groups, tuple(own)) for term, own in zip(table.terms, counts, strict=True))
        other = CostTable(0.0, table.groups, Unit.PARAMS, "other", terms=terms)
        log_probs, target = log_probs_of(table, rng), float(rng.uniform(table.minimum, table.maximum))
        limits = [window(table, target, float(rng.choice([0.8, 0.95, 0.99])))]
        if rng.random() < 0.4:
            limits.append(window(other, float(rng.uniform(other.minimum + 1, other.maximum + 1)), 0.01))
        ranked = brute_force(log_probs, limits)
        if not ranked:
            missed += 1
            with refused("target"):
                project(log_probs, limits)
            with pytest.raises(InputError):
                check_limits(limits)
            continue
        found += 1
        best = project(log_probs, limits)
        assert best.path == first_of_equals(log_probs, ranked)
        assert best.costs == tuple(limit.table.of_path(best.path) for limit in limits)
        several = k_best(log_probs, limits, 3)
        assert [float(-each[1]) for each in ranked[:3]] == pytest.approx([each.log_prob for each in several])
    assert found > 20 and missed > 5


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_networks_are_drawn_from_all_that_are_within(seed):
    rng = np.random.default_rng(100 + seed)
    table = chain(rng)
    limit = window(table, 0.9 * table.maximum, 0.7)
    inside = {path for path in every(table) if limit.holds(path)}
    assert set(sample_up_to([limit], len(inside) + 5, rng)) == inside
    for path in list(inside)[:3]:
        near = {other for other in inside if 1 <= sum(a != b for a, b in zip(path, other, strict=True)) <= 2}
        assert set(neighbours(path, [limit])) == near


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_draws_are_projected_nearly_exactly(seed):
    rng = np.random.default_rng(200 + seed)
    table = chain(rng)
    limit = window(table, 0.9 * table.maximum, 0.6)
    draws = [log_probs_of(table, rng) for _ in range(5)]
    for draw, path in zip(draws, project_draws(draws, limit), strict=True):
        best = project(draw, [limit])
        assert path is not None and limit.holds(path)
        total = sum(row[choice] for row, choice in zip(draw, path, strict=True))
        inner = window(table, 0.998 * limit.upper, 0.605)  # by more than the bins of all parts
        ranked = brute_force(draw, [inner])
        assert float(-ranked[0][1]) - 1e-9 <= total <= best.log_prob + 1e-9 if ranked else total <= best.log_prob + 1e-9


def test_terms_of_other_groups_have_no_common_program():
    table = CostTable(0.0, ((0.0, 0.0), (0.0, 0.0)), Unit.MS, "one", terms=(Term((0, 1), (1.0, 2.0, 3.0, 4.0)),))
    plain = CostTable(0.0, ((1.0, 2.0), (1.0, 2.0)), Unit.MACS, "other")
    with pytest.raises(InputError):
        project([np.zeros(2), np.zeros(2)], [window(table, 4.0, 0.5), window(plain, 4.0, 0.5)])
    with pytest.raises(InputError) as caught:
        CostTable(0.0, ((0.0, 0.0),), Unit.MS, "short", terms=(Term((0,), (1.0,)),))
    assert caught.value.place == "terms[0]"


@pytest.mark.parametrize("seed", range(12))
def test_as_few_choices_of_probability_0_as_possible_and_then_the_most_probable(seed):
    rng = np.random.default_rng(seed)
    for _ in range(3):
        table = chain(rng)
        rows = [rng.normal(size=len(group)) for group in table.groups]
        for row in rows:
            row[1:][rng.random(len(row) - 1) < 0.5] = -np.inf
        limit = window(table, rng.uniform(table.minimum, table.maximum), 0.8)

        def badness(path, rows=rows):
            below = [max(row) - row[choice] for row, choice in zip(rows, path, strict=True)]
            return sum(map(math.isinf, below)), math.fsum(filter(math.isfinite, below))

        inside = [path for path in every(table) if limit.holds(path)]
        if inside:
            assert badness(project(rows, [limit]).path) == pytest.approx(min(map(badness, inside)))
