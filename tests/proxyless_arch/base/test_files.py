"""What a killed process leaves behind, and what must not be taken for it."""

import errno
import os
import resource
import subprocess
import sys
import threading

import pytest

from proxyless_arch.base import cli
from proxyless_arch.base.files import atomic_path, read_json, remove_abandoned, write_bytes, write_json
from tests.errors import error_line


def test_only_the_temporary_files_of_processes_that_ended_are_removed(tmp_path):
    dies = (
        "import os, sys; from proxyless_arch.base.files import atomic_path\nwith atomic_path(sys.argv[1]): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", dies, str(tmp_path / "checkpoint.pt")]).returncode == 9
    (abandoned,) = tmp_path.iterdir()
    kept = {f".weights.h5.{os.getppid()}-abcd0123.tmp.h5", ".mine.tmp", ".a.1-b.tmp", "checkpoint.pt"}
    for name in kept:
        (tmp_path / name).touch()
    again = tmp_path / f".metrics.{os.getpid()}-abcd0123.tmp"  # our number, but of an earlier process
    again.touch()
    remove_abandoned(tmp_path)
    assert not abandoned.exists()
    assert {path.name for path in tmp_path.iterdir()} == kept
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_json_holds_names_that_are_no_text(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "a.json", {"data_path": name, name: 1})
    assert read_json(tmp_path / "a.json") == {"data_path": name, name: 1}
    (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_disk_that_takes_no_more_names_the_file_and_leaves_what_was_there(tmp_path, capsys):
    path, before = tmp_path / "a.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_json(path, [1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert cli.exit_code(lambda words: write_json(path, [1] * 1000), []) == cli.NO_RESOURCE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    error_line(said, "", "file too large", path)
    assert said.count("\n") == 1
    assert read_json(path) == [1]
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


def test_a_full_device_is_named(tmp_path):
    link = tmp_path / "a.json"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(link, [1])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(link))


def test_devices_pipes_and_links_stay_what_they_are(tmp_path):
    number = os.stat("/dev/null").st_ino  # noqa: PTH116
    write_json("/dev/null", {})
    assert os.stat("/dev/null").st_ino == number  # noqa: PTH116
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"one", b"two")
    reader.join(10)
    assert (read, pipe.is_fifo()) == ([b"onetwo"], True)
    for target in ("there.json", "new/none.json"):
        (tmp_path / target).parent.mkdir(exist_ok=True)
        link = tmp_path / f"{target[:3]}.link"
        link.symlink_to(target)
        write_json(link, [2])
        assert link.is_symlink()
        assert read_json(tmp_path / target) == [2]
