"""The arithmetic and the resuming of experiments/proof.py, on made-up images and scores."""

import itertools
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from proxyless_arch.launch import launcher

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
    # Jeffreys' interval of 2 in 4 is symmetric, and the share below its end is 2.5 %
    low, high = found["percentile_interval_95"]
    assert low + high == pytest.approx(100)
    grid = np.linspace(0, 1, 200_001)
    density = (grid * (1 - grid)) ** 1.5
    assert density[grid < low / 100].sum() / density.sum() == pytest.approx(0.025, abs=1e-4)
    assert proof.place([0.5], random)["percentile_interval_95"][0] == 0.0
    assert proof.place([4.5], random)["percentile_interval_95"][1] == 100.0
    assert proof.place([3.0], random)["percentile"] == 62.5  # equal counts half
    together = proof.against(np.array([5.0, 6.0]), random)
    assert (together["percentile"], together["gap"]) == (100.0, 3.0)
    # of the 15 ways to pick two of six, one has the two largest and one the two smallest
    assert together["permutation_p"] == pytest.approx(2 / 15)
    # Welch: variances 1/2 / 2 and 5/3 / 4
    parts = (0.25, 5 / 12)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert together["gap_interval_95"] == pytest.approx([3 - half, 3 + half])


def test_a_search_costs_what_its_macs_say(tmp_path, monkeypatch):
    """Ten supernet steps of mean cost, half as long in architecture steps; trainings of four steps at half the cost."""
    monkeypatch.setitem(proof.TARGETS, "low", proof.TABLE.uniform_expected / 2)
    for seed, seconds in ((0, 40.0), (1, 60.0)):
        proof.write_json(tmp_path / "search" / f"grad-low-{seed}.json", {"search_seconds": seconds})
    for other in ("grad-high-0", "rl_others-low-0"):
        proof.write_json(tmp_path / "search" / f"{other}.json", {"search_seconds": 1e9})
    found = proof.budget(tmp_path, "low", 100.0, proof.Lengths(train_steps=4, supernet_steps=10))
    assert found["alone"] == pytest.approx(1 + 2 * (10 + 5) / 4)
    assert found["supernet_shared_by_four"] == pytest.approx(1 + 2 * (2.5 + 5) / 4)


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
    lengths = proof.Lengths(supernet_steps=5)  # the last is saved, though it is not its turn
    monkeypatch.setattr(proof, "SAVE_EVERY", 2)

    def train(folder):
        search = proof.new_search(0, {}, proof.TARGETS["high"], 1, lengths)
        proof.warm_up(images, search, proof.supernet_file(folder, 0))

    (tmp_path / "straight" / "supernet").mkdir(parents=True)
    (tmp_path / "broken" / "supernet").mkdir(parents=True)
    train(tmp_path / "straight")

    def stops_at_two(self, size, seed, first, last):
        yield from itertools.islice(train_batches(self, size, seed, first, last), 2)

    train_batches = proof.Images.train_batches
    with monkeypatch.context() as patch:
        patch.setattr(proof.Images, "train_batches", stops_at_two)
        train(tmp_path / "broken")
    assert proof.trained_supernet(tmp_path / "broken", 0, {}, proof.TARGETS["high"], 1, lengths) is None
    train(tmp_path / "broken")
    one, two = (proof.read_state(proof.supernet_file(tmp_path / n, 0)) for n in ("straight", "broken"))
    assert one["step"] == two["step"] == 5
    for name, tensor in one["supernet"].items():
        assert torch.equal(tensor, two["supernet"][name]), name


def test_files_of_other_settings_are_refused(tmp_path):
    with pytest.raises(proof.InputError, match=r"--work: no such file"):
        proof.check_same_work(tmp_path / "other", proof.Lengths())
    assert not (tmp_path / "other").exists()
    proof.begin_work(tmp_path, proof.Lengths())
    proof.begin_work(tmp_path, proof.Lengths())
    with pytest.raises(proof.InputError, match=r"--work: .*other settings: training .*facts\.json"):
        proof.begin_work(tmp_path, proof.Lengths(train_steps=40))


def test_a_training_of_parts_of_a_step_is_refused(tmp_path, capsys):
    for steps, allowed in (("0", "an integer, 1 or more"), ("19", "a multiple of 20"), ("5410", "a multiple of 20")):
        assert proof.main(["--work", str(tmp_path / "work"), "--train_steps", steps]) == 2
        assert f"--train_steps: expected {allowed}, got {steps}" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_one_process_at_a_time_holds_a_task(tmp_path):
    with proof.locked(tmp_path / "task", wait=False) as first, proof.locked(tmp_path / "task", wait=False) as second:
        assert (first, second) == (True, False)
    with proof.locked(tmp_path / "task", wait=False) as again:
        assert again


def write_alone(work, path, seed, test, valid=None):
    record = {"path": list(path), "seed": seed, "test_top1_percent": test, "valid_top1_percent": valid or test}
    proof.write_json(proof.alone_file(work, path, seed), {**record, "seconds": 1.0})
    return record


@pytest.mark.parametrize(("cheapest", "passed"), [(50.0, True), (55.0, False)])
def test_gate_a_by_hand(tmp_path, cheapest, passed):
    """Seeds 1 apart in every size, and a fourth network whose seeds are 5 apart: pooled over 3 x 2 + 1 degrees."""
    middle = {"3x3e6": 63.0, "3x3e3": 57.0, "cheapest": cheapest}
    done = [
        write_alone(tmp_path, path, seed, middle[name] + seed - 1)
        for name, path in proof.SIZES.items()
        for seed in range(3)
    ]
    other = (1,) * proof.SPACE.n_edges
    done += [write_alone(tmp_path, other, seed, 60.0 + 5 * seed) for seed in range(2)]
    found = proof.gate_a(tmp_path, done)
    assert found["degrees_of_freedom"] == 7 and found["degrees_of_freedom_of_the_sizes"] == 6
    assert found["seed_sd"] == pytest.approx(((3 * 2 + 12.5) / 7) ** 0.5)
    assert found["seed_sd_of_the_sizes"] == pytest.approx(1.0)
    assert found["gaps"] == pytest.approx([6.0, 57.0 - cheapest])
    assert found["passed"] == passed  # 3 sd are 4.9 points


def test_gate_b_by_hand(tmp_path):
    """Of 20 networks the first supernet reverses the last two, the second reverses all."""
    paths = proof.random_paths("high")
    for place, path in enumerate(paths):
        write_alone(tmp_path, path, 0, 60.0 + place / 10)
        write_alone(tmp_path, path, 1, 62.0 + place / 10)
    swapped = [*range(18), 19, 18]
    for seed, order in ((0, swapped), (1, range(20, 0, -1))):
        scores = [{"inherited_valid_top1_percent": float(o), "inherited_valid_loss": 9.0 - o} for o in order]
        proof.write_json(tmp_path / "ranking" / f"{seed}-high.json", {"scores": scores})
    found = proof.ranked(tmp_path, "high")
    assert found["training_seeds"] == [0, 1]
    assert found["test_top1_percent"] == pytest.approx([61.0 + place / 10 for place in range(20)])
    # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert [one["spearman"] for one in found["inherited_accuracy"]] == pytest.approx([1 - 12 / 7980, -1.0], abs=1e-3)
    assert found["between_training_seeds"]["spearman"] == 1.0
    assert not found["passed"]


def test_compared_by_hand(tmp_path):
    """Two seeds; the searched networks are the random ones' equals, one above, and the best of k is chosen by one.

    What was added afterwards (the last two searches) has a line of its own.
    """
    paths = proof.random_paths("high")
    for seed in range(2):
        for place, path in enumerate(paths):  # validation says the reverse of the test images in seed 1
            write_alone(tmp_path, path, seed, 60.0 + place + seed, 60.0 + (place if seed == 0 else -place))
        for path in proof.controls("high").values():
            write_alone(tmp_path, path, seed, 50.0)
    for number, (algorithm, seed) in enumerate(itertools.product(proof.ALGORITHMS, proof.SEARCH_SEEDS)):
        path = (number,) * proof.SPACE.n_edges
        for training_seed, score in enumerate((70.0 + number, 71.0 + number)):
            write_alone(tmp_path, path, training_seed, score)
        record = dict.fromkeys(("argmax_path", "changed_blocks", "search_seconds", "inherited_valid_loss"), 0)
        record |= {"path": list(path), "algorithm": algorithm, "seed": seed, "inherited_valid_top1_percent": 0.0}
        proof.write_json(tmp_path / "search" / f"{algorithm}-high-{seed}.json", record)
    for seed, first in ((0, 3), (1, 7)):
        scores = [{"inherited_valid_top1_percent": 90.0 if place == first else 80.0} for place in range(20)]
        proof.write_json(tmp_path / "ranking" / f"{seed}-high.json", {"scores": scores})
    found = proof.compared(tmp_path, "high")
    assert found["training_seeds"] == [0, 1]
    assert [one["mean"] for one in found["random"]["chosen_by_inheritance"]] == [63.5, 67.5]
    assert found["mean_by_supernet"] == [71.5, 72.5]
    assert [one["random_beaten"] for one in found["searched"]] == [10, 11, 12, 13, 14, 15]
    assert [one["mean"] for one in found["searched"]] == [70.5, 71.5, 72.5, 73.5, 74.5, 75.5]
    assert all(control["random_beaten"] == 0 for control in found["controls"].values())
    # all 20: the best by seed 0 is the best, by seed 1 the worst; each is kept as it was trained
    assert found["random"]["best_of_k"]["20"] == pytest.approx((79.0 + 61.0) / 2)
    assert found["random"]["best_of_k_trained_anew"]["20"] == pytest.approx((80.0 + 60.0) / 2)
    assert found["random"]["best_of_k"]["1"] == pytest.approx(70.0)
    assert found["searched_against_random"]["gap"] == pytest.approx(72.0 - 70.0)
    assert found["added_afterwards_against_random"]["gap"] == pytest.approx(75.0 - 70.0)


def test_other_experiments_in_the_folder_do_not_count(tmp_path):
    counted = [proof.SIZES["cheapest"], proof.random_paths("low")[0], (1, 2, 1, 2, 1, 2, 1, 2, 1)]
    added = (0, 1, 2, 1, 2, 1, 2, 1, 2)  # found by a search that was added afterwards
    for path in (*counted, added, (2, 1, 2, 1, 2, 1, 2, 1, 2)):
        write_alone(tmp_path, path, 1, 60.0)
    proof.write_json(tmp_path / "search" / "rl_others-low-0.json", {"path": list(added)})
    proof.write_json(tmp_path / "search" / "grad-low-0.json", {"path": list(counted[2])})
    found = {file for file in proof.compared_files(tmp_path) if file.exists()}
    assert found == {proof.alone_file(tmp_path, path, 1) for path in counted}


def test_the_picture_says_what_each_network_is(tmp_path):
    """Every random network of both targets, every hand-designed and searched one with its two trainings."""
    record = json.loads((Path(proof.__file__).parent / "proof.json").read_text())
    proof.draw(record, tmp_path / "proof.svg")
    root = ElementTree.parse(tmp_path / "proof.svg").getroot()
    words = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1.9 M MACs", "0.95 M MACs", "random network", "MB6 3×3,", "skipped"} <= set(words)
    assert not any("Zero" in word or "3x3e" in word for word in words)
    bars = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if "bar" in path.get("class", "").split()]
    networks = [one for target in record["targets"].values() for one in (*target["controls"], *target["searched"])]
    assert len(bars) == len(networks) == 16


def test_tasks_that_a_launcher_does_are_those_of_one_process(images, tmp_path, monkeypatch):
    """Each is found by its name, what it needs first, and its file is the one it always has."""
    work, begun = tmp_path / "work", []

    class Place:
        most, tick_s = 2, 0

        def begin(self, request, slot):
            wanted = json.loads(request.read_text())
            begun.append(wanted["arguments"]["name"])
            assert wanted["function"] == "experiments.proof:do_one"
            proof.do_one(**wanted["arguments"])
            return SimpleNamespace(status=lambda: 0, stop=lambda: None, kill=lambda: None)

    def tasks(images, work, lengths):
        first, second = proof.finished_supernet(work, 0), work / "search" / "x.json"
        return [
            proof.Task(second, lambda: {"one": 1.0}, first),
            proof.Task(first, lambda: {"steps": lengths.train_steps}),
        ]

    monkeypatch.setattr(proof, "tasks", tasks)
    monkeypatch.setattr(proof.Images, "load", lambda data_path, work: images)
    monkeypatch.setattr(launcher.Launcher, "_place", lambda *words: Place())
    words = ["--data_path", str(tmp_path), "--work", str(work), "--train_steps", "20", "--jobs", "2"]
    assert proof.main(words) == 0
    assert begun == ["supernet/0", "search/x"]
    assert json.loads((work / "supernet" / "0.json").read_text()) == {"steps": 20}
    assert proof.main(words) == 0
    assert len(begun) == 2
