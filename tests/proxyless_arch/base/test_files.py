"""What a killed process leaves behind, and what must not be taken for it."""

import os
import subprocess
import sys

from proxyless_arch.base.files import atomic_path, read_json, remove_abandoned, write_json


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
