"""What a script asks of the machine: devices by name, threads."""

import pytest

from proxyless_arch.base import machine
from proxyless_arch.base.machine import busy_note, network_threads, parse_device, workers_text
from tests.errors import named, refused


def test_devices_by_name():
    names = ("auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12")
    kinds = [("auto", None), ("cpu", None), ("mps", None), ("cuda", None), ("cuda", 0), ("cuda", 12)]
    assert [parse_device(name) for name in names] == kinds


@pytest.mark.parametrize(
    "name", ["", "tpu", "CPU", "cpu:5", "cpu:", "cuda:", "cuda:-1", "cuda:x", "cuda:²", "mps:0", "auto:0"]
)
def test_what_is_no_device(name):
    with refused("--device", "auto", "cpu", "cuda", "cuda:N", "mps", repr(name)):
        parse_device(name)


def test_a_network_leaves_cores_to_the_readers_unless_the_environment_decides(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.delenv("FIRST", raising=False)
    monkeypatch.setenv("SECOND", "")
    assert [network_threads(readers, "FIRST", "SECOND") for readers in (0, 2, 8, 30)] == [8, 6, 1, 1]
    monkeypatch.setenv("SECOND", "3")
    assert network_threads(2, "FIRST", "SECOND") == 3
    monkeypatch.setenv("FIRST", "5")
    assert network_threads(2, "FIRST", "SECOND") == 5
    monkeypatch.setenv("FIRST", "many")
    assert network_threads(2, "FIRST", "SECOND") == 3


@pytest.mark.parametrize(
    ("threads", "load", "said"),
    [(1, 9.0, False), (4, 0.4, False), (4, 0.5, True), (3, 1.4, False), (3, 1.5, True), (4, None, False)],
)
def test_other_work_is_said_where_a_thread_would_lack_a_core(threads, load, said, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setattr(machine, "LOAD_AT_START", load)
    note = busy_note(threads, "add --threads 1")
    assert (note is not None) == said
    if note:
        assert f"(load average {load} on 4 cores)" in note
        assert f" {threads} threads " in note and note.endswith(" add --threads 1")


@pytest.mark.parametrize(("running", "load"), [(1, 0), (2, 1), (9, 1.5)])
def test_a_command_that_has_ended_is_no_other_work(running, load, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_LOADS", tmp_path / "loadavg")
    (tmp_path / "loadavg").write_text(f"1.50 0.00 0.00 {running}/512 77\n")
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.5, 0.0, 0.0), raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: machine.os.cpu_count())
    assert machine._load_average() == load


def test_the_load_of_cores_that_this_process_has_not_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_LOADS", tmp_path / "nowhere")
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.5, 0.0, 0.0), raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    assert machine._load_average() == 1.5
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    assert machine._load_average() is None
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.delattr(machine.os, "getloadavg")
    assert machine._load_average() is None


def test_who_reads_images():
    assert workers_text(0, 2) == workers_text(0)
    named(workers_text(1), "1 worker")
    named(workers_text(3, 2), "3 workers", "each process")
