"""A search among tree-structured cells: it lands, both algorithms move alpha, and a resumed run is the same run."""

import json

import pytest
import torch

from hardware.cost import MACS, PARAMS, price_space
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import read_space
from proxyless_arch.space.tree import tree_space
from search import SearchConfig, run_search
from search.config import from_recipe
from search.run.loop import Search, schedule_of
from tests.search.run.test_loop import N_TRAIN, RECIPE, config, go_on
from tests.search.tiny import assert_same_bits, snapshot

SETTINGS = {
    "space": "tree", "blocks_per_stage": 1, "final_width": 32, "width_mult": 1, "resolution": 8, "valid_size": 1300,
    "train_batch_size": 64, "device": "cpu", "warmup_epochs": 0, "n_epochs": 1, "recalibration_images": 64,
    "recalibration": "plain", "torch_threads": 1, "grad_binary_mode": "two",
}  # fmt: skip
SPACE = tree_space(1, 32, num_classes=10, preprocessing=RECIPE, dropout_rate=0.2)


@pytest.mark.parametrize("algorithm", ["grad", pytest.param("rl", marks=pytest.mark.slow)])
def test_a_search_lands(tmp_path, algorithm):
    limits = price_space(SPACE, PARAMS)
    most = int(limits.uniform_expected)
    result = run_search(
        SearchConfig.of(**SETTINGS, arch_algo=algorithm, rl_batch_size=2, target_hardware="flops", max_params=most),
        tmp_path / "run",
        say=None,
    )
    asked = result.costs.asked
    assert 0.99 * asked <= total_macs(result.spec) <= asked and total_params(result.spec) <= most
    assert result.spec == read_spec(tmp_path / "run" / "spec.json")
    space = read_space(tmp_path / "run" / "space.json")
    assert space.path_of(result.spec) == result.choices
    assert price_space(space, MACS).of_path(result.choices) == total_macs(result.spec)
    page = (tmp_path / "run" / "report.html").read_text()
    assert result.spec.blocks[0].op.label in page and page.count("<svg") > space.n_edges
    assert "Block 2, edge 12" in page and "grouped convolution" in page
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["params"] == total_params(result.spec)


@pytest.mark.parametrize("arch", [{}, pytest.param({"arch_algo": "rl", "rl_batch_size": 2}, marks=pytest.mark.slow)])
def test_a_resumed_search_is_the_same_search(arch):
    def new():
        settings = config(grad_binary_mode="two", **arch)
        table = price_space(SPACE, MACS)
        goal = 0.8 * table.uniform_expected
        return Search(settings, SPACE, table, goal, schedule_of(settings, N_TRAIN), torch.device("cpu"))

    whole, first, again = new(), new(), new()
    start = [alpha.clone() for alpha in whole.alphas]
    go_on(whole, [])
    go_on(first, [], stop_at=9)
    again.restore(first.checkpoint({}, {}, 0, 0.0))
    go_on(again, [])
    assert_same_bits(snapshot(again.supernet), snapshot(whole.supernet))
    for ours, theirs, before in zip(again.alphas, whole.alphas, start, strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(theirs, before)


@pytest.mark.parametrize("given, place", [
    ({"final_width": 24}, "--final_width"),
    ({"width_mult": 0.1}, "--final_width"),
    ({"space": "tiny"}, "--blocks_per_stage"),
    ({"target_hardware": "mobile"}, "--target_hardware"),
    ({"target_hardware": "cpu"}, "--target_hardware"),
])  # fmt: skip
def test_what_the_space_does_not_take(tmp_path, given, place):
    with pytest.raises(InputError) as caught:
        run_search(SearchConfig.of(**SETTINGS | {"target_hardware": "none"} | given), tmp_path / "run", say=None)
    assert caught.value.place == place


def test_the_recipe_of_the_paper_has_the_space_of_the_released_network():
    space = from_recipe("cifar").space
    assert (space.space, space.blocks_per_stage, space.final_width, space.width_mult) == ("tree", None, None, 1.0)
    assert from_recipe("cifar").target.target_hardware == from_recipe("cifar_small").target.target_hardware == "none"
