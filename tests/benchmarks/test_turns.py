"""Comparing tasks side by side: ratios to the anchor around them, intervals and verdicts."""

import itertools
import mmap
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import bench_search, turns
from benchmarks.bench_search import CASES, PLAIN, WEIGHT, goals, ratios
from benchmarks.turns import Ratio, Spent, beside, median_of, relative, verdict
from proxyless_arch.base import timing


class Clock:
    """A machine whose speed halves with every reading of the time."""

    def __init__(self):
        self.now, self.speed = 0.0, 1.0

    def run(self, work):
        self.now += work / self.speed
        self.speed *= 0.9


def test_a_machine_that_slows_down_leaves_the_ratio(monkeypatch):
    clock = Clock()
    both = SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: clock.now)
    monkeypatch.setattr(timing, "time", both)
    order = []

    def task(name, work):
        def run():
            order.append(name)
            clock.run(work)

        return run

    rounds = beside(task("anchor", 2), {"null": task("null", 2), "half": task("half", 1)}, 4)
    assert order == ["anchor", "null", "anchor", "half", "anchor"] * 5
    assert [len(found) for found in rounds.values()] == [4, 4]
    for name, share in (("null", 1), ("half", 0.5)):
        for clock_name in turns.CLOCKS:
            np.testing.assert_allclose(relative(rounds, name, clock_name), share, rtol=0.01)


def test_a_block_is_the_mean_of_its_runs(monkeypatch):
    count = itertools.count()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: 0.0, process_time=lambda: 3 * next(count)))
    assert turns.spent(lambda: None, 3) == Spent(cpu=1000.0, wall=0.0)


def test_the_interval_is_that_of_the_median():
    ratio = median_of(np.array([1.0] * 50 + [100.0]))
    assert ratio == Ratio(1.0, 1.0, 1.0)
    spread = median_of(np.arange(101.0))
    assert spread.median == 50
    assert 30 < spread.low < 45 < 55 < spread.high < 70


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.5, 0.9, "holds"), (0.9, 1.0, "holds"), (0.9, 1.1, "undecided"), (1.01, 1.1, "MISSED")]
)
def test_a_verdict_is_by_the_whole_interval(low, high, said):
    assert verdict(Ratio(1.0, low, high), 1.0) == said
    assert verdict(Ratio(1.0, low, high), None) == ""


def test_memory_that_was_held_in_between_is_seen():
    def held():  # not by malloc, which may have kept as much from other tests
        np.frombuffer(mmap.mmap(-1, 40_000_000), np.uint8)[:] = 1

    found = turns.peak_bytes(held)
    assert found is None or 30e6 < found < 80e6


def test_what_is_compared_with_the_weight_step_is_divided_by_it():
    case, anchor = CASES["32"], Spent(10.0, 10.0)
    took = {goal.task: Spent(5.0, 6.0) for goal in goals(case)} | {WEIGHT: Spent(4.0, 5.0), "two": Spent(2.0, 2.0)}
    rows = {row["task"]: row for row in ratios({name: [(own, anchor)] * 3 for name, own in took.items()}, case)}
    assert rows[WEIGHT]["cpu"] == {"median": 0.4, "low": 0.4, "high": 0.4}
    assert (rows["two"]["cpu"]["median"], rows["two"]["wall"]["median"]) == (0.5, 0.4)
    assert (rows["two"]["over"], rows["two"]["verdict"], rows["two"]["cpu_ms"]) == (WEIGHT, "holds", 2.0)
    assert (rows["full_v2"]["cpu"]["median"], rows["full_v2"]["verdict"]) == (1.25, "holds")
    assert rows["null"]["over"] == PLAIN


@pytest.mark.parametrize("words", [["--cases", "33"], ["--rounds", "1"]])
def test_a_mistake_is_answered_at_once(words):
    assert bench_search.main(words) == 2
