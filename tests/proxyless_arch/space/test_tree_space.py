import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hardware.cost import MACS, PARAMS, latency_price, price_space
from hardware.profile.profiling import unique_ops
from hardware.projection import Limit, project, window
from hardware.table import LookupTable, Timing, layer_key
from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import Block
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.tree import TreeBlock
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import format_count
from proxyless_arch.space.search_space import SearchSpace
from proxyless_arch.space.tree import cell_widths, tree_space
from tests.trees import released_cell

CIFAR = catalog.load("proxyless_cifar")
SMALL = tree_space(1, 64)
EDGES_OF_A_CELL = 12


def random_paths(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.integers(len(ops))) for ops in space.choices) for _ in range(count)]


def test_the_released_network_is_in_the_space_of_18_blocks_and_400_channels():
    space = tree_space()
    path = space.path_of(replace(CIFAR, stem=space.stem))
    assert space.spec_for(path).blocks == CIFAR.blocks
    assert (space.stem, space.feature_mix) == (CIFAR.stem, CIFAR.feature_mix)
    assert len(path) == 54 * EDGES_OF_A_CELL and set(path) == set(range(7))
    assert price_space(space, PARAMS).of_path(path) == 5_731_530
    assert price_space(space, MACS).of_path(path) == 1_213_155_872
    assert space.size == 7**648 and format_count(space.size) == "4.2e547"


def test_widths_of_the_pyramid():
    assert cell_widths(18, 400) == tuple(block.op.cell.in_channels for block in CIFAR.blocks)
    assert cell_widths(1, 64) == (16, 16, 16) and cell_widths(2, 128)[-1] == 32
    assert [block.template.stride for block in tree_space(2, 64).blocks] == [1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("blocks, width, mult, place", [
    (0, 64, 1.0, "blocks_per_stage"), (2.0, 64, 1.0, "blocks_per_stage"), (1, 24, 1.0, "final_width"),
    (1, 8192, 1.0, "final_width"), (1, 64, 0.01, "width_mult"), (1, 64, 0.1, "final_width"),
])  # fmt: skip
def test_no_such_space(blocks, width, mult, place):
    with pytest.raises(InputError) as caught:
        tree_space(blocks, width, mult)
    assert caught.value.place == place


def test_costs_add_up():
    macs, params = price_space(SMALL, MACS), price_space(SMALL, PARAMS)
    for path in random_paths(SMALL, 20):
        spec = SMALL.spec_for(path)
        assert macs.of_path(path) == total_macs(spec)
        assert params.of_path(path) == total_params(spec)
        assert SMALL.path_of(spec) == path


def test_latency_adds_up_over_the_parts():
    entries = {key: Timing(1 + index / 7) for index, key in enumerate(unique_ops(SMALL))}
    assert {key.op for key in entries} == {
        "conv_bn",
        "preconv",
        "separable",
        "max_pool",
        "avg_pool",
        "bn_relu",
        "linear",
    }
    made = LookupTable(source="made", entries=entries)
    table = price_space(SMALL, latency_price(made))
    for path in random_paths(SMALL, 5):
        calls = walk(SMALL.spec_for(path))
        priced = [made.price_ms(part) for call in calls for part in call.parts if layer_key(part) is not None]
        assert table.of_path(path) == pytest.approx(math.fsum(priced), rel=1e-12)
        assert sum(map(made.price_ms, calls)) == pytest.approx(math.fsum(priced), rel=1e-12)


def test_projection_lands():
    rng = np.random.default_rng(0)
    odds = [np.log(rng.dirichlet(np.ones(len(ops)))) for ops in SMALL.choices]
    macs, params = price_space(SMALL, MACS), price_space(SMALL, PARAMS)
    goal = 0.9 * macs.uniform_expected
    path = project(odds, [window(macs, goal), Limit(params, 24_000, flag="--max_params")]).path
    assert 0.99 * goal <= total_macs(SMALL.spec_for(path)) <= goal
    assert total_params(SMALL.spec_for(path)) <= 24_000


def test_json():
    data = json.loads(json.dumps(SMALL.to_json()))
    assert SearchSpace.from_json(data) == SMALL


@pytest.mark.parametrize("change, place", [
    (lambda block: block["open"].__setitem__(0, "cell.edges.9"), "blocks[1].open[0]"),
    (lambda block: block["open"].__setitem__(1, block["open"][0]), "blocks[1].open[0]"),
    (lambda block: block["open"].reverse(), "blocks[1].open"),
    (lambda block: block["choices"][2].update(out_channels=18), "blocks[1].choices[2]"),
    (lambda block: block["choices"][1].update(op="zero"), "blocks[1].choices[1].op"),
    (lambda block: block["tree"].update(in_channels=0), "blocks[1].tree.in_channels"),
    (lambda block: block["tree"]["cell"].update(allocation="all"), "blocks[1].tree.cell.allocation"),
    (lambda block: block["tree"].pop("cell"), "blocks[1].tree.cell"),
    (lambda block: block.update(skip=True), "blocks[1].skip"),
])  # fmt: skip
def test_bad_spaces(change, place):
    data = json.loads(json.dumps(SMALL.to_json()))
    change(data["blocks"][1])
    with pytest.raises(InputError) as caught:
        SearchSpace.from_json(data)
    assert caught.value.place == place


def test_a_network_of_another_space():
    spec = SMALL.spec_for(SMALL.same_choice(1))
    other = Block(op=TreeBlock(in_channels=16, out_channels=64, cell=released_cell(8)), skip=False)
    with pytest.raises(InputError) as caught:
        SMALL.path_of(replace(spec, blocks=(other, *spec.blocks[1:])))
    assert caught.value.place == "blocks[0]"


def test_what_a_network_inherits():
    path = random_paths(SMALL, 1)[0]
    mapping = SMALL.tensor_map(path)
    assert list(mapping) == list(expected_tensors(SMALL.spec_for(path)))
    assert len(set(mapping.values())) == len(mapping)
    moved = {own for own, source in mapping.items() if own != source}
    assert moved and all(".child_nodes." in own and ".choices." in mapping[own] for own in moved)
