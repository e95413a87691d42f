"""experiments/spaces_proof.py on a simulated device: equal times, the gate, and the whole way at the smallest size."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import proof
import proof_predictor
import spaces_proof

from hardware.profile.profiling import Protocol
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from proxyless_arch.space.wide import wide_space
from search.algorithm.predictor import PredictorOptions
from tests.hardware.fake_device import FakeDevice

STAGES = (Stage(16, 2, 2), Stage(24, 2, 2))
FEW = Macro(name="few", stem_width=8, stem_stride=2, first_width=8, stages=STAGES, mix_width=16)
SIZES = proof_predictor.Sizes(PredictorOptions(n_random=16, n_rescored=2, max_rounds=1), 2, 1)


@pytest.fixture
def few(monkeypatch):
    """Two small spaces, few timings, and trainings whose scores differ by the network and the seed."""
    monkeypatch.setattr(proof, "MACRO", FEW)
    monkeypatch.setattr(proof, "RECALIBRATION_BATCH", 8)
    monkeypatch.setattr(spaces_proof, "SPACES", {
        "paper": mbconv_space(FEW, **spaces_proof.COMMON), "wide": wide_space(FEW, **spaces_proof.COMMON),
    })  # fmt: skip
    monkeypatch.setattr(spaces_proof, "HAND_MADE", {"MobileNetV2-like": (mbconv_space, 3)})

    def train(images, spec, seed, lengths):
        return {"test_top1_percent": 60.0 + len(str(spec)) % 17 + 0.1 * seed}

    monkeypatch.setattr(proof, "train_spec", train)


def timer_of(study):
    protocol = Protocol(rounds=1, runs=2, warmup=1, min_ms=0.0, design_nets=30, validation_nets=20, extra_rounds=0)
    return spaces_proof.Timer(study.work, FakeDevice(isolated_error=0.0, overhead_ms=0.1), protocol)


def images():
    rng = np.random.default_rng(0)
    sizes = {"train": 64, "valid": 8, "test": 8}
    return proof.Images(
        {n: (rng.integers(0, 256, (k, 32, 32, 3), np.uint8), rng.integers(0, 10, k)) for n, k in sizes.items()}
    )


def study_of(work, target_ms=0.4, **settings):
    return spaces_proof.Study(work=work, target_ms=target_ms, n_random=3, train_steps=20, supernet_steps=4, **settings)


def test_the_true_spread_is_without_the_noise_of_the_training_seed():
    rng = np.random.default_rng(0)
    networks, noise = 3.0 * rng.standard_normal(4000), 2.0 * rng.standard_normal((4000, 2))
    assert spaces_proof.true_sd(networks[:, None] + noise) == pytest.approx((3.0, 2.0), rel=0.05)
    assert spaces_proof.true_sd(noise)[0] < 0.3
    assert spaces_proof.true_sd(np.array([[50.0, 52.0], [52.0, 50.0], [51.0, 51.0]]))[0] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_the_whole_way_at_equal_times(tmp_path, monkeypatch):
    study, proofs = study_of(tmp_path), images()
    spaces_proof.check_same(study, spaces_proof.FACTS)
    timer = timer_of(study)
    proof.run_tasks(lambda: spaces_proof.tasks(study, timer, proofs, SIZES))
    record = spaces_proof.summarize(study)
    for kind, found in record["networks"].items():
        count = 3 if kind in spaces_proof.SPACES else 1
        assert len(found["ms"]) == len(found["test_top1_percent"]) == count
        if kind in spaces_proof.SPACES:
            assert all(abs(ms / 0.4 - 1) <= spaces_proof.WITHIN for ms in found["ms"])
            top1 = np.array(found["test_top1_percent"])
            assert found["gate"]["passed"] == (spaces_proof.true_sd(top1)[0] >= 1)
    passed = {name for name in spaces_proof.SPACES if record["networks"][name]["gate"]["passed"]}
    assert {kind for kind in record["networks"] if kind.startswith("found")} == {f"found {name}" for name in passed}
    assert passed
    steps = study.supernet_steps
    for name in passed:
        whole = proof.read_state(tmp_path / "supernet" / f"{name}.pt")["step"]
        assert whole == (steps // spaces_proof.PASSES if name == "wide" else steps)


@pytest.mark.usefixtures("few")
def test_a_target_that_no_space_has_is_refused(tmp_path):
    study = study_of(tmp_path, target_ms=50.0)
    with pytest.raises(InputError):
        spaces_proof.random_networks(study, timer_of(study), "paper")


def test_another_study_in_the_same_folder_is_refused(tmp_path):
    spaces_proof.check_same(study_of(tmp_path), spaces_proof.FACTS)
    with pytest.raises(InputError):
        spaces_proof.check_same(study_of(tmp_path, target_ms=0.5), spaces_proof.FACTS)


def test_what_is_found_waits_for_the_gate(tmp_path):
    study = study_of(tmp_path)
    assert spaces_proof.spread_of(study, "paper") is None
    path = [0] * proof.SPACE.n_edges
    write_json(tmp_path / "networks" / "paper.json", {"networks": [{"path": path, "ms": 0.4}] * 3})
    for index in range(3):
        for seed in (0, 1):
            write_json(spaces_proof.alone_file(study, "paper", index, seed), {"test_top1_percent": 60.0 + seed})
    assert spaces_proof.spread_of(study, "paper") == {
        "true_sd": 0,
        "noise_sd": pytest.approx(0.5**0.5),
        "passed": False,
    }
    assert spaces_proof.find(study, None, None, "paper", SIZES) is None
