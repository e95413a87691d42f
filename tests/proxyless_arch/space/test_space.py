"""The search space: its size, its paths and what they become."""

import math
import random

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import SearchSpace, make_divisible


def random_path(space, seed):
    chooser = random.Random(seed)
    return tuple(chooser.randrange(len(ops)) for ops in space.choices)


def test_size_is_the_papers():
    space = SearchSpace()
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
    space = SearchSpace(width_mult=width_mult, num_classes=10)
    for seed in range(50):
        path = random_path(space, seed)
        assert space.path_of(space.spec_for(path)) == path


def test_released_mobile_is_in_the_space():
    """It differs only in the width of its stage 1, 32 for 24; every other operation is a choice of the space."""
    space, spec = SearchSpace(), catalog.load("proxyless_mobile")
    for block, ops in list(zip(spec.blocks[1:], space.choices, strict=True))[5:]:
        assert block.op in ops


def test_bad_paths():
    space = SearchSpace()
    with pytest.raises(InputError, match=r"^path: expected 21 choices, got 2$"):
        space.spec_for((0, 0))
    with pytest.raises(InputError, match=r"^path\[0\]: expected 0\.\.5, got 6$"):
        space.spec_for((6,) + (0,) * 20)
    with pytest.raises(InputError, match=r"^blocks\[1\]: this operation .or its skip. is not a choice"):
        space.path_of(catalog.load("proxyless_mobile"))


def test_tensor_map_names_every_tensor_once():
    space = SearchSpace()
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
    space = SearchSpace()
    path = tuple(len(ops) - 1 for ops in space.choices)
    spec = space.spec_for(path)
    assert len(spec.blocks) == 22
    assert sum(isinstance(block.op, Zero) for block in spec.blocks) == 15
    assert math.prod(expected_tensors(spec)["classifier.linear.weight"]) == 1280 * 1000
