"""A search space small enough to enumerate, and networks of it that a CPU runs in milliseconds."""

import copy
import itertools
from dataclasses import replace

import torch

from hardware.cost import CostTable
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from proxyless_arch.space.wide import wide_space
from search.algorithm.elastic import ElasticNet
from search.algorithm.supernet import Supernet

MACRO = Macro(
    name="tiny", stem_width=8, stem_stride=2, first_width=8, stages=(Stage(8, 3, 1), Stage(16, 1, 2)), mix_width=16
)
RESOLUTION = 8
CLASSES = 5


def tiny_space(**changes):
    """4 searched blocks, the second and third with a skip and Zero: 4 x 5 x 5 x 4 networks."""
    settings = {
        "macro": MACRO,
        "num_classes": CLASSES,
        "preprocessing": Preprocessing(resolution=RESOLUTION, resize=RESOLUTION),
        "kernel_sizes": (3, 5),
        "expand_ratios": (2, 3),
    }
    return mbconv_space(**(settings | changes))


def tiny_wide_space(**changes):
    """Two stages of two widths each, blocks of two expansions, the last one with Zero: 2 x 2 x 2 x 2 x 3 networks."""
    macro = replace(MACRO, name="tiny wide", stages=(Stage(16, 1, 1), Stage(16, 2, 2)))
    settings = {
        "num_classes": CLASSES,
        "preprocessing": Preprocessing(resolution=RESOLUTION, resize=RESOLUTION),
        "multipliers": (0.5, 1),
        "kernel_sizes": (3,),
        "expand_ratios": (1, 3),
    }
    return wide_space(macro, **(settings | changes))


def all_paths(space):
    return list(itertools.product(*map(range, space.sizes)))


def tiny_supernet(space=None, *, dtype=torch.float64, seed=0):
    """A supernet whose every operation matters: no zero gammas, BN scales, shifts and statistics away from 1 and 0."""
    rng = torch.Generator().manual_seed(seed)
    space = space or tiny_space()
    net = (ElasticNet(space, rng) if space.shares_weights else Supernet(space, rng, zero_gamma=False)).to(dtype)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith(("bn.weight", "running_var")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
            elif name.endswith(("bn.bias", "running_mean")):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=rng))
    return net


def tiny_batch(n=6, *, dtype=torch.float64, seed=1, resolution=RESOLUTION):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, resolution, resolution, generator=rng).to(dtype)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(CLASSES, (n,), generator=rng)


def random_alphas(sizes, *, seed=2, std=1.0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return [(std * torch.randn(n, generator=rng, dtype=torch.float64)).to(dtype).requires_grad_() for n in sizes]


def sizes_of(space):
    return list(space.sizes)


def random_table(sizes, *, seed=3, unit=Unit.MS, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    edges = [(scale * (1 + 9 * torch.rand(n, generator=rng, dtype=torch.float64))).tolist() for n in sizes]
    return CostTable(fixed=2.5 * scale, groups=tuple(map(tuple, edges)), unit=unit, source="made up")


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_bits(left, right):
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def dense_logits(supernet, images, gates):
    """The dense mixture out = sum_j g_j o_j(x) of every block, written out; ``gates[b]`` is ``{choice: scalar}``.

    Runs on a copy, so that the batch statistics of train mode leave no trace in ``supernet``.
    """
    net = copy.deepcopy(supernet)
    first, *searched = net.blocks
    x = first(net.first_conv(images))
    for block, weights in zip(searched, gates, strict=True):
        out = sum(gate * block.choices[choice](x) for choice, gate in weights.items())
        x = x + out if block.skip else out
    return net.classifier(net.feature_mix_layer(x).mean((2, 3)))
