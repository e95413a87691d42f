"""A search in two processes (gloo): equal to one process with the same global batch, and resumable after a kill."""

import json
import os
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardware.profile import device as profiler
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.batches import BatchPlan
from proxyless_arch.data.datasets import load_for_search
from search import imagenet_arch_search
from search.config import SearchConfig, with_settings
from search.run import checkpoint, loop, runner
from search.run import job as jobs
from tests.errors import error_line, named, refused
from tests.processes import Child, ended, ranks
from tests.search.run import two_processes

TINY = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --device cpu --target_hardware flops "
    "--recalibration plain"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found, and each of two."""
    folder = tmp_path_factory.mktemp("processes")
    with ranks(two_processes.main, [folder / "two"]) as both:
        for child in (Child(two_processes.main, [folder / "one"]), *both):
            child.must_succeed()
    found = [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one.0", "two.0", "two.1")]
    assert [each["processes"] for each in found] == [1, 2, 2]
    return found


def test_alphas_that_differ_between_the_processes_are_an_error(found):
    whole, *both = (each["apart"] for each in found)
    assert whole is None
    for said in both:
        named(said, "alphas", "step 5")


@pytest.mark.parametrize("algorithm", two_processes.ALGORITHMS)
@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_equal_one(found, case, algorithm):
    one, two, _ = (each[f"{case} {algorithm}"] for each in found)
    for left, right in zip(one["alphas"], two["alphas"], strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
    for name, tensor in one["supernet"].items():
        # a running variance takes n / (n - 1) of its share of the batch
        loose = 0.1 if name.endswith("running_var") else 1e-4
        if "paths" in case and ("running_" in name or name.endswith("num_batches_tracked")):
            continue  # each process has those of its own paths
        torch.testing.assert_close(tensor, two["supernet"][name], atol=loose, rtol=loose, msg=name)
    for left, right in zip(one["records"], two["records"], strict=True):
        assert left["train_top1_percent"] == pytest.approx(right["train_top1_percent"], abs=1e-9)
        assert left["train_loss"] == pytest.approx(right["train_loss"], abs=1e-4)
        assert left["expected_cost"] == pytest.approx(right["expected_cost"], rel=1e-4)
    # and alpha moved at all
    assert max(float(alpha.abs().max()) for alpha in one["alphas"]) > 0.1


@pytest.mark.parametrize(
    ("kind", "values", "of_rank_0"),
    [
        ("weights", ["training loss nan", "weight step 0"], False),
        ("gradient", ["gradient norm nan", "weight step 0"], True),  # known of the sum alone
        ("grad", ["loss nan", "architecture step 0"], False),
        ("rl", ["loss nan", "architecture step 0"], False),
    ],
)
def test_a_loss_that_is_not_finite_in_one_process_is_so_in_all(found, kind, values, of_rank_0):
    said, of_own = zip(*(each["broken"][kind] for each in found), strict=True)
    assert (len(set(said)), of_own) == (1, (True, of_rank_0, True))
    named(said[0], *values)


def test_ranks_drop_features_of_their_own_and_resume_so(found):
    assert [each["dropout"] for each in found] == [{"same masks": n == 0, "resumed": True} for n in range(3)]


def all_found(folder) -> tuple:
    """(alphas and supernet, result) of a finished run."""
    state = checkpoint.load(folder / checkpoint.NAME)
    alphas = {f"alpha {index}": alpha for index, alpha in enumerate(state.controller["alphas"])}
    return {"step": torch.tensor(state.step), **alphas, **state.supernet}, result_of(folder) | {"wall_seconds": 0}


def result_of(folder) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_killed_rank_and_a_resume_end_as_an_uninterrupted_run(tmp_path):
    words = [*TINY, "--warmup_epochs", "1", "--n_epochs", "2", "--train_batch_size", "64"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert ended(imagenet_arch_search.main, ["--path", straight, *words])[0] == [0, 0]
    metrics, deadline = broken / "metrics.jsonl", time.monotonic() + 120
    with ranks(imagenet_arch_search.main, ["--path", broken, *words]) as both:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
            assert both[0].poll() is None, both[0].errors
            assert time.monotonic() < deadline
            time.sleep(0.005)
        both[1].kill()
        assert both[0].wait(60) != 0  # the other one does not wait for ever
    assert not (broken / "result.json").exists()
    assert ended(imagenet_arch_search.main, ["--path", broken, "--resume"])[0] == [0, 0]
    (one, result), (two, other) = all_found(straight), all_found(broken)
    assert result == other
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.parametrize(
    ("setting", "flag"),
    [("train_batch_size", "batch_size"), *((name, name) for name in ("grad_data_batch", "rl_data_batch"))],
)
def test_a_batch_must_be_shared_out_equally(setting, flag):
    config = with_settings(SearchConfig(), {"train_batch_size": 66, setting: 64})
    jobs.check_batches(config, 2)
    with refused(f"--{flag}", "multiple of 3", 64):
        jobs.check_batches(config, 3)


@pytest.mark.parametrize("paths", [3, 8])
def test_paths_must_be_shared_out_equally(paths):
    """Over two processes, of a batch of 12."""
    config = with_settings(SearchConfig(), {"train_batch_size": 12, "paths_per_step": paths})
    with pytest.raises(InputError) as caught:
        jobs.check_batches(config, 2)
    assert caught.value.place == "--paths_per_step"
    for allowed in (1, 4):
        jobs.check_batches(with_settings(config, {"paths_per_step": allowed}), 2)


def test_a_batch_for_other_processes_is_refused_once_and_first(tmp_path):
    words = ["--path", tmp_path / "run", "--train_batch_size", "64"]
    statuses, complaints = ended(imagenet_arch_search.main, words, n_ranks=3)
    assert statuses == [2, 2, 2]
    error_line(complaints[0], "--batch_size", "multiple of 3", 64)
    assert complaints[1:] == ["", ""]
    assert list(tmp_path.iterdir()) == []


def search_that_cannot_measure(words):
    """Rank 0 profiles this machine, for the others too."""
    (folder,) = words

    def profile(*_):
        assert os.environ["RANK"] == "0"
        time.sleep(0.5)
        raise InputError("too busy")

    profiler.profile_device = profile
    profiler.default_output = lambda conditions: Path(folder) / "latency"
    flags = "--target_hardware cpu --runtime torch --width_mult 0.1 --resolution 8 --device cpu --path"
    return imagenet_arch_search.main([*flags.split(), f"{folder}/run"])


def test_a_latency_table_that_rank_0_cannot_make_ends_both_ranks(tmp_path):
    statuses, complaints = ended(search_that_cannot_measure, [tmp_path])
    assert statuses == [2, 2], complaints
    assert complaints == ["error: too busy\n", ""]
    assert list(tmp_path.iterdir()) == []


def search_that_rank_1_stops(words):
    class StopsAtOnce(runner.StopRequest):
        def __enter__(self):
            self.wanted = os.environ["RANK"] == "1"
            return super().__enter__()

    runner.StopRequest = StopsAtOnce
    return imagenet_arch_search.main(words)


def search_that_breaks_in_rank_1(words):
    """``words``: weight_step or arch_step, and the number of the step whose images turn to nan."""
    name, number, *flags = words
    step = getattr(loop.Search, name)

    def broken(search, images, labels):
        at = search.controller.step if name == "arch_step" else search.step
        if at == int(number) and os.environ["RANK"] == "1":
            images = images * float("nan")
        return step(search, images, labels)

    setattr(loop.Search, name, broken)
    return imagenet_arch_search.main(flags)


@pytest.mark.parametrize(
    ("step", "values"),
    [
        ("weight", ["training loss nan", "weight step 1"]),
        pytest.param("arch", ["loss nan", "architecture step 1"], marks=pytest.mark.slow),
    ],
)
def test_of_a_loss_that_is_not_finite_the_images_of_its_process_are_named(tmp_path, step, values):
    schedule = "--train_batch_size 64 --warmup_epochs 0 --n_epochs 2 --grad_update_arch_param_every 1"
    words = [f"{step}_step", 1, "--path", tmp_path / "run", *TINY, *schedule.split()]
    statuses, complaints = ended(search_that_breaks_in_rank_1, words)
    assert statuses == [1, 1], complaints
    data = load_for_search("digits", None, 1300, 0)
    images, seed = (data.train, 0) if step == "weight" else (data.valid, 1)
    plan = BatchPlan(n_images=len(images), batch_size=64, seed=seed, rank=1, world_size=2)
    first = ", ".join(images.place(sample.image) for sample in next(plan.steps(1, 1))[:3])
    (line,) = [line for each in complaints for line in each.splitlines() if line.startswith("error")]
    error_line(line, "", *values, first)


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
        "--n_epochs 0 --recalibration_images 2 --n_worker 0 --device cpu --target_hardware flops --rescore 2"
    )
    data = ["--dataset", "imagefolder", "--data_path", photos]
    statuses, complaints = ended(search_that_rank_1_stops, [*data, "--path", run_dir, *words.split()])
    assert statuses == [130, 130], complaints
    state = checkpoint.load(run_dir / checkpoint.NAME)
    assert (state.step, state.unreadable) == (1, damaged)
    statuses, complaints = ended(imagenet_arch_search.main, ["--path", run_dir, "--resume"])
    assert statuses == [0, 0], complaints
    assert checkpoint.load(run_dir / checkpoint.NAME).unreadable == damaged
    assert result_of(run_dir)["unreadable_images"] == 2
