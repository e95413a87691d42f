"""A search around a trained network: its product, being killed, and what it refuses."""

import json
import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from hardware.profile import device as profiler
from hardware.profile import pricing
from hardware.profile.device import ProfileSettings, conditions_of
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import read_tensors, save_safetensors
from proxyless_nas.steps import distillation_loss
from search import SearchConfig, imagenet_arch_search
from search.config import to_dict
from search.reporting.summary import summary
from search.run import device, loop
from search.run.job import new_search, prepare
from tests.compress.nets import tensors, trained
from tests.compress.specs import SPEC, block
from tests.hardware.fake_device import FakeDevice
from tests.search.run.test_scoring import found_in
from tests.search.tiny import assert_same_bits, snapshot

WIDE = (
    SPEC.blocks[0], block(4, 6, 5, 6, stride=2), block(6, 6, 7, 6, skip=True), block(6, 6, 5, 6, skip=True),
    block(6, 10, 5, 6),
)  # fmt: skip
DIGITS = replace(SPEC, name="base", blocks=WIDE, classifier=replace(SPEC.classifier, out_features=10))
FEW = "--dataset digits --valid_size 1200 --target_hardware flops --window 0.9 --device cpu --threads 1 --batch_size 32"
FEW += " --warmup_epochs 2 --score_images 60 --recalibration_images 64 --score_networks 16 --rescore 3"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "base.safetensors"
    save_safetensors(path, DIGITS, tensors(trained(DIGITS)), {})
    return str(path)


@pytest.fixture(scope="module")
def words(network):
    return ["--from", network, *shlex.split(FEW)]


@pytest.fixture(scope="module")
def straight(words, tmp_path_factory):
    """The folder of an uninterrupted search."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert imagenet_arch_search.main(["--run_dir", str(folder), *words]) == 0
    return folder


def job_of(network, **settings):
    few = {"dataset": "digits", "valid_size": 1200, "target_hardware": "flops", "window": 0.9, "batch_size": 32}
    config = SearchConfig.of(**({"parent": network, **few, "score_networks": 16} | settings))
    return prepare(config, torch.device("cpu"), lambda line: None)


def test_the_product_is_a_smaller_network_with_its_weights(straight):
    record, spec = json.loads((straight / "result.json").read_text()), read_spec(straight / "spec.json")
    target = record["target_macs"]
    assert 0.9 * target <= record["macs"] == total_macs(spec) <= target < total_macs(DIGITS)
    assert spec.preprocessing == replace(DIGITS.preprocessing, exif=spec.preprocessing.exif)
    found = read_tensors(straight / "weights.safetensors").tensors
    assert found["first_conv.conv.weight"].shape == (8, 3, 3, 3)
    settings = json.loads((straight / "config.json").read_text())
    assert (settings["arch_algo"], settings["recipe"]) == ("predictor", "finetune")
    assert record["whole_macs"] == total_macs(DIGITS) and 0 <= record["whole_test_top1_percent"] <= 100
    assert "\n  whole  " in summary(straight)
    page = (straight / "report.html").read_text()
    assert "MB6 5×5 16" in page  # the choices of a block by their widths


@pytest.mark.slow
def test_a_kill_and_a_resume_end_as_an_uninterrupted_search(words, straight, tmp_path, monkeypatch):
    """Killed in the second epoch; then the network it started from is gone, which a resume does not need."""
    folder, step = tmp_path / "run", loop.Search.weight_step

    def dies(search, *batch):
        if search.step == 10:
            raise KeyboardInterrupt
        step(search, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Search, "weight_step", dies)
        assert imagenet_arch_search.main(["--run_dir", str(folder), *words]) == 130
    monkeypatch.setattr("search.run.parent.start_of", None)
    assert imagenet_arch_search.main(["--run_dir", str(folder), "--resume"]) == 0
    assert found_in(folder) == found_in(straight)
    one, two = (read_tensors(each / "weights.safetensors").tensors for each in (folder, straight))
    assert all(np.array_equal(one[name], tensor) for name, tensor in two.items())


def test_a_step_is_the_sandwich_rule(network):
    """The gradient of the sum of the losses, written out: the largest on labels, the others on what it says."""
    search = new_search(job_of(network, momentum=0.0, nesterov=False, weight_decay=0.0, grad_clip=None))
    again = new_search(job_of(network))
    assert_same_bits(snapshot(search.supernet), snapshot(again.supernet))
    x, labels = torch.randn(8, 3, 12, 12), torch.arange(8)
    largest, smallest, *others = paths = search.trained_paths()
    assert (largest, smallest, len(others)) == (search.space.largest_path, search.space.smallest_path, 2)
    net = again.supernet.train()
    logits = net(x, largest)
    total = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=search.config.weights.label_smoothing)
    for path in paths[1:]:
        total = total + distillation_loss(net(x, path), logits.detach())
    total.backward()
    rate = search.learning_rate()
    search.weight_step(x, labels)
    for (name, ours), theirs in zip(search.supernet.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - rate * theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert search.sums.train_images == 8


@pytest.mark.parametrize("algorithm", ["grad", "rl"])
def test_alpha_learns_beside_the_weights(network, algorithm):
    given = {"arch_algo": algorithm, "n_epochs": 1, "rl_freeze": 0.0, "rl_batch_size": 2, "kernel_transform": True}
    search = new_search(job_of(network, **given))
    before = [alpha.detach().clone() for alpha in search.alphas]
    weights = snapshot(search.supernet)
    search.arch_step(torch.randn(8, 3, 12, 12), torch.arange(8))
    assert_same_bits(weights, snapshot(search.supernet))
    assert all(not torch.equal(old, alpha) for old, alpha in zip(before, search.alphas, strict=True))


def test_the_images_and_their_split_are_those_of_the_run(straight, network):
    """A search takes those of the run that it is around; its config says them all."""
    settings = to_dict(SearchConfig.of(parent=straight))
    before = json.loads((straight / "config.json").read_text())
    assert (settings["dataset"], settings["valid_size"], settings["split_seed"]) == ("digits", 1200, 0)
    assert before["split_seed"] is None and before["manual_seed"] == 0
    assert SearchConfig.of(parent=network, dataset="digits").data.valid_size == SearchConfig().data.valid_size
    with pytest.raises(InputError) as caught:
        SearchConfig.of(parent=straight, valid_size=100)
    assert caught.value.place == "--valid_size"


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"space": "tiny"}, "--space"),
        ({"width_mult": 0.5}, "--width_mult"),
        ({"paths_per_step": 2}, "--paths_per_step"),
        ({"target_macs": 1e9}, "--target_macs"),
        ({"target_macs": 10}, "--target_macs"),
    ],
)
def test_settings_that_have_no_meaning_are_refused(network, given, place):
    with pytest.raises(InputError) as caught:
        job_of(network, **given)
    assert caught.value.place == place


def test_networks_that_cannot_be_started_from_are_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    save_safetensors(other, SPEC, tensors(trained(SPEC)), {})  # of 4 classes
    for name in (str(other), "mobilenetv4_conv_small", "proxyless_cpo", str(tmp_path / "nothing")):
        with pytest.raises(InputError) as caught:
            job_of(name)
        assert "--from" in str(caught.value) or "--arch" in str(caught.value)


def test_this_machine_prices_widths_by_the_model_of_their_network(network):
    """No table holds them: the model that the profile of the network fits, and its networks to be timed beside."""
    space = job_of(network).space
    target = SearchConfig.of(target_hardware="cpu").target
    settings = device.profile_settings(target, space, network)
    assert (settings.parent, settings.resolution) == (network, 12)
    assert device.own_file(space) == "predictor.json"
    timed = device.timed_space(target, space, network)
    assert timed.name == conditions_of(settings)["space"]
    assert timed.preprocessing.side == 12


def test_this_machine_is_measured_for_the_networks_around_one(network, tmp_path, monkeypatch):
    """Once, for all that may be made of it; networks are timed at the speed that the machine had then."""
    here = FakeDevice(overhead_ms=0)
    for module in (pricing, profiler):
        monkeypatch.setattr(module, "runtime_named", lambda *wanted: here)
    monkeypatch.setattr(profiler, "ROOT", tmp_path)
    few = {"quick": True, "rounds": 1, "design_nets": 20, "validation_nets": 40}
    monkeypatch.setattr(device, "ProfileSettings", partial(ProfileSettings, **few))
    given = {"target_hardware": "cpu", "window": 0.5}
    job = job_of(network, **given)
    n_timed = here.n_timings
    spec = job.space.spec_for(job.table.min_path)
    assert job.table.minimum == pytest.approx(here.true_ms(walk(spec)), rel=0.1)
    timed = device.timed_space(job.config.target, job.space, network)
    assert job.prices.device.bench(timed, job.prices.source).reference_ms is not None
    assert job_of(network, **given).table.source == job.table.source
    assert here.n_timings - n_timed < 200
