"""Layers that train faster on a CPU, by kernels of our own: the same networks, results equal up to rounding.

Where the extra ``[fast]`` is installed they are compiled when they are first needed (compiler.py): the weight gradient
of a depthwise convolution, which takes torch several times as long as the rest of the layer and in bfloat16 tens of
times (docs/results.md), and batch normalization with the activation behind it. 1x1 convolutions are matrix products;
of small images, inverted bottlenecks are computed as wholes (bottleneck.py).
"""

from __future__ import annotations

import torch
from torch import nn

from proxyless_arch.base.words import TORCH_KERNELS
from proxyless_nas.fast import compiler
from proxyless_nas.fast.bottleneck import FastMBConv, FastZero, is_fused
from proxyless_nas.fast.depthwise import FAST, is_depthwise
from proxyless_nas.fast.norm import FastConvBN
from proxyless_nas.fast.pointwise import FastPointwise, is_pointwise
from proxyless_nas.layers import ConvBN, MBConvLayer, ZeroLayer


def kernels_in_use(asked: str, device: torch.device) -> str:
    """What computes beside torch: ``torch``, or the compiler of our kernels with its version.

    ``asked``: the setting ``kernels``, auto or torch.
    """
    if asked == TORCH_KERNELS or device.type != "cpu":
        return TORCH_KERNELS
    return compiler.version() or TORCH_KERNELS


def kernels_text(kernels: str) -> str:
    """What a person is told of them, behind the version of torch."""
    return "" if kernels == TORCH_KERNELS else f" with kernels by {kernels}"


def accelerate(net: nn.Module, kernels: str) -> None:
    """Let our kernels compute in the layers of ``net`` that have one; ``kernels``: kernels_in_use.

    The layers stay the objects they are, so that optimizers, names and copies of ``net`` need not know.
    """
    if kernels == TORCH_KERNELS:
        return
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and type(layer) in FAST and is_depthwise(layer):
            layer.__class__ = FAST[type(layer)]
        elif type(layer) is nn.Conv2d and is_pointwise(layer):
            layer.__class__ = FastPointwise
        elif type(layer) is ConvBN:
            layer.__class__ = FastConvBN
    for layer in net.modules():  # whose own layers are ours by now
        if type(layer) is MBConvLayer and is_fused(layer):
            layer.__class__ = FastMBConv
        elif type(layer) is ZeroLayer:
            layer.__class__ = FastZero
