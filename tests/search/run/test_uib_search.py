"""A search among MobileNetV4's blocks: the same search, behind another name of --space; and a run's own space."""

import json
import shutil

import pytest
import torch

from hardware.profile.device import ProfileSettings, conditions_of
from proxyless_arch.arch.uib import UIB
from proxyless_arch.arch.walk import total_macs
from proxyless_arch.base.files import write_json
from proxyless_arch.space.named import SPACES, TIMED, space_named
from proxyless_arch.space.search_space import read_space
from search import SearchConfig, run_search
from search.run import job as jobs
from tests.errors import refused

SETTINGS = {
    "space": "uib_tiny", "width_mult": 0.1, "resolution": 8, "valid_size": 1300, "train_batch_size": 64,
    "device": "cpu", "warmup_epochs": 1, "n_epochs": 1, "recalibration_images": 64, "recalibration": "plain",
    "torch_threads": 1, "target_hardware": "flops",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uib") / "run"
    run_search(SearchConfig.of(**SETTINGS), folder, say=None)
    return folder


def test_it_lands_on_a_network_of_its_space(folder):
    record, space = json.loads((folder / "result.json").read_text()), read_space(folder / "space.json")
    spec = space.spec_for(tuple(record["path"]))
    assert space.name == "uib_tiny" and any(isinstance(block.op, UIB) for block in spec.blocks[1:])
    assert 0.99 * record["target_macs"] <= total_macs(spec) == record["macs"] <= record["target_macs"]
    page = (folder / "report.html").read_text()
    assert "ExtraDW" in page or "IB4" in page


def test_a_resumed_run_has_the_space_of_its_folder(folder, tmp_path):
    """As it was written down, not as this version would make it of the settings."""
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    stored = json.loads((folder / "space.json").read_text())
    renamed = {**stored, "name": "uib of last year"}
    write_json(tmp_path / "run" / "space.json", renamed)
    run_search(SearchConfig.of(**SETTINGS), tmp_path / "run", resume=True, say=None)
    assert json.loads((tmp_path / "run" / "space.json").read_text()) == renamed
    assert (tmp_path / "run" / "spec.json").read_bytes() == (folder / "spec.json").read_bytes()


@pytest.mark.parametrize("name", SPACES)
def test_every_named_space_is_built_with_the_settings_of_all(name):
    space = space_named(name).build(width_mult=0.5, num_classes=3, class_names=("a", "b", "c"))
    assert (space.num_classes, space.class_names) == (3, ("a", "b", "c"))
    assert space.name.startswith(name.split("_")[0]) and space.size > 10**6


def test_what_no_device_can_measure_layer_by_layer_is_refused():
    assert "uib" in TIMED and conditions_of(ProfileSettings(space="uib_tiny"))["resolution"] == 32
    with refused("--space", "'tree'"):
        conditions_of(ProfileSettings(space="tree"))


def test_the_model_of_a_phone_that_knows_other_blocks_is_refused_before_anything_runs():
    config = SearchConfig.of(**{**SETTINGS, "target_hardware": "mobile"})
    with refused("--target_hardware", "mobile", "--latency_table", "cpu"):
        jobs.prepare(config, torch.device("cpu"))
