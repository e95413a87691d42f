"""How times are taken, against clocks that are made up."""

import itertools

import numpy as np
import pytest

from proxyless_arch.base.timing import (
    Stopwatch,
    Times,
    anchor_drift,
    beside_anchor,
    in_turn,
    measure,
    quartiles,
    steady_rounds,
    wall_ms,
)


class Counting:
    def __init__(self, ms):
        self.ms, self.asked = ms, []

    def times(self, timings, inner=1):
        self.asked.append((timings, inner))
        return Times((self.ms,) * timings, ())


@pytest.mark.parametrize(("ms", "inner"), [(0.01, 200), (0.4, 5), (2.0, 1), (50, 1), (1e-9, 1000)])
def test_short_layers_run_several_times_per_timing(ms, inner):
    session = Counting(ms)
    assert measure(session, runs=7, warmup=3, min_ms=2.0).ms == (ms,) * 7
    assert session.asked == [(3, 1), (7, inner)]


def test_the_anchor_drifts_only_when_its_neighbours_agree():
    assert anchor_drift([1, 1, 1.5, 1, 1, 1]) == 0  # one outlier
    assert anchor_drift([1, 1, 1, 1.1, 1.1, 1.1, 1.1]) == pytest.approx(0.1 / 1.1)
    assert anchor_drift([1, 1.04]) == pytest.approx(0.02 / 1.02)


def test_everything_takes_its_turn_and_the_warm_up_does_not_count():
    order = []

    def taker(name):
        return lambda: order.append(name) or float(len(order))

    found = in_turn({"a": taker("a"), "b": taker("b")}, rounds=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


@pytest.mark.parametrize(
    ("drifts", "kept", "taken"),
    [
        ([0.01, 0.02, 0.0], [0, 1], 2),  # all that are asked for, and no more
        ([0.5, 0.01, 0.02], [1, 2], 3),  # one is taken again
        ([0.5, 0.3, 0.4, 0.2], [1, 3], 4),  # those that drifted least
        ([0.5, 0.3, 0.09, 0.2], [2, 3], 4),
    ],
)
def test_rounds_with_drift_are_taken_again(drifts, kept, taken):
    found, every = steady_rounds(lambda number: drifts[number], rounds=2, extra_rounds=2, max_drift=0.1)
    assert (found, every) == (kept, drifts[:taken])


def test_times_are_given_at_the_anchors_speed():
    """The machine gets twice as slow on the way; a takes 3 times as long as the anchor, b as long."""
    clock = itertools.count()

    def slowness():
        return 1.0 + min(next(clock), 40) / 40

    found = beside_anchor(slowness, {"a": lambda: 3 * slowness(), "b": slowness}, rounds=12, warmup=1, max_drift=0.2)
    usual = np.median(found.anchor)
    assert found.ms["a"] == pytest.approx([3 * usual] * 12, rel=0.02)
    assert found.ms["b"] == pytest.approx([usual] * 12, rel=0.02)
    assert found.drift > 0.2 and found.repeated == 0


def test_a_round_in_which_the_anchor_moved_is_taken_again():
    anchors = iter([1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1])  # warm-up; the second round begins at half the speed
    found = beside_anchor(lambda: next(anchors), {"a": lambda: 5.0, "b": lambda: 6.0}, 2, 1, max_drift=0.1)
    assert found.ms == {"a": [5.0, 5.0], "b": [6.0, 6.0]}
    assert (found.drift, found.repeated) == (0, 1)


def test_quartiles():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)
    values = np.random.default_rng(0).normal(size=50)
    assert quartiles(values) == pytest.approx(np.percentile(values, (50, 25, 75)), abs=5e-5)


def test_the_wall_clock_is_in_ms():
    assert 0 <= wall_ms(lambda: None) < 1000


def test_a_stopwatch_counts_laps_and_what_an_earlier_process_took(monkeypatch):
    clock = iter([10.0, 12.0, 12.5, 17.0, 18.0])
    monkeypatch.setattr("proxyless_arch.base.timing.time.perf_counter", lambda: next(clock))
    watch = Stopwatch(before=100.0)
    assert (watch.lap(), watch.since_lap, watch.lap(), watch.seconds) == (2.0, 0.5, 5.0, 108.0)
