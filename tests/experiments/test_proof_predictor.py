"""experiments/proof_predictor.py on made-up images: the whole way, killed between, and the test's power."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import proof
import proof_predictor

from search.algorithm.predictor import PredictorOptions

LENGTHS = proof.Lengths(train_steps=20, supernet_steps=1)
SIZES = proof_predictor.Sizes(PredictorOptions(n_random=16, n_rescored=2, max_rounds=1), 2, 1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sizes = {"train": 520, "valid": 8, "test": 8}
    return proof.Images(
        {n: (rng.integers(0, 256, (k, 32, 32, 3), np.uint8), rng.integers(0, 10, k)) for n, k in sizes.items()}
    )


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(proof, "RECALIBRATION_BATCH", 8)
    monkeypatch.setattr(proof, "N_RANDOM", 3)
    monkeypatch.setattr(proof_predictor, "ALGORITHMS", ("predictor",))
    monkeypatch.setattr(proof_predictor, "TARGETS", {"high": proof.TARGETS["high"]})
    monkeypatch.setattr(proof, "train_alone", lambda images, path, seed, lengths: {"test_top1_percent": 73.0 + seed})


def test_only_what_passes_the_gate_is_trained_and_compared(images, tmp_path, monkeypatch, quick):
    proof.begin_work(tmp_path, LENGTHS)

    def tasks():
        return proof_predictor.tasks(images, tmp_path, [0], LENGTHS, SIZES)

    monkeypatch.setattr(proof_predictor, "GATE", np.inf)
    proof.run_tasks(tasks)
    (file,) = (tmp_path / "found").glob("predictor-high-0.json")
    found = json.loads(file.read_text())
    assert 0.99 * proof.TARGETS["high"] <= found["macs"] == proof.TABLE.of_path(tuple(found["path"]))
    losses = np.array(found["random_losses"])
    z = (losses[:, 1].mean() - found["loss"]["judged"]) / losses[:, 1].std(ddof=1)
    assert (found["z"]["judged"], losses.shape) == (pytest.approx(z), (3, 2))
    middle = np.sort(losses[:, 1])
    spread = 1.4826 * min(middle[1] - middle[0], middle[2] - middle[1])  # the median of three distances, one of them 0
    assert found["z_of_the_middle"] == pytest.approx((middle[1] - found["loss"]["judged"]) / spread)
    assert not (tmp_path / "alone").exists()
    monkeypatch.setattr(proof_predictor, "GATE", -np.inf)
    proof.run_tasks(tasks)
    assert len(list((tmp_path / "alone").glob("*.json"))) == 2
    recorded = Path(proof_predictor.ROOT / "experiments" / "proof.json")
    record = proof_predictor.summarize(tmp_path, [0], LENGTHS, recorded)
    (network,) = record["targets"]["high"]["networks"]
    random = np.array(json.loads(recorded.read_text())["targets"]["high"]["random"]["test_top1_percent"])
    assert network["mean"] == 73.5
    assert network["random_beaten"] == (random < 73.5).sum()


def test_a_predictor_goes_on_where_it_was_stopped(images, tmp_path, monkeypatch, quick):
    search = proof.new_search(0, {}, proof.TARGETS["high"], 1, LENGTHS)
    state, calls = tmp_path / "state.json", []
    losses = proof_predictor.Scorer.chooses

    def counted(scorer, paths):
        calls.append(len(paths))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return losses(scorer, paths)

    monkeypatch.setattr(proof_predictor.Scorer, "chooses", counted)
    with pytest.raises(KeyboardInterrupt):
        proof_predictor.find(images, search, "predictor", "high", state, SIZES)
    found = proof_predictor.find(images, search, "predictor", "high", state, SIZES)
    assert sum(calls[2:]) <= 3  # the random ones are not scored again
    straight = proof_predictor.find(images, search, "predictor", "high", tmp_path / "other.json", SIZES)
    assert found == straight


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    from scipy import stats

    own, other = rng.normal(1.3, 1, (2000, 6)), rng.normal(0, 1, (2000, 24))
    seen = stats.ttest_ind(own, other, axis=1).pvalue < 0.05
    assert proof_predictor.power(6, 1.3, 1.0, 24) == pytest.approx(seen.mean(), abs=0.03)
