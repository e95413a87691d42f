"""A search that chooses widths too: its product, a stop and a resume, the other rule of training, what it refuses."""

import itertools
import json
import shlex
from pathlib import Path

import pytest
import torch

from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import SearchSpace
from search import SearchConfig, imagenet_arch_search
from search.algorithm.derive import choose_path
from search.run import announce, runner
from search.run.job import new_search, prepare
from search.run.loop import run
from tests.search.run import two_processes
from tests.search.run.test_scoring import found_in
from tests.search.run.two_processes import batches
from tests.search.tiny import assert_same_bits, tiny_wide_space

TABLES = Path(__file__).resolve().parents[3] / "hardware" / "tables"
SETTINGS = {"space": "wide_tiny", "width_mult": 0.35, "resolution": 8, "target_hardware": "flops", "valid_size": 1200}
WORDS = shlex.split(
    "--space wide_tiny --width_mult 0.35 --resolution 8 --target_hardware flops --valid_size 1200 --device cpu "
    "--threads 1 --score_images 60 --recalibration_images 64 --score_networks 16 --rescore 3 "
    "--batch_size 32 --warmup_epochs 1"
)


def job_of(**settings):
    config = SearchConfig.of(**(SETTINGS | {"batch_size": 32, "score_networks": 16} | settings))
    return prepare(config, torch.device("cpu"), lambda line: None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert imagenet_arch_search.main(["--run_dir", str(folder), *WORDS]) == 0
    return folder


@pytest.mark.slow  # tests/search/run/test_around.py has the same flow
def test_the_network_lands_with_the_widths_that_were_chosen(straight):
    record, spec = json.loads((straight / "result.json").read_text()), read_spec(straight / "spec.json")
    space = SearchSpace.from_json(json.loads((straight / "space.json").read_text()))
    assert 0.99 * record["target_macs"] <= record["macs"] == total_macs(spec) <= record["target_macs"]
    assert space.spec_for(tuple(record["path"]), spec.name).blocks == spec.blocks
    for width in space.widths:
        found = {block.op.out_channels for block in spec.blocks[width.first : width.last + 1]}
        assert len(found) == 1 and found <= set(width.options)
    assert "Width of blocks 1 to 4: " in (straight / "report.html").read_text()


@pytest.mark.slow
def test_a_stop_and_a_resume_end_as_an_uninterrupted_search(straight, tmp_path, monkeypatch):
    class Stops(runner.StopRequest):
        looks = 0

        @property
        def wanted(self):
            Stops.looks += 1
            return Stops.looks in (4, 16)  # in the warm-up, and while networks are scored

        @wanted.setter
        def wanted(self, value):
            pass

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", Stops)
        assert imagenet_arch_search.main(["--run_dir", str(folder), *WORDS]) == 130
        assert imagenet_arch_search.main(["--run_dir", str(folder), "--resume"]) == 130
    assert imagenet_arch_search.main(["--run_dir", str(folder), "--resume"]) == 0
    assert found_in(folder) == found_in(straight)


def test_the_largest_first_and_then_any():
    """The probability of the largest falls from 1 at the first step to 0 at a quarter of the warm-up, which is the same
    whatever follows it."""
    search = new_search(job_of(shared_rule="largest_first", warmup_epochs=100))
    longer = new_search(job_of(shared_rule="largest_first", warmup_epochs=100, arch_algo="grad", n_epochs=40))
    largest, quarter = search.space.largest_path, search.schedule.total_steps // 4
    assert longer.schedule.total_steps > search.schedule.total_steps == search.schedule.warmup_steps
    taken = []
    for search.step in range(quarter + 20):
        longer.step = search.step
        (path,) = search.trained_paths()
        assert longer.trained_paths() == [path]
        taken.append(path == largest)
    assert taken[0] and not any(taken[quarter:])
    assert sum(taken) == pytest.approx(quarter / 2, abs=4 * (quarter / 6) ** 0.5)  # the variance is a sum of p (1 - p)
    before = search.supernet.state_dict()["classifier.linear.bias"].clone()
    search.weight_step(torch.randn(4, 3, 8, 8), torch.arange(4))
    assert not torch.equal(before, search.supernet.state_dict()["classifier.linear.bias"])


@pytest.mark.parametrize("algorithm", ["grad", "rl"])
@pytest.mark.parametrize("rule", ["sandwich", pytest.param("largest_first", marks=pytest.mark.slow)])
def test_a_resumed_search_by_alpha_ends_as_an_uninterrupted_one(algorithm, rule):
    def ending(search, last):
        train, valid = batches("wide", 20, 1), batches("wide", 15, 2)
        train, valid = itertools.islice(train, search.step, None), itertools.islice(valid, search.controller.step, None)
        run(search, train, valid, on_epoch=lambda record: None, on_step=lambda state: state.step < last)
        return search.checkpoint({}, {}, 0, 0.0)

    def begun():
        return two_processes.new_search(algorithm, torch.device("cpu"), space=tiny_wide_space(), shared_rule=rule)

    straight, again = ending(begun(), 20), begun()
    again.restore(ending(begun(), 9))
    resumed = ending(again, 20)
    assert_same_bits(straight.supernet, resumed.supernet)
    for one, other in zip(straight.controller["alphas"], resumed.controller["alphas"], strict=True):
        assert torch.equal(one, other) and one.abs().max() > 0.02
    path, projection = choose_path(again.alphas, again.table, again.goal, lower=0.9)
    assert again.space.check(path) and 0.9 * again.goal <= projection.cost <= again.goal


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grad", "rl"])
def test_a_network_found_by_alpha_lands(algorithm, tmp_path):
    words = ["--arch_algo", algorithm, "--n_epochs", "2", "--grad_binary_mode", "two", "--rl_batch_size", "2"]
    words += ["--run_dir", str(tmp_path), *WORDS, "--warmup_epochs", "1"]
    assert imagenet_arch_search.main(words) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert 0.99 * record["target_macs"] <= record["macs"] <= record["target_macs"]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"target_macs": 10}, "--target_macs"),  # no width reaches it
        ({"target_macs": 1e12}, "--target_macs"),
        ({"space": "tiny", "kernel_transform": True}, "--kernel_transform"),
        ({"space": "uib_tiny", "shared_rule": "largest_first"}, "--shared_rule"),
        ({"space": "tiny", "sandwich_paths": 3}, "--sandwich_paths"),
        ({"shared_rule": "largest_first", "sandwich_paths": 3}, "--sandwich_paths"),
        ({"space": None, "width_mult": 1.0, "parent": "no such network"}, "--from"),
        ({"width_mult": 0.05}, "--width_mult"),  # nothing but 8 channels to choose from
    ],
)
def test_what_the_space_does_not_have_is_refused(given, place):
    with pytest.raises(InputError) as caught:
        job_of(**given)
    assert caught.value.place == place


def test_scores_of_weights_that_were_never_trained_are_told():
    def said(**given):
        return [line for line in announce.header(job_of(**given)).splitlines() if "drawn at random" in line]

    assert len(said(warmup_epochs=0)) == 1 and not said(warmup_epochs=1)


def test_a_table_that_lacks_a_layer_names_what_has_it():
    settings = {"resolution": 32, "target_hardware": "cpu", "force_latency_table": True}
    with pytest.raises(InputError) as caught:
        job_of(**settings, latency_table=str(TABLES / "amd_epyc_onnxruntime.json"))
    assert "predictor.json" in caught.value.problem
    command = "python hardware/profile_latency.py --target_hardware cpu --threads 1 --space wide_tiny"
    assert command in caught.value.problem


def test_a_size_that_the_strides_do_not_divide():
    with pytest.raises(InputError) as caught:
        job_of(mixed_resolutions="8,10")
    assert caught.value.place == "--resolutions"
