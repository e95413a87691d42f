"""A search in two processes (gloo): equal to one process with the same global batch, and resumable after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from proxyless_arch.base.errors import InputError
from proxyless_arch.data.batches import BatchPlan
from proxyless_arch.data.datasets import load_for_search
from search.config import SearchConfig, with_settings
from search.run import checkpoint
from search.run import job as jobs
from tests.search.run import two_processes

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(*command, **options):
    return subprocess.Popen(
        [str(word) for word in command], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )


def finish(process) -> str:
    output = process.communicate(timeout=240)[0].decode()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found, and each of two."""
    folder = tmp_path_factory.mktemp("processes")
    script = ROOT / "tests" / "search" / "run" / "two_processes.py"
    both = start(*TORCHRUN, script, folder / "two")
    finish(start(sys.executable, script, folder / "one"))
    finish(both)
    found = [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one.0", "two.0", "two.1")]
    assert [each["processes"] for each in found] == [1, 2, 2]
    return found


def test_alphas_that_differ_between_the_processes_are_an_error(found):
    assert [each["apart"] for each in found] == [None, *["the processes' alphas differ at step 5"] * 2]


@pytest.mark.parametrize("algorithm", two_processes.ALGORITHMS)
@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_equal_one(found, case, algorithm):
    one, two, _ = (each[f"{case} {algorithm}"] for each in found)
    for left, right in zip(one["alphas"], two["alphas"], strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
    for name, tensor in one["supernet"].items():
        # a running variance takes n / (n - 1) of its share of the batch
        loose = 0.1 if name.endswith("running_var") else 1e-4
        torch.testing.assert_close(tensor, two["supernet"][name], atol=loose, rtol=loose, msg=name)
    for left, right in zip(one["records"], two["records"], strict=True):
        assert left["train_top1_percent"] == pytest.approx(right["train_top1_percent"], abs=1e-9)
        assert left["train_loss"] == pytest.approx(right["train_loss"], abs=1e-4)
        assert left["expected_cost"] == pytest.approx(right["expected_cost"], rel=1e-4)
    # and alpha moved at all
    assert max(float(alpha.abs().max()) for alpha in one["alphas"]) > 0.1


@pytest.mark.parametrize(
    ("kind", "said", "of_rank_0"),
    [
        ("weights", "training loss nan at weight step 0", False),
        ("gradient", "gradient norm nan at weight step 0", True),  # known of the sum alone
        ("grad", "loss nan at architecture step 0", False),
        ("rl", "loss nan at architecture step 0", False),
    ],
)
def test_a_loss_that_is_not_finite_in_one_process_is_so_in_all(found, kind, said, of_rank_0):
    assert [each["broken"][kind] for each in found] == [(said, True), (said, of_rank_0), (said, True)]


def test_ranks_drop_features_of_their_own_and_resume_so(found):
    assert [each["dropout"] for each in found] == [{"same masks": n == 0, "resumed": True} for n in range(3)]


def children_of(pid: int) -> list[int]:
    task = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
def test_a_killed_rank_and_a_resume_end_as_an_uninterrupted_run(tmp_path):
    script = ROOT / "search" / "imagenet_arch_search.py"
    schedule = "--warmup_epochs 1 --n_epochs 3 --train_batch_size 256 --recalibration_images 64"
    network = "--width_mult 0.1 --resolution 8 --target_hardware flops"
    settings = f"{schedule} {network}".split()
    straight = start(*TORCHRUN, script, "--path", tmp_path / "straight", *settings)
    finish(straight)
    broken = start(*TORCHRUN, script, "--path", tmp_path / "broken", *settings)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        assert broken.poll() is None, broken.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(children_of(broken.pid)[1], signal.SIGKILL)
    broken.communicate(timeout=120)
    assert broken.returncode != 0
    finish(start(*TORCHRUN, script, "--path", tmp_path / "broken", "--resume"))
    one, two = (checkpoint.load(tmp_path / name / checkpoint.NAME) for name in ("straight", "broken"))
    assert one.step == two.step
    for left, right in zip(one.controller["alphas"], two.controller["alphas"], strict=True):
        assert torch.equal(left, right)
    for name, tensor in one.supernet.items():
        assert torch.equal(tensor, two.supernet[name]), name
    records = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("straight", "broken")]
    assert {**records[0], "wall_seconds": 0} == {**records[1], "wall_seconds": 0}


@pytest.mark.parametrize(
    ("setting", "flag"),
    [("train_batch_size", "batch_size"), *((name, name) for name in ("grad_data_batch", "rl_data_batch"))],
)
def test_a_batch_must_be_shared_out_equally(setting, flag):
    config = with_settings(SearchConfig(), {"train_batch_size": 66, setting: 64})
    jobs.check_batches(config, 2)
    with pytest.raises(InputError, match=rf"^--{flag}: expected a multiple of 3 \(the processes\), got 64$"):
        jobs.check_batches(config, 3)


def test_a_batch_for_other_processes_is_refused_once_and_first(tmp_path):
    script = ROOT / "search" / "imagenet_arch_search.py"
    three = start(*TORCHRUN[:-1], "--nproc_per_node=3", script, "--path", tmp_path / "run", "--train_batch_size", "64")
    output = three.communicate(timeout=240)[0].decode()
    assert three.returncode != 0
    assert output.count("error: --batch_size: expected a multiple of 3 (the processes), got 64") == 1
    assert list(tmp_path.iterdir()) == []


REFUSED = """
import os, sys, time
from pathlib import Path
from proxyless_arch.base.errors import InputError
from hardware.profile import device as profiler
from search import imagenet_arch_search

def profile(*arguments):
    assert os.environ["RANK"] == "0"
    time.sleep(0.5)
    raise InputError("the machine is too busy to measure")

profiler.profile_device = profile
profiler.default_output = lambda conditions: Path(sys.argv[1]) / "latency"
words = "--target_hardware cpu --runtime torch --width_mult 0.1 --resolution 8 --device cpu --path"
raise SystemExit(imagenet_arch_search.main([*words.split(), sys.argv[1] + "/run"]))
"""


def two_ranks(code, *words) -> tuple[list[int], list[str]]:
    """What two ranks of a program, started without torchrun, end with: their statuses and complaints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            env=ENVIRONMENT | group | {"RANK": rank, "LOCAL_RANK": rank},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]
    try:
        complaints = [process.communicate(timeout=90)[1].decode() for process in ranks]
    finally:  # a rank that waits for ever
        for process in ranks:
            process.kill()
    return [process.returncode for process in ranks], complaints


def test_a_latency_table_that_rank_0_cannot_make_ends_both_ranks(tmp_path):
    statuses, complaints = two_ranks(REFUSED, tmp_path)
    assert statuses == [2, 2], complaints
    assert complaints == ["error: the machine is too busy to measure\n", ""]
    assert list(tmp_path.iterdir()) == []


STOPS_AT_ONCE = """
import os, sys
from search import imagenet_arch_search
from search.run import runner

class StopsAtOnce(runner.StopRequest):
    def __enter__(self):
        self.wanted = os.environ["RANK"] == "1"
        return super().__enter__()

runner.StopRequest = StopsAtOnce
raise SystemExit(imagenet_arch_search.main(sys.argv[1:]))
"""
GOES_ON = """
import sys
from search import imagenet_arch_search
raise SystemExit(imagenet_arch_search.main(sys.argv[1:]))
"""


BREAKS = """
import os, sys
from search import imagenet_arch_search
from search.run import loop

def breaking(step, number):
    def broken(search, images, labels):
        at = search.controller.step if name == "arch_step" else search.step
        if at == number and os.environ["RANK"] == "1":
            images = images * float("nan")
        return step(search, images, labels)
    return broken

name, number = sys.argv[1:3]
setattr(loop.Search, name, breaking(getattr(loop.Search, name), int(number)))
raise SystemExit(imagenet_arch_search.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("step", "problem"), [("weight", "training loss nan at weight"), ("arch", "loss nan at arch")])
def test_of_a_loss_that_is_not_finite_the_images_of_its_process_are_named(tmp_path, step, problem):
    words = (
        "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --train_batch_size 64 --warmup_epochs 0 "
        "--n_epochs 2 --grad_update_arch_param_every 1 --device cpu --target_hardware flops"
    )
    statuses, complaints = two_ranks(BREAKS, f"{step}_step", "1", "--path", tmp_path / "run", *words.split())
    assert statuses == [1, 1], complaints
    data = load_for_search("digits", None, 1300, 0)
    images, seed = (data.train, 0) if step == "weight" else (data.valid, 1)
    plan = BatchPlan(n_images=len(images), batch_size=64, seed=seed, rank=1, world_size=2)
    named = ", ".join(images.place(sample.image) for sample in next(plan.steps(1, 1))[:3])
    (line,) = [line for each in complaints for line in each.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: stopped before the update: {problem}")
    assert f" step 1; its first images: {named}; a new run" in line


def photos_of(folder, n_images=40):
    """Two classes of noise."""
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
        for index in range(n_images):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")


def test_what_either_process_cannot_read_is_counted(tmp_path):
    """In the checkpoint of a stop within an epoch, which rank 1 asks for, and in the result of the resumed run."""
    photos, run_dir = tmp_path / "photos", tmp_path / "run"
    photos_of(photos)
    train = load_for_search("imagefolder", photos, 16, 0).train
    shares = [
        next(BatchPlan(n_images=len(train), batch_size=16, seed=0, rank=rank, world_size=2).steps(0, 1))
        for rank in range(2)
    ]
    damaged = sorted(train.place(share[0].image) for share in shares)
    for place in damaged:
        Path(place).write_bytes(b"no image")
    # one epoch of 3 steps, and a BN recalibration that looks at next to nothing: rank 0 never meets rank 1's
    words = (
        "--space tiny --width_mult 0.05 --resolution 8 --valid_size 16 --train_batch_size 16 --warmup_epochs 1 "
        "--n_epochs 0 --recalibration_images 2 --n_worker 0 --device cpu --target_hardware flops"
    )
    statuses, complaints = two_ranks(
        STOPS_AT_ONCE, "--dataset", "imagefolder", "--data_path", photos, "--path", run_dir, *words.split()
    )
    assert statuses == [130, 130], complaints
    state = checkpoint.load(run_dir / checkpoint.NAME)
    assert (state.step, state.unreadable) == (1, damaged)
    statuses, complaints = two_ranks(GOES_ON, "--path", run_dir, "--resume")
    assert statuses == [0, 0], complaints
    assert checkpoint.load(run_dir / checkpoint.NAME).unreadable == damaged
    assert json.loads((run_dir / "result.json").read_text())["unreadable_images"] == 2
