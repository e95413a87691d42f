"""The binarized path per edge of a tree-structured cell: its gradient, what it leaves alone, what is inherited."""

import copy

import pytest
import torch
from torch.nn import functional as F

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.space.tree import tree_space
from search.algorithm.controllers import step_rng
from search.algorithm.derive import inherit
from search.algorithm.gates import BINARY_MODES, fixed_gates, sample
from search.algorithm.supernet import Choices, PathNet
from tests.search.tiny import assert_same_bits, random_alphas, sizes_of, snapshot, tiny_batch, tiny_supernet

SPACE = tree_space(1, 32, num_classes=5, preprocessing=Preprocessing(resolution=8, resize=8))


def dense_logits(supernet, images, gates):
    """The mixture out = sum_j g_j o_j(x) at every edge; ``gates[e]`` is ``{choice: scalar}``."""
    net, weights = copy.deepcopy(supernet), iter(gates)

    def run(module, x):
        if not isinstance(module, Choices):
            return module(x)
        return sum(gate * module.choices[choice](x) for choice, gate in next(weights).items())

    x = net.first_conv(images)
    for block in net.blocks:
        x = block.mobile_inverted_conv(x, run)
    return net.classifier(net.feature_mix_layer(x).mean((2, 3)))


@pytest.mark.parametrize(
    "mode", [BINARY_MODES[0], *(pytest.param(mode, marks=pytest.mark.slow) for mode in BINARY_MODES[1:])]
)
def test_gradient_is_that_of_the_dense_mixture(mode):
    supernet, alphas = tiny_supernet(SPACE).train(), random_alphas(sizes_of(SPACE))
    images, labels = tiny_batch(3)
    path, gates = sample(alphas, step_rng(0, 1, 0), mode)
    assert len(set(path)) > 4
    found = torch.autograd.grad(F.cross_entropy(supernet(images, path, gates), labels), alphas)
    own = [alpha.detach().clone().requires_grad_() for alpha in alphas]
    mixed = []
    for alpha, active, gate in zip(own, path, gates, strict=True):
        p = torch.softmax(alpha[list(gate.candidates)], 0)
        mixed.append({j: float(j == active) + p[n] - p[n].detach() for n, j in enumerate(gate.candidates)})
    wanted = torch.autograd.grad(F.cross_entropy(dense_logits(supernet, images, mixed), labels), own)
    for ours, dense in zip(found, wanted, strict=True):
        assert float(ours.abs().max()) > 1e-9
        torch.testing.assert_close(ours, dense, rtol=1e-8, atol=1e-12)


def test_an_architecture_step_moves_no_statistic():
    supernet = tiny_supernet(SPACE).train()
    before = snapshot(supernet)
    path, gates = sample(random_alphas(sizes_of(SPACE)), step_rng(0, 1, 1))
    images, labels = tiny_batch(3)
    F.cross_entropy(supernet(images, path, gates), labels).backward()
    torch.testing.assert_close(supernet(images, path, fixed_gates(path, "cpu")), supernet(images, path))
    again = tiny_supernet(SPACE).train()
    again(images, path, gates)
    assert_same_bits(snapshot(again), before)


def test_the_derived_network_is_the_path():
    supernet = tiny_supernet(SPACE, dtype=torch.float32).eval()
    images, _ = tiny_batch(3, dtype=torch.float32)
    path = tuple(index % 7 for index in range(SPACE.n_edges))
    with torch.no_grad():
        net = inherit(supernet, SPACE, path).eval()
        torch.testing.assert_close(net(images), supernet(images, path), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(PathNet(supernet, path)(images), supernet(images, path))


def test_what_a_path_trains_and_normalizes():
    supernet, path = tiny_supernet(SPACE), tuple(index % 7 for index in range(SPACE.n_edges))
    names = {id(parameter): name for name, parameter in supernet.named_parameters()}
    sources = set(SPACE.tensor_map(path).values())
    assert {names[id(parameter)] for parameter in supernet.parameters_on([path])} == sources & set(names.values())
    norms = [layer for layer in PathNet(supernet, path).modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    own = {id(layer): name for name, layer in supernet.named_modules()}
    wanted = {name.removesuffix(".running_mean") for name in sources if name.endswith(".running_mean")}
    assert {own[id(layer)] for layer in norms} == wanted
