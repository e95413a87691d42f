"""The search space: its size, its paths and what they become."""

import json
import math
import random
from dataclasses import replace

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import MBConv, Zero, make_divisible
from proxyless_arch.arch.spec import BatchNorm, Block, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import TINY, mbconv_space
from proxyless_arch.space.named import SPACES
from proxyless_arch.space.search_space import SearchSpace, read_space, write_space
from proxyless_arch.space.shrinking import Freedom, space_around
from tests.errors import refused


def random_path(space, seed):
    chooser = random.Random(seed)
    return tuple(chooser.randrange(len(ops)) for ops in space.choices)


def test_size_is_the_papers():
    space = mbconv_space()
    assert space.size == 6**6 * 7**15 == 221502229807900608
    assert [len(ops) for ops in space.choices] == [6, 7, 7, 7] * 5 + [6]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((width, width) for width in (8, 16, 24, 32, 40, 80, 96, 192, 320, 1280)),  # multiples stay
        (16 * 1.4, 24),  # 22.4 and 44.8 lie nearest to 24 and 48
        (32 * 1.4, 48),
        (24 * 1.4, 32),  # 33.6: 32 is the nearest, and less than 10 % below
        (1, 8),
        (0.5, 8),
        (11, 16),  # 8 is more than 10 % below 11
        (12, 16),
        (33, 32),
    ],
)
def test_make_divisible(value, expected):
    assert make_divisible(value) == expected


def test_make_divisible_rules():
    chooser = random.Random(1)
    for _ in range(2000):
        value = chooser.uniform(1, 3000)
        rounded = make_divisible(value)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * value
        assert rounded <= max(8, value + 8)


@pytest.mark.parametrize("width_mult", [1.0, 0.35, 1.4])
def test_path_of_inverts_spec_for(width_mult):
    space = mbconv_space(width_mult=width_mult, num_classes=10)
    for seed in range(50):
        path = random_path(space, seed)
        assert space.path_of(space.spec_for(path)) == path


def test_released_mobile_is_in_the_space():
    """It differs only in the width of its stage 1, 32 for 24; every other operation is a choice of the space."""
    space, spec = mbconv_space(), catalog.load("proxyless_mobile")
    for block, ops in list(zip(spec.blocks[1:], space.choices, strict=True))[5:]:
        assert block.op in ops


def test_bad_paths():
    space = mbconv_space()
    with pytest.raises(InputError, match=r"^path: expected 21 choices, got 2$"):
        space.spec_for((0, 0))
    with pytest.raises(InputError, match=r"^path\[0\]: expected 0\.\.5, got 6$"):
        space.spec_for((6,) + (0,) * 20)
    with refused("blocks[1]", "choice"):
        space.path_of(catalog.load("proxyless_mobile"))


def test_tensor_map_names_every_tensor_once():
    space = mbconv_space()
    for seed in range(20):
        path = random_path(space, seed)
        spec, mapping = space.spec_for(path), space.tensor_map(path)
        expected = expected_tensors(spec)
        assert list(mapping) == list(expected)
        assert len(set(mapping.values())) == len(mapping)
        supernet = dict(expected)
        for index, ops in enumerate(space.choices):
            for choice, op in enumerate(ops):
                supernet |= dict(op.tensors(f"blocks.{index + 1}.choices.{choice}"))
        assert all(supernet[inherited] == expected[name] for name, inherited in mapping.items())


def test_vanished_blocks_stay_in_place():
    space = mbconv_space()
    path = tuple(len(ops) - 1 for ops in space.choices)
    spec = space.spec_for(path)
    assert len(spec.blocks) == 22
    assert sum(isinstance(block.op, Zero) for block in spec.blocks) == 15
    assert math.prod(expected_tensors(spec)["classifier.linear.weight"]) == 1280 * 1000


def everything():
    """A space that uses every key of its JSON form, with a fixed block in its middle."""
    space = mbconv_space(
        TINY,
        0.5,
        num_classes=3,
        preprocessing=Preprocessing(resolution=11, resize=13, interpolation="bicubic", std=(0.5, 0.25, 1.0)),
        bn=BatchNorm(eps=1e-5, momentum=0.01),
        dropout_rate=0.25,
        class_names=("cat", "dog", "bière"),
    )
    fixed = MBConv(in_channels=16, out_channels=16, kernel_size=3, expand_ratio=6, mid_channels=40)
    return replace(space, padding="same", blocks=(*space.blocks[:5], Block(op=fixed, skip=True), *space.blocks[5:]))


@pytest.mark.parametrize("space", [mbconv_space(), everything()], ids=["imagenet", "everything"])
def test_json_gives_the_space_back(space, tmp_path):
    write_space(tmp_path / "space.json", space)
    assert read_space(tmp_path / "space.json") == space
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


CHOICES = {"choices": [{"op": "zero", "channels": 16}, {"op": "zero", "channels": 8}], "skip": True}


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("version", 2, "version"),
        ("name", 5, "name"),
        ("name", "", "name"),
        ("name", None, "name"),
        ("name", "\ud800", "name"),
        ("width_mult", 0, "width_mult"),
        ("num_classes", 2, "class_names"),
        ("num_classes", 0, "num_classes"),
        ("extra", 1, "extra"),
        ("bn", {"eps": "x", "momentum": 0.1}, "bn.eps"),
        ("stem", {"in_channels": 3, "out_channels": 16, "kernel_size": 4, "stride": 1}, "stem.kernel_size"),
        ("blocks", [{"op": "zero", "channels": 16}], "blocks"),
        ("blocks", [{**CHOICES, "choices": []}], "blocks[0].ops"),
        ("blocks", [CHOICES], "blocks[0].ops[1]"),
        ("blocks", [{**CHOICES, "skip": False}], "blocks[0].ops[0]"),
        ("blocks", [{**CHOICES, "choices": [{"op": "conv"}]}], "blocks[0].choices[0].op"),
        ("blocks", [{**CHOICES, "choices": CHOICES["choices"][1:]}], "blocks[0].in_channels"),
    ],
)
def test_a_damaged_file_is_refused_by_place(key, value, place):
    with pytest.raises(InputError) as caught:
        SearchSpace.from_json(everything().to_json() | {key: value}, "space.json")
    assert (caught.value.place, caught.value.source) == (place, "space.json")


@pytest.mark.parametrize("space", [mbconv_space(), everything()], ids=["imagenet", "everything"])
def test_a_network_is_the_fixed_layers_and_one_of_each_edge(space):
    for seed in range(10):
        path = random_path(space, seed)
        spec = space.spec_for(path)
        calls = list(space.fixed_calls)
        for place, choice, options in zip(space.walk_places, path, space.edge_calls, strict=True):
            calls.insert(place, options[choice])
        assert tuple(calls) == walk(spec)
        assert space.path_of(spec) == path
        assert [walk(spec)[place].name for place in space.walk_places] == list(space.layer_names)


def test_places_of_edges():
    space = everything()
    assert space.places == (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13)
    assert space.walk_places == tuple(place + 1 for place in space.places)
    moved = replace(space.spec_for(space.same_choice(0)), blocks=space.spec_for(space.same_choice(0)).blocks[:-1])
    with pytest.raises(InputError, match=r"^blocks: expected 14 blocks, got 13$"):
        space.path_of(moved)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_the_reduction_is_what_becomes_of_a_side(name):
    space = SPACES[name].build(num_classes=10)
    spec = space.spec_for((0,) * space.n_edges)
    large = replace(spec, preprocessing=replace(spec.preprocessing, resolution=4096, resize=4096))
    last = [call for call in walk(large) if call.name.startswith("blocks.")][-1]
    assert space.reduction == 4096 // last.out_hwc[0] == SPACES[name].build(num_classes=1000).reduction


def test_the_reduction_of_a_space_around_a_network_whose_head_pools_first_is_that_of_its_blocks():
    space = space_around(catalog.load("mobilenetv4_conv_small"), Freedom())
    assert space.reduction == 32
