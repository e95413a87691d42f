"""The arithmetic and the resuming of experiments/proof.py, on made-up images and scores."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import proof  # noqa: E402


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sizes = {"train": 300, "valid": 100, "test": 100}
    return proof.Images(
        {n: (rng.integers(0, 256, (k, 32, 32, 3), np.uint8), rng.integers(0, 10, k)) for n, k in sizes.items()}
    )


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_best_of_k_is_the_mean_over_all_subsets(k):
    rng = np.random.default_rng(k)
    chosen_by, score = rng.permutation(6) * 1.0, rng.random(6)
    subsets = [score[max(subset, key=lambda i: chosen_by[i])] for subset in itertools.combinations(range(6), k)]
    assert proof.best_of_k(chosen_by, score, k) == pytest.approx(np.mean(subsets))


def test_place_and_against_by_hand():
    random = np.array([1.0, 2.0, 3.0, 4.0])
    found = proof.place([2.0, 3.0], random)
    assert (found["mean"], found["random_beaten"], found["percentile"]) == (2.5, 2, 50.0)
    assert proof.superiority(np.array([3.0]), random) == (2 + 0.5) / 4
    together = proof.against(np.array([5.0, 5.0]), random)
    assert (together["percentile"], together["gap"]) == (100.0, 2.5)
    # of the 15 ways to pick two ranks of six, one has both on top
    assert together["mann_whitney_p"] == pytest.approx(1 / 15)


@pytest.mark.parametrize("target", proof.TARGETS)
def test_random_networks_and_controls_keep_to_the_target(target):
    goal = proof.TARGETS[target]
    costs = [proof.TABLE.of_path(path) for path in proof.random_paths(target)]
    assert len(set(proof.random_paths(target))) == 20
    assert all(0.99 * goal <= cost <= goal for cost in costs)
    for name, path in proof.controls(target).items():
        assert 0.95 * goal <= proof.TABLE.of_path(path) <= goal
        kinds = {proof.SPACE.choices[block][choice] for block, choice in enumerate(path)}
        assert {getattr(op, "kernel_size", 3) for op in kinds} == {3}, name


def test_batches_from_a_step_on_are_the_tail(images):
    whole = list(images.train_batches(64, 3, 0, 9))
    tail = list(images.train_batches(64, 3, 6, 9))
    for (left, labels), (right, same) in zip(whole[6:], tail, strict=True):
        assert torch.equal(left, right)
        assert torch.equal(labels, same)
    # an epoch is four batches of distinct images
    assert len(torch.unique(torch.cat([batch for batch, _ in whole[:4]]), dim=0)) == 256


def test_a_supernet_that_is_resumed_equals_one_that_was_not(images, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "SUPERNET_STEPS", 4)
    monkeypatch.setattr(proof, "SAVE_EVERY", 2)
    proof.train_supernet(images, tmp_path / "straight", 0)

    def stops_at_two(self, size, seed, first, last):
        yield from itertools.islice(train_batches(self, size, seed, first, last), 2)

    train_batches = proof.Images.train_batches
    with monkeypatch.context() as patch:
        patch.setattr(proof.Images, "train_batches", stops_at_two)
        proof.train_supernet(images, tmp_path / "broken", 0)
    assert proof.trained_supernet(tmp_path / "broken", 0, {}, proof.TARGETS["high"], 1) is None
    proof.train_supernet(images, tmp_path / "broken", 0)
    one, two = (torch.load(proof.supernet_file(tmp_path / n, 0), weights_only=True) for n in ("straight", "broken"))
    assert one["step"] == two["step"] == 4
    for name, tensor in one["supernet"].items():
        assert torch.equal(tensor, two["supernet"][name]), name


def test_files_of_other_settings_are_refused(tmp_path, monkeypatch):
    proof.check_same_work(tmp_path)
    proof.check_same_work(tmp_path)
    monkeypatch.setattr(proof, "TRAIN_STEPS", 7)
    with pytest.raises(proof.InputError, match=r"--work: .*other settings: training .*facts\.json"):
        proof.check_same_work(tmp_path)


def test_one_process_at_a_time_holds_a_task(tmp_path):
    with proof.locked(tmp_path / "task", wait=False) as first, proof.locked(tmp_path / "task", wait=False) as second:
        assert (first, second) == (True, False)
    with proof.locked(tmp_path / "task", wait=False) as again:
        assert again
