"""The tiny network as if it were trained, and its images."""

import numpy as np
import torch

from proxyless_nas.network import build
from proxyless_nas.steps import recalibrate_bn
from proxyless_nas.weights import to_named
from tests.compress.specs import SPEC


def trained(spec=SPEC, seed=0):
    """A network whose BN statistics and scales are no defaults, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    net = build(spec, generator)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("bn.weight"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif name.endswith("bn.bias"):
                value.copy_(0.5 * torch.randn(value.shape, generator=generator))
    recalibrate_bn(net, [(images(64, side=spec.resolution), torch.zeros(64))])
    return net.eval()


def tensors(net):
    return to_named(net)


def images(count=48, seed=1, side=12):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def batches(count=48, size=16, classes=4):
    labels = torch.from_numpy(np.arange(count) % classes)
    return list(zip(images(count).split(size), labels.split(size), strict=True))
