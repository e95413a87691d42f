"""How a run of this room is opened: what a resumed one keeps, who holds its folder, how it ends."""

import errno
import os
import signal
from dataclasses import replace

import pytest
import torch

from compress.config import FREE, PATHS
from compress.opening import as_resumed, opened
from compress.pruning.config import PruneConfig
from proxyless_arch.base import runs
from proxyless_arch.base.errors import InputError
from tests.errors import refused

SAVED = PruneConfig(
    arch="/nets/a", dataset="imagefolder", data_path="/photos", valid_size=0.2, split_seed=3, keep="0.5"
)


class Stopped(runs.RunStopped):
    pass


def run(folder, said=None, **how):
    how = {"resume": False, "dry_run": False} | how
    return opened("prune.py", Stopped, folder, (said if said is not None else []).append, **how)


@pytest.mark.parametrize(
    "change", [{"device": "cpu"}, {"torch_threads": 2}, {"n_worker": 3}, {"test_batch_size": 7}, {"data_path": "/new"}]
)
def test_a_resumed_run_takes_what_computes_it_and_where_its_images_are(change):
    assert as_resumed(SAVED, replace(SAVED, **change), FREE, PATHS) == replace(SAVED, **change)


def test_what_was_found_at_the_start_need_not_be_given_again():
    given = PruneConfig(arch="/nets/a", keep="0.5", data_path="/photos")
    assert as_resumed(SAVED, given, FREE, PATHS) == as_resumed(SAVED, None, FREE, PATHS) == SAVED


@pytest.mark.parametrize("change", [{"keep": "0.4"}, {"method": "random"}, {"arch": "/nets/b"}, {"manual_seed": 1}])
def test_other_settings_stay(change):
    with refused("--resume", *change):
        as_resumed(SAVED, replace(SAVED, **change), FREE, PATHS)


def test_a_resumed_folder_is_held_before_anything_is_opened(tmp_path):
    with run(tmp_path, resume=True), pytest.raises(InputError), runs.locked(tmp_path):
        pass
    with run(tmp_path, resume=True, dry_run=True), runs.locked(tmp_path):
        pass


def test_a_new_folder_is_made_when_it_is_claimed(tmp_path):
    with run(tmp_path / "new") as claim:
        assert not (tmp_path / "new").exists()
        with pytest.raises(InputError):
            claim()
            runs.locked(tmp_path / "new").__enter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_says_how_to_go_on(number, tmp_path):
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a shell
    said, before = [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, run(tmp_path / "new", said) as claim:
        claim()
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)
    assert stopped.value.folder == tmp_path / "new"
    assert len(said) == 1 and f"--run_dir {tmp_path / 'new'} --resume" in said[0]
    assert signal.getsignal(signal.SIGTERM) == before
    signal.signal(signal.SIGINT, interrupt)


def test_stopped_before_there_is_a_folder(tmp_path):
    with pytest.raises(Stopped) as stopped, run(tmp_path / "new"):
        raise KeyboardInterrupt
    assert stopped.value.folder is None and "--resume" not in str(stopped.value)


def test_a_full_disk_says_what_is_kept(tmp_path):
    with pytest.raises(OSError) as full, run(tmp_path / "new") as claim:
        claim()
        raise OSError(errno.ENOSPC, "no space")
    (note,) = full.value.__notes__
    assert "measured is kept" in note and "prune.py --run_dir" in note


def test_threads_come_back():
    before = torch.get_num_threads()
    with run(None, threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
