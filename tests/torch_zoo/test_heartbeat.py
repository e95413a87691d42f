"""A process that gives no sign of life is named once, by one of the others; one that comes back is said to be."""

import datetime
import time

import pytest
import torch.distributed as dist

from proxyless_nas import heartbeat
from proxyless_nas.heartbeat import Heartbeat


@pytest.fixture
def store(monkeypatch):
    """A store, and other connections to it."""
    monkeypatch.setattr(heartbeat, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 1.5)
    limit = datetime.timedelta(seconds=5)
    kept = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)
    yield lambda: dist.TCPStore("127.0.0.1", kept.port, is_master=False, wait_for_workers=False, timeout=limit)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_one_that_does_not_move_is_named_by_one_of_the_others(store):
    said = {0: [], 1: []}
    with Heartbeat(0, 3, store, 1800, said[0].append), Heartbeat(1, 3, store, 1800, said[1].append):
        with Heartbeat(2, 3, store, 1800, lambda line: None):
            until(lambda: store().check(["proxyless_nas/heartbeat/2"]))
        until(lambda: said[0])
        assert said[0][0].startswith("waiting for process 2 of 3")
        assert "30 min" in said[0][0]
        time.sleep(0.5)
        with Heartbeat(2, 3, store, 1800, lambda line: None):
            store().set("proxyless_nas/heartbeat/2", "99 1 host")
            until(lambda: len(said[0]) > 1)
    assert said[0][1:2] == ["process 2 moves again"]
    assert said[1] == []


def test_none_that_moves_is_named(store):
    said = []
    with Heartbeat(0, 2, store, 1800, said.append), Heartbeat(1, 2, store, 1800, said.append):
        time.sleep(2.5)
    assert said == []
