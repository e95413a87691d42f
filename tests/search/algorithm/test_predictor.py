"""The search by a predictor, on losses that are known for every network."""

import itertools
import json
import math

import numpy as np
import pytest

from hardware.cost import CostTable
from hardware.projection import Limit, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from search.algorithm.predictor import FEWEST, Predictor, PredictorOptions, Ranking, neighbours, rescored

SIZES = (4, 3, 5, 4, 3)
EVERY = list(itertools.product(*map(range, SIZES)))
FEW = PredictorOptions(n_random=48, n_rescored=8, max_rounds=4)


def table(seed=0, unit=Unit.MS):
    rng = np.random.default_rng(seed)
    return CostTable(1.0, tuple(tuple(rng.uniform(0, 2, size)) for size in SIZES), unit, "made up")


LIMITS = [window(table(), 6.0, lower=0.9)]
WITHIN = [path for path in EVERY if LIMITS[0].holds(path)]


def additive(seed=0, pairs=0.0):
    """``path -> loss``, with interactions of the first two blocks."""
    rng = np.random.default_rng(100 + seed)
    single = [rng.standard_normal(size) for size in SIZES]
    both = pairs * rng.standard_normal(SIZES[:2])
    return lambda path: 3 + sum(f[j] for f, j in zip(single, path, strict=True)) + both[path[:2]]


def run(search, loss_of):
    while paths := search.ask():
        search.tell([loss_of(path) for path in paths])
    return search.result()


@pytest.mark.parametrize("pairs", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_finds_the_best_network(seed, pairs):
    """There are 150 within the limits; fewer than 80 are looked at."""
    loss_of = additive(seed, pairs)
    search = Predictor(LIMITS, FEW, seed)
    found = run(search, loss_of)
    assert len(WITHIN) > 100
    assert found.n_scored < 0.6 * len(WITHIN)
    assert found.path == min(WITHIN, key=loss_of)
    assert found.loss == loss_of(found.path)
    assert found.ranking.ranks
    assert not found.is_fallback
    mean = np.mean([loss_of(path) for path in search.rounds[0].paths])
    assert found.random_mean == pytest.approx(mean)
    assert found.gain_low < mean - found.loss < found.gain_high


def test_asks_for_different_networks_within_all_limits():
    second = Limit(table(5, Unit.PARAMS), 6.5, flag="--max_params")
    search = Predictor([*LIMITS, second], FEW, 1)
    run(search, additive(1, 1.0))
    asked = [path for each in search.rounds for path in each.paths]
    assert len(set(asked)) == len(asked)
    assert len(search.rounds) > 2
    assert all(limit.holds(path) for path in asked for limit in search.limits)


@pytest.mark.parametrize("told", [0, 5, 48, 50, 60])
def test_goes_on_as_if_nothing_had_happened(told):
    loss_of = additive(2, 1.0)
    straight = Predictor(LIMITS, FEW, 2)
    result = run(straight, loss_of)
    first, count = Predictor(LIMITS, FEW, 2), 0
    while count < told:
        paths = first.ask()[: told - count]
        first.tell([loss_of(path) for path in paths])
        count += len(paths)
    second = Predictor(LIMITS, FEW, 2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert run(second, loss_of) == result
    assert second.state_dict() == straight.state_dict()


def test_losses_that_order_nothing_are_said_so():
    rng = np.random.default_rng(0)
    search = Predictor(LIMITS, FEW, 0)
    found = run(search, lambda path: rng.standard_normal())
    assert found.is_fallback
    assert not found.ranking.ranks
    assert found.n_scored <= FEW.n_random + 1  # nothing is rescored but what is taken
    assert found.path in WITHIN
    equal = run(Predictor(LIMITS, FEW, 0), lambda path: 1.5)
    assert (equal.is_fallback, equal.ranking.kendall, equal.gain, equal.in_sd) == (True, 0, pytest.approx(0), 0)


def test_chance_is_taken_for_chance():
    """Of scores without order hardly any set is taken for one that ranks."""
    ranks = []
    for seed in range(40):
        search = Predictor(LIMITS, FEW, seed)
        rng = np.random.default_rng(seed)
        search.tell(rng.standard_normal(len(search.ask())))
        ranks.append(search.ranking().ranks)
    assert sum(ranks) <= 4


def test_a_few_broken_networks_are_left_out():
    loss_of, broken = additive(1), set(WITHIN[::9])
    found = run(Predictor(LIMITS, FEW, 1), lambda path: math.nan if path in broken else loss_of(path))
    assert found.path == min(set(WITHIN) - broken, key=loss_of)
    assert found.n_broken > 0
    assert math.isfinite(found.gain_low)


def test_mostly_broken_networks_are_refused():
    search = Predictor(LIMITS, FEW, 1)
    paths = search.ask()
    search.tell([math.inf] * 25)
    with pytest.raises(InputError) as caught:
        search.tell([1.0] * (len(paths) - 25))
    assert caught.value.place == "losses"
    assert "25 of 48" in caught.value.problem


def test_a_target_with_too_few_networks_is_refused():
    few = sorted(map(table().of_path, EVERY))[FEWEST - 2]  # so many but one are as cheap
    with pytest.raises(InputError) as caught:
        Predictor([Limit(table(), few, flag="--target_latency_ms")])
    assert caught.value.place == "--target_latency_ms"
    assert f"found {FEWEST - 1} networks" in caught.value.problem
    enough = sorted(map(table().of_path, EVERY))[FEWEST - 1]
    assert len(Predictor([Limit(table(), enough)]).ask()) == FEWEST


def test_a_small_window_is_scored_whole():
    narrow = [window(table(), 6.0, lower=0.98)]
    within = [path for path in EVERY if narrow[0].holds(path)]
    search = Predictor(narrow, PredictorOptions(n_random=1000))
    assert sorted(search.ask()) == within
    assert run(search, additive(3)).path == min(within, key=additive(3))


def test_a_round_is_full_where_next_to_no_network_has_a_neighbour():
    """Some 400 of a million networks are within the window, so of 210 neighbours of one 0.08."""
    rng = np.random.default_rng(0)
    costs = CostTable(0.0, tuple((0.0, cost) for cost in rng.uniform(0.2, 1.0, 20)), Unit.MS, "made up")
    limits, weights = [Limit(costs, 6.001, 6.0)], rng.standard_normal(20)
    search = Predictor(limits, PredictorOptions(n_random=60, n_rescored=6, max_rounds=3, patience=5), 0)
    run(search, lambda path: float(weights @ path))
    assert [len(each.paths) for each in search.rounds] == [60, 6, 6, 6]
    assert len({path for each in search.rounds for path in each.paths}) == 78


def test_damaged_states_are_refused():
    search = Predictor(LIMITS, FEW, 0)
    search.tell([1.0] * 3)
    good = json.dumps(search.state_dict())

    def place_of(change):
        state = json.loads(good)
        change(state)
        with pytest.raises(InputError) as caught:
            Predictor(LIMITS, FEW, 0).load_state_dict(state)
        return caught.value.place

    assert place_of(lambda state: state.pop("rounds")) == "predictor.rounds"
    assert place_of(lambda state: state["rounds"][0]["losses"].extend([1.0] * 99)) == "predictor.rounds[0].losses"
    assert place_of(lambda state: state["rounds"][0]["losses"].append("1")) == "predictor.rounds[0].losses[3]"
    assert place_of(lambda state: state["rounds"][0]["paths"].insert(0, [9] * 5)) == "path[0]"
    assert place_of(lambda state: state["rounds"].append(state["rounds"][0])) == "predictor.rounds"
    with pytest.raises(InputError) as caught:
        Predictor(LIMITS, FEW, 1).load_state_dict(json.loads(good))
    assert caught.value.place == "predictor.rounds[0]"


def test_neighbours_are_all_networks_one_or_two_blocks_away():
    path = WITHIN[7]
    near = {other for other in WITHIN if 1 <= sum(a != b for a, b in zip(path, other, strict=True)) <= 2}
    found = neighbours(path, LIMITS)
    assert set(found) == near
    assert len(found) == len(near)


def test_rescoring_takes_the_best_of_the_most_probable():
    loss_of = additive(4)
    log_probs = [-np.arange(size, dtype=float) for size in SIZES]
    probable = sorted(WITHIN, key=lambda path: (sum(path), path))[:10]
    path, scores = rescored(log_probs, LIMITS, 10, lambda paths: [loss_of(each) for each in paths])
    assert [each for each, _ in scores] == probable
    assert path == min(probable, key=loss_of)
    with pytest.raises(InputError) as caught:
        rescored(log_probs, LIMITS, 3, lambda paths: [math.nan] * len(paths))
    assert caught.value.place == "losses"


def test_a_rank_correlation_has_a_chance_level():
    rng = np.random.default_rng(0)
    from search.algorithm.regression import kendall

    taus = [kendall(rng.standard_normal(30), rng.standard_normal(30)) for _ in range(400)]
    assert Ranking(0.0, 0.0, 30).chance == pytest.approx(np.std(taus), rel=0.1)
