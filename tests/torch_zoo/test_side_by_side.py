"""Independent calls on several threads: each once, results in order, errors as they are."""

import threading

import pytest
import torch

from proxyless_nas import side_by_side
from proxyless_nas.side_by_side import each, spare_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_item_has_its_result_in_its_place(threads):
    calls = []

    def square(number):
        calls.append(number)
        return number**2

    assert each(square, range(7), threads) == [number**2 for number in range(7)]
    assert sorted(calls) == list(range(7))
    assert each(square, [], threads) == []


def test_two_threads_work_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    assert each(lambda number: both.wait() >= 0, range(2), 2) == [True, True]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_comes_out_and_none_is_left_running(bad):
    def run(number):
        if number == bad:
            raise ValueError(number)

    with pytest.raises(ValueError, match=str(bad)):
        each(run, range(3), 3)
    assert each(lambda number: number, range(3), 3) == [0, 1, 2]


def test_cores_are_shared_with_the_threads_of_torch_and_other_processes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("proxyless_arch.base.machine.usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert spare_threads() == 4
    monkeypatch.setattr(side_by_side.distributed, "local_size", lambda: 3)
    assert spare_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    monkeypatch.setattr(side_by_side.distributed, "local_size", lambda: 1)
    assert spare_threads() == 3


def test_a_call_within_another_waits_for_no_thread_that_waits_for_it():
    def sums(number):
        return sum(each(lambda more: number + more, range(3), 2))

    assert each(sums, range(4), 2) == [3, 6, 9, 12]
    assert each(lambda number: number, range(3), 2) == [0, 1, 2]  # and the next one has its threads
