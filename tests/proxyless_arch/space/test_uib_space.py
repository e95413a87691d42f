"""Spaces of MobileNetV4's blocks."""

import pytest

from proxyless_arch.arch.uib import UIB, ConvReLU
from proxyless_arch.arch.walk import total_macs
from proxyless_arch.space.mbconv import IMAGENET, SMALL, TINY, mbconv_space
from proxyless_arch.space.search_space import SearchSpace
from proxyless_arch.space.uib import NAMES, uib_space


@pytest.mark.parametrize("macro", [IMAGENET, SMALL, TINY])
def test_every_kind_of_block_is_a_choice(macro):
    space, paper = uib_space(macro), mbconv_space(macro)
    assert NAMES[space.name] == macro
    assert isinstance(space.stem, ConvReLU) and isinstance(space.feature_mix, ConvReLU)
    assert [edge.out_channels for edge in space.edges] == [edge.out_channels for edge in paper.edges]
    for edge in space.edges:
        kinds = {(op.start_kernel_size, op.kernel_size) for op in edge.ops if isinstance(op, UIB)}
        both = {(0, 3), (0, 5), (3, 3), (5, 5), (3, 0), (5, 0)}
        assert kinds == both | ({(0, 0)} if edge.ops[0].stride == 1 else set())
        assert edge.ops[-1].vanishes == edge.skip
    assert SearchSpace.from_json(space.to_json()) == space


def test_the_cost_is_the_sum_of_the_blocks():
    space = uib_space(TINY, 0.5, num_classes=10)
    whole, path = space.same_choice(2), list(space.same_choice(2))
    path[3] = 4
    saved = space.edge_calls[3][2].macs - space.edge_calls[3][4].macs
    assert total_macs(space.spec_for(whole)) - total_macs(space.spec_for(tuple(path))) == saved > 0
