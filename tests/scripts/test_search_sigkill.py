"""SIGKILL at any moment, then --resume: the same alphas, weights, metrics and derived network, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from search import checkpoint

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "search" / "imagenet_arch_search.py"
FLAGS = [
    "--warmup_epochs",
    "2",
    "--n_epochs",
    "3",
    "--width_mult",
    "0.1",
    "--resolution",
    "8",
    "--finetune_epochs",
    "1",
]
CLOCKS = ("seconds", "images_per_second")


def start(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(process) -> None:
    errors = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(an uninterrupted run, the seconds from its config.json to its end)."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    process = start("--path", folder, *FLAGS)
    while not (folder / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    begun = time.monotonic()
    finished(process)
    return folder, time.monotonic() - begun


def product(folder: Path) -> dict:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    return {
        "metrics": [{key: value for key, value in record.items() if key not in CLOCKS} for record in records],
        "result": {key: value for key, value in result.items() if key != "wall_seconds"},
        "spec": json.loads((folder / "spec.json").read_text())["blocks"],
    }


@pytest.mark.parametrize("moment", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))])
def test_killed_and_resumed_is_uninterrupted(straight, tmp_path, moment):
    whole, seconds = straight
    folder = tmp_path / "run"
    rng = np.random.default_rng([7, moment])
    process = start("--path", folder, *FLAGS)
    while not (folder / "config.json").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.95 * seconds))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finished(start("--path", folder, "--resume"))
    assert product(folder) == product(whole)
    ours, theirs = (checkpoint.load(each / checkpoint.NAME) for each in (folder, whole))
    for left, right in zip(ours.controller["alphas"], theirs.controller["alphas"], strict=True):
        assert torch.equal(left, right)
    for name, tensor in theirs.supernet.items():
        assert torch.equal(tensor, ours.supernet[name]), name
