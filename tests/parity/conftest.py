"""Both frameworks in one process. Torch is imported first: the reverse can crash."""

import torch  # isort: split

from collections.abc import Callable

import pytest

from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from proxyless_nas import ProxylessNet, build
from proxyless_nas.steps import recalibrate_bn


def _lively(spec: ArchSpec, seed: int = 0) -> ProxylessNet:
    """A He-initialized network in eval mode in which every tensor matters.

    Fresh batch normalization would let the activations fade (logits of about 1e-10, where any tolerance holds). Here
    scale and shift are random, the running statistics are those of noise, moved by some 10 %, and the classifier is
    scaled so that the logits' standard deviation is 0.1 on such noise (0.1 to 0.6 at other sizes).
    """
    generator = torch.Generator().manual_seed(seed)
    net = build(spec, generator)
    layers = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        torch.nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
        torch.nn.init.normal_(layer.bias, 0, 0.2, generator=generator)
    recalibrate_bn(net, [(torch.randn(8, 3, 96, 96, generator=generator), torch.zeros(8))])
    with torch.no_grad():
        for layer in layers:
            shift = torch.randn(layer.num_features, generator=generator) * 0.1
            layer.running_mean += shift * layer.running_var.sqrt()
            layer.running_var *= 1 + 0.2 * torch.rand(layer.num_features, generator=generator)
        head = net.classifier.linear
        head.weight /= 10 * net(torch.randn(4, 3, 96, 96, generator=generator)).std()
        torch.nn.init.normal_(head.bias, 0, 0.02, generator=generator)
    return net


@pytest.fixture(scope="session")
def lively() -> Callable[..., ProxylessNet]:
    """lively(spec, seed=0): a torch network with random weights, batch normalization's included."""
    return _lively


@pytest.fixture(scope="session")
def tiny_spec() -> ArchSpec:
    """Stem, five blocks (one of them vanished, two with a skip), mix; total stride 8, 10 classes."""
    stages = (Stage(24, 3, 2), Stage(40, 2, 2))
    macro = Macro(name="tiny", stem_width=16, stem_stride=2, first_width=8, stages=stages, mix_width=64)
    return mbconv_space(macro=macro, num_classes=10).spec_for((1, 6, 3, 2, 0), name="tiny")
