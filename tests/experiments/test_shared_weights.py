"""experiments/shared_weights.py at the smallest size: the whole way, again, and what the record holds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import shared_weights

from proxyless_arch.arch.walk import total_macs
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from search.algorithm.derive import inherit
from search.algorithm.elastic import ElasticNet

WORDS = ["--n_networks", "4", "--n_epochs", "1", "--supernet_epochs", "1"]


def study(work, **settings):
    return shared_weights.Study(work=work, n_networks=6, **settings)


def test_networks_are_of_about_one_cost(tmp_path):
    space = shared_weights.space_of(study(tmp_path))
    costs = [total_macs(space.spec_for(path)) for path in shared_weights.networks(study(tmp_path))]
    assert len(costs) == 6 and min(costs) >= 0.9 * max(costs) - 1


def test_statistics_by_width_are_those_of_networks_by_themselves(tmp_path):
    """By hand: each network in turn, its statistics those that are kept for its numbers of channels."""
    space = shared_weights.space_of(study(tmp_path))
    supernet = ElasticNet(space, torch.Generator().manual_seed(0))
    kept = shared_weights.StatisticsByWidth(supernet)
    paths = shared_weights.networks(study(tmp_path))[:3]
    seen = {}
    for number, path in enumerate([*paths, space.largest_path, *paths]):
        images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        supernet.train()(images, path)
        supernet.eval()(images + 9, path)  # moves none
        net = inherit(supernet, space, path)
        for name, buffer in net.named_buffers():
            buffer.copy_(seen.get((name, buffer.shape), torch.full_like(buffer, name.endswith("var"))))
        net.train()(images)
        seen |= {(name, buffer.shape): buffer for name, buffer in net.named_buffers()}
    for path in paths:
        for name, buffer in kept.network(path).named_buffers():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(buffer, seen[name, buffer.shape], rtol=1e-4, atol=1e-6)


def test_the_record_is_kendalls_tau_with_the_mean_of_both_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_weights, "RESAMPLED", 50)
    made = study(tmp_path, supernets=2)
    rng = np.random.default_rng(0)
    losses = rng.random((2, 6))
    for index in range(6):
        for seed in (0, 1) if index < 5 else (0,):  # the last one is not done
            found = {"test_loss": float(losses[seed, index]), "test_top1_percent": 50.0}
            write_json(shared_weights.alone_file(made, index, seed), found)
    truth = losses.mean(0)
    for seed in (0, 1):
        ranked = {"recalibrated": [*truth], "running": [*(-truth)], "by width": [*(truth if seed else -truth)]}
        write_json(shared_weights.way_file(made, "sandwich", seed), ranked)
    record = shared_weights.summarize(made)
    assert record["n_networks"] == 5
    assert record["tau_between_training_seeds"] == pytest.approx(kendalltau(*losses[:, :5]).statistic)
    first, second, third = record["ways"].values()
    assert first["tau"] == pytest.approx(1.0) and first["interval_95"] == pytest.approx([1.0, 1.0])
    assert first["mean_loss"] == pytest.approx(truth[:5].mean())
    assert second["tau"] == pytest.approx(-1.0) and third["tau"] == pytest.approx(0.0)
    assert second["than_the_first"] == {"ahead": pytest.approx(-2.0), "interval_95": pytest.approx([-2.0, -2.0])}
    assert record["than_recalibrated"]["by width"]["ahead"] == pytest.approx(-1.0)


def test_another_study_in_the_same_folder_is_refused(tmp_path):
    shared_weights.check_same(study(tmp_path), shared_weights.FACTS)
    shared_weights.check_same(study(tmp_path), shared_weights.FACTS)
    with pytest.raises(InputError):
        shared_weights.check_same(study(tmp_path, n_epochs=9), shared_weights.FACTS)


@pytest.mark.slow
def test_the_whole_way_and_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared_weights, "OUTPUT", tmp_path / "record.json")
    assert shared_weights.main(["--work", str(tmp_path / "work"), *WORDS]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["n_networks"] == 4 and len(record["ways"]) == 3 * len(shared_weights.WAYS)
    capsys.readouterr()
    assert shared_weights.main(["--work", str(tmp_path / "work"), *WORDS]) == 0  # nothing is left to do
    assert "[" not in capsys.readouterr().out
