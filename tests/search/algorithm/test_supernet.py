"""The supernet holds every network of its space, and a path through it is that network."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_params
from proxyless_nas.steps import smoothed_loss
from proxyless_nas.weights import to_named
from search.algorithm.controllers import step_rng
from search.algorithm.derive import choose_path, inherit
from search.algorithm.gates import sample
from search.algorithm.supernet import Supernet, pure_call
from tests.search.tiny import (
    all_paths,
    assert_same_bits,
    random_alphas,
    random_table,
    sizes_of,
    snapshot,
    tiny_batch,
    tiny_space,
    tiny_supernet,
)

SPACE = tiny_space()
ALL_ZERO = (1, 4, 4, 0)


def some_paths(n=3):
    rng = np.random.default_rng(0)
    paths = all_paths(SPACE)
    chosen = [paths[index] for index in rng.choice(len(paths), n, replace=False)]
    return [ALL_ZERO, (0, 4, 1, 3), (3, 2, 4, 1), *chosen]


@pytest.mark.parametrize("training", [False, True], ids=["running_statistics", "batch_statistics"])
@pytest.mark.parametrize("resolution", [8, 13])
def test_a_path_is_the_derived_network(training, resolution):
    supernet = tiny_supernet(dtype=torch.float32)
    images, _ = tiny_batch(dtype=torch.float32, resolution=resolution)
    logits = {}
    for path in some_paths():
        net = inherit(supernet, SPACE, path).train(training)
        inside = copy.deepcopy(supernet).train(training)
        with torch.no_grad():
            got, expected = inside(images, path), net(images)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
        logits[path] = got
        if training:  # both moved their statistics, and to the same place
            moved = to_named(inside)
            for own, source in SPACE.tensor_map(path).items():
                np.testing.assert_allclose(to_named(net)[own], moved[source], rtol=0, atol=1e-6, err_msg=own)
    different = [float((logits[path] - logits[ALL_ZERO]).abs().max()) for path in logits if path != ALL_ZERO]
    assert min(different) > 1e-3  # the paths are told apart


def test_gated_and_plain_forward_agree():
    images, _ = tiny_batch()
    for training in (False, True):
        for mode in ("full_v2", "full", "two"):
            supernet = tiny_supernet().train(training)
            path, gates = sample(random_alphas(sizes_of(SPACE)), step_rng(0, 1, 1), mode)
            gated = supernet(images, path, gates)
            torch.testing.assert_close(gated, supernet(images, path), rtol=1e-12, atol=1e-12)


def test_derived_spec_is_the_spaces_and_inherits_by_value():
    supernet = tiny_supernet(dtype=torch.float32)
    net = inherit(supernet, SPACE, ALL_ZERO, "mine")
    assert net.spec == SPACE.spec_for(ALL_ZERO, "mine")
    assert sum(p.numel() for p in net.parameters()) == total_params(net.spec)
    before = snapshot(supernet)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert_same_bits(before, snapshot(supernet))


def test_tensor_names_are_those_of_the_tensor_map():
    supernet = tiny_supernet(dtype=torch.float32)
    own = to_named(supernet)
    mapped = set()
    for path in all_paths(SPACE):
        shapes = expected_tensors(SPACE.spec_for(path))
        mapping = SPACE.tensor_map(path)
        assert set(mapping) == set(shapes)
        for name, source in mapping.items():
            assert own[source].shape == shapes[name]
        mapped.update(mapping.values())
    assert mapped == set(own)


def test_channels_last_from_the_weights_to_the_features():
    supernet = tiny_supernet(dtype=torch.float32).train()
    seen = []
    for layer in supernet.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    images, labels = tiny_batch(dtype=torch.float32)
    path, gates = sample(random_alphas(sizes_of(SPACE), dtype=torch.float32), step_rng(0, 1, 0))
    for given in (None, gates):
        F.cross_entropy(supernet(images, path, given), labels).backward()
    assert len(seen) > 20
    for before, after in seen:
        assert before.is_contiguous(memory_format=torch.channels_last)
        assert after.is_contiguous(memory_format=torch.channels_last)


def test_only_the_sampled_path_gets_a_gradient():
    supernet = tiny_supernet().train()
    before = snapshot(supernet)
    images, labels = tiny_batch()
    path = (2, 4, 1, 0)
    smoothed_loss(supernet(images, path), labels, 0.1).backward()
    used = {name for name in SPACE.tensor_map(path).values() if "running" not in name}
    got = {name for name, p in supernet.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    touched = {name for name, p in supernet.named_parameters() if p.grad is not None}
    assert got == touched == used
    statistics = {name.removesuffix("running_mean") for name in SPACE.tensor_map(path).values() if "_mean" in name}
    for name, tensor in snapshot(supernet).items():
        is_statistic = "running" in name or "tracked" in name
        moved = is_statistic and name.rsplit(".", 1)[0] + "." in statistics
        assert torch.equal(tensor, before[name]) != moved, name


def test_pure_call_gives_the_output_and_moves_nothing():
    supernet = tiny_supernet().train()
    op = supernet.blocks[2].choices[1]
    x = torch.randn(4, 8, 4, 4, dtype=torch.float64)
    before = snapshot(op)
    for training in (True, False):
        op.train(training)
        expected = copy.deepcopy(op)(x)
        assert torch.equal(pure_call(op, x), expected)
        assert_same_bits(before, snapshot(op))
    pure_call(op.train(), x).sum().backward()  # its weights stay in the graph
    assert all(parameter.grad is not None for parameter in op.parameters())


def test_zero_gamma_starts_every_path_as_its_shortest():
    """Blocks with a skip begin as the identity, so the choice in them cannot matter yet."""
    supernet = Supernet(SPACE, torch.Generator().manual_seed(0)).double().eval()
    images, _ = tiny_batch()
    with torch.no_grad():
        logits = [supernet(images, (1, second, third, 2)) for second in range(5) for third in range(5)]
        other = supernet(images, (0, 0, 0, 2))
    assert all(torch.equal(logits[0], each) for each in logits)
    assert not torch.allclose(logits[0], other)


def test_initial_weights_are_a_function_of_the_generator():
    one, same, other = (snapshot(Supernet(SPACE, torch.Generator().manual_seed(seed))) for seed in (4, 4, 5))
    assert_same_bits(one, same)
    assert not torch.equal(one["first_conv.conv.weight"], other["first_conv.conv.weight"])


def test_zero_layer_is_where_the_space_has_it():
    supernet = tiny_supernet()
    for block, ops in zip(supernet.blocks[1:], SPACE.choices, strict=True):
        assert block.zeros == frozenset(j for j, op in enumerate(ops) if isinstance(op, Zero))
        x = torch.randn(2, ops[0].in_channels, 4, 4, dtype=torch.float64)
        for j in block.zeros:
            assert not block.choices[j](x).any()
            assert torch.equal(block(x, (j,)), x)


def test_a_path_of_the_wrong_length_is_refused():
    supernet = tiny_supernet()
    images, _ = tiny_batch()
    with pytest.raises(ValueError, match="4 edges, got 3"):
        supernet(images, (0, 0, 0))


def test_choose_path():
    sizes = sizes_of(SPACE)
    alphas, table = random_alphas(sizes), random_table(sizes)
    path, projection = choose_path(alphas, None, None)
    assert path == tuple(int(alpha.argmax()) for alpha in alphas)
    assert projection is None
    goal = 0.8 * table.maximum
    path, projection = choose_path(alphas, table, goal)
    assert projection.path == path
    assert 0.99 * goal <= table.of_path(path) <= goal
    scores = {
        each: sum(torch.log_softmax(alpha, 0)[j].item() for alpha, j in zip(alphas, each, strict=True))
        for each in all_paths(SPACE)
        if 0.99 * goal <= table.of_path(each) <= goal
    }
    assert path == max(scores, key=scores.get)


def test_the_parameters_on_paths_are_those_that_get_a_gradient():
    net, paths = tiny_supernet(SPACE, dtype=torch.float32), [(0, 4, 1, 2), (1, 0, 1, 3)]
    images, _ = tiny_batch(dtype=torch.float32)
    sum(net(images, path).square().sum() for path in paths).backward()
    moved = [name for name, parameter in net.named_parameters() if parameter.grad is not None]
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert [names[id(parameter)] for parameter in net.parameters_on(paths)] == moved
