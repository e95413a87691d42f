"""The folder of a run: claimed by one run, and refused before anything else happens."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import threading

import pytest

from proxyless_arch.base import runs
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import (
    ENVIRONMENT_FILE,
    LOCK_FILE,
    METRICS_FILE,
    MetricsFile,
    check_images_are_there,
    claimed,
    locked,
    new_run_dir,
    write_environment,
)
from tests.errors import refused


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.time, "strftime", lambda text: "20260102-030405")
    names = [new_run_dir(None, tmp_path).name for _ in range(3)]
    assert names == ["20260102-030405", "20260102-030405-2", "20260102-030405-3"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


def test_runs_that_start_together_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.time, "strftime", lambda text: "20260102-030405")
    together = threading.Barrier(8)
    found = []

    def start():
        together.wait()
        found.append(new_run_dir(None, tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    assert set(found) == set((tmp_path / "runs").iterdir())


def test_a_given_folder_is_made(tmp_path):
    folder = tmp_path / "deep" / "run"
    assert new_run_dir(folder, tmp_path / "home") == folder
    assert list(folder.iterdir()) == []
    assert new_run_dir(folder, tmp_path / "home") == folder
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "checkpoint.pt", "checkpoint_best.pt"])
def test_a_folder_with_a_run_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with refused("--run_dir", "--resume", source=tmp_path):
        new_run_dir(tmp_path, tmp_path)


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/nope", "/proc/1/fd"])
def test_a_place_that_can_be_no_run_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with refused("--run_dir", "folder", source=tmp_path / place):
        new_run_dir(tmp_path / place, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def hold_until_killed(folder, ready):
    with locked(folder):
        reader = os.fork()
        if not reader:  # as a worker that reads images: it outlives the kill
            ready.send("forked")
            signal.pause()
        ready.send((os.getpid(), reader))
        signal.pause()


def test_a_folder_has_one_process_and_a_dead_one_leaves_it(tmp_path):
    fork = multiprocessing.get_context("fork")
    told, ready = fork.Pipe()
    other = fork.Process(target=hold_until_killed, args=(tmp_path, ready))
    other.start()
    number, reader = next(word for word in sorted((told.recv(), told.recv()), key=str) if word != "forked")
    for take in (lambda: locked(tmp_path), lambda: claimed(tmp_path, tmp_path)):
        with pytest.raises(InputError) as caught, take():
            pass
        assert (caught.value.place, caught.value.source) == ("--run_dir", str(tmp_path))
        assert f"process {number} on {socket.gethostname()}" in caught.value.problem
    other.kill()
    other.join()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    os.kill(reader, signal.SIGKILL)


def test_a_run_that_another_process_made_meanwhile_is_refused(tmp_path, monkeypatch):
    made = runs.new_run_dir

    def made_by_two(path, home):
        folder = made(path, home)
        (folder / "config.json").touch()
        return folder

    monkeypatch.setattr(runs, "new_run_dir", made_by_two)
    with pytest.raises(InputError, match="already contains a run"), claimed(tmp_path / "run", tmp_path):
        pass


def test_the_lock_of_any_command_clears_what_killed_ones_left(tmp_path):
    name = f".result.json.{os.getpid()}-abcd0123.tmp.json"
    held = tmp_path / "held"
    for folder in (tmp_path, tmp_path / "half", held):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    (held / LOCK_FILE).touch()  # another process is at it
    with locked(tmp_path):
        assert [path.parent.name for path in tmp_path.rglob(name)] == ["held"]


def deleted(path):
    path.unlink()


def exchanged(path):
    path.rename(path.with_suffix(".old"))
    path.write_text('{"step": 1}\n')


def cut(path):
    os.truncate(path, 0)


def continued(path):
    with open(path, "a") as other:
        other.write("{}\n")


@pytest.mark.parametrize("meddle", [deleted, exchanged, cut, continued])
def test_a_log_that_something_else_touches_is_noticed(meddle, tmp_path):
    path = tmp_path / METRICS_FILE
    with MetricsFile(tmp_path) as metrics:
        metrics.append({"step": 1})
        meddle(path)
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(OSError) as caught:
            metrics.append({"step": 2})
        assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(path))
        assert (path.read_bytes() if path.exists() else None) == before


def test_a_damaged_environment_is_refused_where_a_run_goes_on(tmp_path):
    for content, place in (("[]", ""), ('{"resumed": 3}', "resumed")):
        (tmp_path / ENVIRONMENT_FILE).write_text(content)
        with pytest.raises(InputError) as caught:
            write_environment(tmp_path, {}, resumed=True)
        assert caught.value.place == place
        assert (tmp_path / ENVIRONMENT_FILE).read_text() == content


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, number):
    import fcntl

    def refused(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.warns(UserWarning, match=os.strerror(number)), locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_images_that_moved_are_asked_for(tmp_path):
    check_images_are_there(None, tmp_path)  # embedded
    check_images_are_there(tmp_path, tmp_path)
    with refused("--data_path", str(tmp_path / "gone"), source=tmp_path / "config.json"):
        check_images_are_there(str(tmp_path / "gone"), tmp_path)
