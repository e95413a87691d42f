"""The elastic supernet is its networks: each as if cut out and run by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.tensors import nested_place
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import Macro, Stage
from proxyless_arch.space.search_space import SearchSpace
from proxyless_arch.space.shrinking import Freedom, space_around
from proxyless_arch.space.wide import wide_space
from proxyless_arch.weights.slicing import by_importance
from proxyless_nas.network import build
from search.algorithm.elastic import ElasticNet
from search.algorithm.gates import fixed_gates
from tests.compress.nets import images, tensors, trained
from tests.compress.specs import SPEC
from tests.search.tiny import assert_same_bits, snapshot
from tests.uib import SPEC as UIB

FREEDOM = Freedom(multiple=4, most=3)
SPACE = space_around(SPEC, FREEDOM)
X = images(6).double()
STAGES = (Stage(16, 2, 1), Stage(32, 2, 2))


def paths(space, count=6):
    rng = np.random.default_rng(0)
    drawn = [tuple(int(rng.integers(size)) for size in space.sizes) for _ in range(count)]
    return [space.largest_path, space.smallest_path, *drawn]


def elastic(space=SPACE, spec=SPEC):
    return ElasticNet(space, tensors=by_importance(tensors(trained(spec)), spec)).double()


def cut_out(supernet, path):
    """The network of ``path`` on its own, in double precision."""
    net = build(supernet.space.spec_for(path)).double()
    own = {name: torch.from_numpy(array) for name, array in supernet.inherited(path).items()}
    net.load_state_dict(own, strict=False)
    return net


def wide():
    """A supernet of a space whose widths are chosen."""
    macro = Macro(name="few", stem_width=8, stem_stride=2, first_width=8, stages=STAGES, mix_width=16)
    how = {"num_classes": 4, "preprocessing": Preprocessing(resolution=12, resize=12)}
    return ElasticNet(wide_space(macro, multipliers=(0.5, 1, 1.5), **how), torch.Generator().manual_seed(0)).double()


SUPERNETS = {"mbconv": elastic, "uib": lambda: elastic(space_around(UIB, FREEDOM), UIB), "widths": wide}


@pytest.mark.parametrize("make", SUPERNETS.values(), ids=SUPERNETS)
@pytest.mark.parametrize("is_training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_path_is_the_network_that_is_cut_out(make, is_training):
    supernet = make().train(is_training)
    space = supernet.space
    x = images(4, side=space.preprocessing.resolution).double()
    for path in paths(space):
        alone = cut_out(supernet, path).train(is_training)
        ours, theirs = supernet(x, path), alone(x)
        assert torch.equal(ours, theirs)
        supernet.zero_grad()
        ours.square().sum().backward()
        theirs.square().sum().backward()
        whole = dict(supernet.named_parameters())
        for name, parameter in alone.named_parameters():
            place = nested_place(whole[name].shape, parameter.shape)
            assert torch.equal(whole[name].grad[place], parameter.grad), name
            rest = whole[name].grad.clone()
            rest[place] = 0
            assert not rest.any(), name


@pytest.mark.parametrize("make", [elastic, wide])
def test_smaller_kernels_by_matrices_begin_as_the_middle_and_are_those_of_the_network_cut_out(make):
    plain = make().train()
    space, x = plain.space, images(4, side=plain.space.preprocessing.resolution).double()
    supernet = ElasticNet(space, torch.Generator().manual_seed(0), kernel_transform=True).double().train()
    matrices = {name: each for name, each in supernet.named_parameters() if ".to_" in name}
    kernels = {name: each.shape[-1] for name, each in supernet.named_parameters() if "depth_conv.conv.weight" in name}
    chains = [f"{name.removesuffix('weight')}to_{size}" for name, k in kernels.items() for size in range(k - 2, 2, -2)]
    assert {*matrices} <= {*chains} and matrices
    supernet.load_state_dict(plain.state_dict(), strict=False)
    for path in paths(space):
        assert torch.equal(supernet(x, path), plain(x, path))
    rng = torch.Generator().manual_seed(1)
    taken = []
    for each in matrices.values():
        each.data += 0.3 * torch.randn(each.shape, generator=rng)
    for path in paths(space):
        ours = supernet(x, path)
        assert torch.equal(ours, cut_out(supernet, path).train()(x))
        on = {id(each) for each in supernet.parameters_on([path])}
        used = {name for name, each in matrices.items() if id(each) in on}
        assert torch.equal(ours, plain(x, path)) == (not used)
        supernet.zero_grad()
        ours.square().sum().backward()
        assert used == {name for name, each in matrices.items() if each.grad is not None}
        taken.append(bool(used))
    assert not taken[0] and any(taken)


def test_the_largest_network_is_the_trained_one():
    """Sorted by importance, it computes what it did; each hidden layer begins with the channels used most."""
    net = trained()
    assert replace(SPACE.spec_for(SPACE.largest_path), name=SPEC.name) == SPEC
    torch.testing.assert_close(elastic().eval()(X, SPACE.largest_path), net.double()(X), rtol=1e-5, atol=1e-5)
    sorted_ones = by_importance(tensors(net), SPEC)
    used = np.abs(sorted_ones["blocks.2.mobile_inverted_conv.point_linear.conv.weight"]).sum((0, 2, 3))
    assert (np.diff(used) <= 0).all() and (np.diff(used) < 0).any()


def test_with_gates_no_statistic_moves_and_without_them_those_of_the_path_do():
    supernet = elastic().train()
    before, path = snapshot(supernet), SPACE.smallest_path
    supernet(X, path, fixed_gates(path, "cpu"))
    assert_same_bits(before, snapshot(supernet))
    supernet(X, path)
    mean = "blocks.1.mobile_inverted_conv.depth_conv.bn.running_mean"
    width = SPACE.choices[0][path[0]].hidden_channels
    moved = supernet.state_dict()[mean] != before[mean]
    assert moved[:width].all() and not moved[width:].any()


def test_a_space_around_a_network():
    """Every choice is one of its block made smaller; what may be left out has Zero; a block as it must be is fixed."""
    assert SPACE.places == (1, 2, 3, 4) and SPACE.shares_weights
    assert [ops[-1].vanishes for ops in SPACE.choices] == [False, True, True, False]
    assert SPACE.choice_labels[3] == (
        "MB3 3x3 4", "MB3 5x5 4", "MB3 3x3 16", "MB3 5x5 16", "MB3 3x3 18", "MB3 5x5 18",
    )  # fmt: skip
    assert SPACE.smallest_path == (0, 9, 1, 0)
    again = SearchSpace.from_json(SPACE.to_json())
    assert again == SPACE and "weights" in SPACE.to_json()
    assert "weights" not in replace(SPACE, weights="own").to_json()


def test_what_does_not_lie_within_the_largest_cannot_share():
    edges = SPACE.to_json()
    wide = edges["blocks"][1]["choices"]
    wide[0] = {**wide[-1], "kernel_size": 3, "mid_channels": 16}  # wider than the widest, which has the larger kernel
    with pytest.raises(InputError) as caught:
        SearchSpace.from_json(edges)
    assert caught.value.place == "blocks[1].choices[0]"


def test_nothing_to_make_smaller():
    fixed = replace(SPEC, blocks=SPEC.blocks[:1], feature_mix=replace(SPEC.feature_mix, in_channels=4))
    with pytest.raises(InputError, match="smaller"):
        space_around(fixed, FREEDOM)


def test_blocks_with_a_skip_begin_as_the_identity_where_that_is_asked_for():
    rng = torch.Generator().manual_seed(0)
    zeros = [
        sum(not scale.any() for name, scale in net.named_parameters() if name.endswith("bn.weight"))
        for net in (ElasticNet(wide().space, rng, zero_gamma=each) for each in (True, False))
    ]
    skips = sum(block.skip for block in wide().space.spec_for(wide().space.largest_path).blocks)
    assert zeros == [skips, 0]
