"""Training as a library: the same training as by the command, in silence and as values."""

import json
import os
import shlex
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from proxyless_arch.apps.train_settings import to_dict
from proxyless_arch.arch.codec import read_spec, write_spec
from proxyless_arch.base.errors import InputError
from proxyless_nas.train import TrainConfig, TrainingStopped, read_result, run_training
from proxyless_nas.train import session as train_session
from proxyless_nas.train.training import Training
from tests.errors import refused
from tests.scripts.mini import mini_net, same_run

# two steps of each of two epochs, on 137 images
SETTINGS = {"n_epochs": 2, "valid_size": 1300, "train_batch_size": 64, "device": "cpu"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "mini.json"
    write_spec(path, mini_net(resolution=8))
    return TrainConfig.of(arch=path, **SETTINGS)


@pytest.fixture(scope="module")
def result(config, tmp_path_factory):
    """A silent training: its value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return run_training(config, tmp_path_factory.mktemp("library") / "run", say=None)


def test_a_training_returns_what_it_came_to(result, config, capsys):
    folder = result.folder
    assert result.config == config
    assert result.spec == read_spec(folder / "spec.json")
    record = json.loads((folder / "result.json").read_text())
    assert result.record == record
    assert (result.top1_percent, result.test_top1_percent) == (record["top1_percent"], record["test_top1_percent"])
    assert result.weights == folder / "weights.safetensors"
    assert result.tensors()["classifier.linear.weight"].shape[0] == 10
    assert result.files["last.safetensors"] == folder / "last.safetensors"
    assert all(path.is_file() for path in result.files.values())
    assert f"{record['test_top1_percent']:.1f} %" in str(result)
    assert read_result(folder) == result
    assert capsys.readouterr() == ("", "")


def test_a_setting_may_be_named_as_its_flag_or_as_in_config_json(config):
    keys = {"n_worker": 3, "manual_seed": 4, "train_batch_size": 9, "image_size": 24}
    found = TrainConfig.of(arch=config.arch, workers=3, seed=4, batch_size=9, resolution=24)
    assert {name: to_dict(found)[name] for name in keys} == keys
    assert found == TrainConfig.of(arch=config.arch, **keys)
    assert found.optimization.accumulation == 1  # a named batch is computed whole, however it is named


def test_it_is_the_training_of_the_command(result, tmp_path):
    """By the words in environment.json, which the library was never given."""
    import train

    words = shlex.split(json.loads((result.folder / "environment.json").read_text())["command"])[1:]
    assert words[0] == "train.py"
    assert train.main([*words[1:], "--run_dir", str(tmp_path / "run")]) == 0
    same_run(result.folder, tmp_path / "run")


def test_lines_go_where_they_are_wanted_and_threads_come_back(config, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    before, said = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        run_training(config, tmp_path / "run", say=said.append, notes=["first"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr() == ("", "")
    assert said[0] == "first"
    assert "run folder" in "\n".join(said) and "epoch 2/2" in said[-1]


def test_ctrl_c_leaves_a_checkpoint_and_the_training_goes_on(result, config, tmp_path, monkeypatch):
    folder, update = tmp_path / "run", Training.update

    def interrupted(self, *batch):
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", interrupted)
        with pytest.raises(TrainingStopped, match="step 2 of 4") as stopped:
            run_training(config, folder, say=None)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert stopped.value.folder == folder
    with refused("", "result.json", source=folder):
        read_result(folder)
    other = TrainConfig.of(**{**SETTINGS, "arch": config.arch, "n_epochs": 3})
    with refused("--resume", "config.json", "n_epochs"):
        run_training(other, folder, resume=True, say=None)
    again = run_training(config, folder, resume=True, say=None)
    assert all(np.array_equal(array, again.tensors()[name]) for name, array in result.tensors().items())
    same_run(result.folder, folder)


def test_a_network_must_be_named(tmp_path):
    with pytest.raises(InputError, match="name the network"):
        run_training(None, tmp_path / "run")
    with pytest.raises(InputError, match="needs the run folder"):
        run_training(resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("asked", "named", "used"), [(3, "1", 3), (None, "1", None), (None, None, 2)])
def test_threads_are_those_asked_for_else_as_the_environment_says(asked, named, used, config, monkeypatch):
    """``used``: None: what torch has by itself. They come back."""
    seen = []
    monkeypatch.setattr("proxyless_nas.train.runner.usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    if named is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    run_training(replace(config, torch_threads=asked), say=None, dry_run=True)
    assert seen[:-1] == ([] if used is None else [used])
    assert seen[-1] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("device", "cores", "ranks", "readers"),
    [("cuda", 16, 1, 8), ("cuda", 8, 2, 4), ("cuda", 8, 4, 2), ("cuda", 2, 4, 1), ("cpu", 16, 1, 4), ("cpu", 16, 2, 2)],
)
def test_the_ranks_of_a_machine_share_its_readers(config, device, cores, ranks, readers, monkeypatch):
    monkeypatch.setattr(train_session, "usable_cores", lambda: cores)
    monkeypatch.setattr(train_session.distributed, "local_size", lambda: ranks)
    photos = replace(config, data=replace(config.data, dataset="imagefolder", data_path="photos"))
    assert train_session.readers_of(photos, device) == readers
    assert train_session.readers_of(config, device) == 0  # digits
    named = replace(photos, data=replace(photos.data, n_worker=7))
    assert train_session.readers_of(named, device) == 7
