"""SIGKILL at any moment, then --resume: the same alphas, weights, metrics and derived network, bit for bit.

The runs that are killed save every few steps, so that they are resumed from within an epoch too; a kill that came too
late does not count and is tried again.
"""

import functools
import json
import os
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from proxyless_arch.weights.files import load_safetensors
from search import imagenet_arch_search
from search.run import checkpoint, runner
from tests.processes import Child

FLAGS = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --train_batch_size 32 --grad_data_batch 16 "
    "--rl_data_batch 16 --warmup_epochs 1 --n_epochs 1 --finetune_epochs 1 --recalibration_images 64 "
    "--recalibration plain"
)
ALGORITHMS = {"grad": [], "rl": ["--arch_algo", "rl", "--rl_batch_size", "2"]}
CLOCKS = ("seconds", "images_per_second")


def search_that_saves_often(words):
    runner.SAVE_EVERY_SECONDS = 0.02
    return imagenet_arch_search.main(words)


def search_killed_behind_a_step(words):
    """``words``: the number of the step, behind whose checkpoint it is killed, and the command's own."""
    save = checkpoint.save

    def save_and_die(path, state):
        save(path, state)
        if path.name == checkpoint.NAME and state.step == int(words[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    runner.SAVE_EVERY_SECONDS = 0
    checkpoint.save = save_and_die
    return imagenet_arch_search.main(words[1:])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The uninterrupted run of an algorithm and the seconds from its config.json to its end, as a function."""

    @functools.cache
    def run(algorithm: str) -> tuple[Path, float]:
        folder = tmp_path_factory.mktemp(algorithm) / "run"
        process = Child(imagenet_arch_search.main, ["--path", folder, *FLAGS, *ALGORITHMS[algorithm]])
        begun = wait_for(process, (folder / "config.json").exists)
        process.must_succeed()
        return folder, time.monotonic() - begun

    return run


def wait_for(process, happened) -> float:
    """The time at which it had happened, or the process had ended."""
    while process.poll() is None and not happened():
        time.sleep(0.01)
    return time.monotonic()


def saved_step(folder: Path) -> int:
    return checkpoint.load(folder / checkpoint.NAME).step if (folder / checkpoint.NAME).exists() else -1


def was_killed(process) -> bool:
    """Kill it, unless it was done already."""
    process.kill()
    status = process.wait()
    assert status in (-signal.SIGKILL, 0), process.errors
    return status == -signal.SIGKILL


def killed_at_any_time(process, folder: Path, whole: Path, seconds: float, rng) -> bool:
    wait_for(process, (folder / "config.json").exists)
    time.sleep(rng.uniform(0, 0.95 * seconds))
    return was_killed(process)


def killed_within_an_epoch(process, folder: Path, whole: Path, seconds: float, rng) -> bool:
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    per_epoch, wanted = records[0]["step"], rng.integers(1, records[-1]["step"] - 5)
    wait_for(process, lambda: (step := saved_step(folder)) >= wanted and step % per_epoch)
    return was_killed(process) and saved_step(folder) % per_epoch > 0


def product(folder: Path) -> dict:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    return {
        "metrics": [{key: value for key, value in record.items() if key not in CLOCKS} for record in records],
        "result": {key: value for key, value in result.items() if key != "wall_seconds"},
        "spec": json.loads((folder / "spec.json").read_text())["blocks"],
        "weights": {
            name: tensor.tobytes() for name, tensor in load_safetensors(folder / "weights.safetensors").tensors.items()
        },
    }


def resumed_is_uninterrupted(folder: Path, whole: Path) -> None:
    Child(imagenet_arch_search.main, ["--path", folder, "--resume"]).must_succeed()
    assert product(folder) == product(whole)
    ours, theirs = (checkpoint.load(each / checkpoint.NAME) for each in (folder, whole))
    for left, right in zip(ours.controller["alphas"], theirs.controller["alphas"], strict=True):
        assert torch.equal(left, right)
    for name, tensor in theirs.supernet.items():
        assert torch.equal(tensor, ours.supernet[name]), name


@pytest.mark.parametrize("algorithm", ["grad", pytest.param("rl", marks=pytest.mark.slow)])
def test_killed_within_an_epoch_and_resumed_is_uninterrupted(straight, tmp_path, algorithm):
    whole, _ = straight(algorithm)
    per_epoch = json.loads((whole / "metrics.jsonl").read_text().splitlines()[0])["step"]
    step, folder = per_epoch + per_epoch // 2, tmp_path / "run"
    words = [step, "--path", folder, *FLAGS, *ALGORITHMS[algorithm]]
    assert Child(search_killed_behind_a_step, words).wait() == -signal.SIGKILL
    assert saved_step(folder) == step
    assert step % per_epoch
    resumed_is_uninterrupted(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(23))
def test_killed_at_any_moment_and_resumed_is_uninterrupted(straight, tmp_path, moment):
    algorithm = tuple(ALGORITHMS)[moment % 2]
    kill = (killed_within_an_epoch, killed_within_an_epoch, killed_at_any_time)[moment % 3]
    whole, seconds = straight(algorithm)
    for attempt in range(10):
        folder, rng = tmp_path / str(attempt) / "run", np.random.default_rng([7, moment, attempt])
        process = Child(search_that_saves_often, ["--path", folder, *FLAGS, *ALGORITHMS[algorithm]])
        if kill(process, folder, whole, seconds, rng):
            break
    else:
        pytest.fail("every kill came too late")
    resumed_is_uninterrupted(folder, whole)
