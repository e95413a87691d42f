"""benchmarks/bench_ranks.py: rates of processes that share a search, of known times and of real steps."""

import itertools
import json

import pytest

from benchmarks import bench_ranks
from benchmarks.bench_ranks import STEPS, Config, Group, compared, rates
from benchmarks.search_steps import CASES


class Known:
    """A group whose steps take a known time, which grows with every one of them."""

    clock = itertools.count(100)

    def __init__(self, ranks, share):
        self.ranks, self.share = ranks, share

    def images_per_second(self, case, step, count):
        return 1000 * self.ranks * CASES[case].batch / (self.share * next(self.clock))


def test_a_rate_is_that_of_all_processes_over_the_one_of_its_round():
    groups = {"1 process": Known(1, 1.0), "null": Known(1, 1.0), "2 processes": Known(2, 1.1)}
    found = rates(groups, "32", STEPS[0], Config(rounds=5))
    assert [len(each) for each in found.values()] == [5, 5, 5]
    null, two = compared("32", STEPS[0], found, 2)
    assert null["over_one"]["median"] == pytest.approx(1, abs=0.02)
    assert two["over_one"]["median"] == pytest.approx(2 / 1.1, abs=0.04)
    assert (null["at_least"], two["at_least"], two["verdict"]) == (None, 1.7, "holds")


@pytest.mark.parametrize(("slower", "said"), [(1.0, "holds"), (1.5, "MISSED")])
def test_the_status_says_whether_the_rate_is_reached(monkeypatch, tmp_path, slower, said):
    class Quick(Known):
        def close(self):
            pass

    made = {"1 process": Quick(1, 1.0), "null": Quick(1, 1.0), "2 processes": Quick(2, slower)}
    monkeypatch.setattr(bench_ranks, "groups_of", lambda config: made)
    file = tmp_path / "ranks.json"
    assert bench_ranks.main(["--rounds", "3", "--save_json", str(file)]) == (said == "MISSED")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 2 * len(CASES) * len(STEPS)
    assert {row["verdict"] for row in rows if row["group"] == "2 processes"} == {said}


@pytest.mark.slow
def test_two_processes_take_real_steps_together():
    group = Group(2, 1, "torch")
    try:
        assert all(group.images_per_second("32", step, 1) > 0 for step in STEPS)
    finally:
        group.close()
