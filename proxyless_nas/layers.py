"""The torch layers: each is built from its spec class, with the tensor names of the released files.

Those of tree-structured cells are in trees.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from proxyless_arch.arch.ops import Conv, Linear, MBConv, Operation, Zero
from proxyless_arch.arch.preact import ConvNorm
from proxyless_arch.arch.spec import BatchNorm, Block, Padding
from proxyless_arch.arch.uib import NONE, UIB, ConvReLU, PooledConv
from proxyless_nas import trees
from proxyless_nas.convolution import convolution
from proxyless_nas.trees import batch_norm


class ConvBN(nn.Module):
    """Convolution without bias, batch normalization and, unless ``act`` is false, an activation. NCHW in, NCHW out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        bn: BatchNorm,
        padding: Padding,
        *,
        groups: int = 1,
        act: bool = True,
        activation: type[nn.ReLU6] | type[nn.ReLU] = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel_size, padding, stride=stride, groups=groups)
        self.bn: nn.Module = batch_norm(out_channels, bn)
        self.act = activation(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fold_bn(self) -> None:
        """Put the batch normalization into the convolution; in eval mode."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class MBConvLayer(nn.Module):
    """Inverted bottleneck: 1x1 expand, depthwise kxk, 1x1 project without activation (no skip of its own)."""

    def __init__(self, op: MBConv, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        hidden = op.hidden_channels
        self.inverted_bottleneck = (
            ConvBN(op.in_channels, hidden, 1, 1, bn, padding) if op.expand_ratio > 1 else nn.Identity()
        )
        self.depth_conv = ConvBN(hidden, hidden, op.kernel_size, op.stride, bn, padding, groups=hidden)
        self.point_linear = ConvBN(hidden, op.out_channels, 1, 1, bn, padding, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_linear(self.depth_conv(self.inverted_bottleneck(x)))


class PooledConvLayer(ConvBN):
    """A 1x1 convolution of the mean over all pixels: (N, in, h, w) -> (N, out, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean((2, 3), keepdim=True))


class UIBLayer(nn.Module):
    """Universal inverted bottleneck: perhaps depthwise, 1x1 expand, perhaps depthwise, 1x1 project (no skip here)."""

    def __init__(self, op: UIB, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        width, hidden = op.in_channels, op.hidden_channels

        def depthwise(channels: int, kernel_size: int, stride: int, *, act: bool) -> nn.Module:
            if kernel_size == NONE:
                return nn.Identity()
            how = {"groups": channels, "act": act, "activation": nn.ReLU}
            return ConvBN(channels, channels, kernel_size, stride, bn, padding, **how)

        self.start_conv = depthwise(width, op.start_kernel_size, op.start_stride, act=False)
        self.inverted_bottleneck = ConvBN(width, hidden, 1, 1, bn, padding, activation=nn.ReLU)
        self.depth_conv = depthwise(hidden, op.kernel_size, op.stride, act=True)
        self.point_linear = ConvBN(hidden, op.out_channels, 1, 1, bn, padding, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_linear(self.depth_conv(self.inverted_bottleneck(self.start_conv(x))))


class ZeroLayer(nn.Module):
    """The operation whose output is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Classifier(nn.Module):
    """Dropout (while training) and a linear layer; (N, features) -> (N, classes)."""

    def __init__(self, head: Linear) -> None:
        super().__init__()
        self.dropout = nn.Dropout(head.dropout_rate)
        self.linear = nn.Linear(head.in_features, head.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x))


def _conv_layer(op: Conv, bn: BatchNorm, padding: Padding) -> nn.Module:
    return ConvBN(op.in_channels, op.out_channels, op.kernel_size, op.stride, bn, padding, act=type(op) is Conv)


def _conv_relu_layer(op: ConvReLU, bn: BatchNorm, padding: Padding) -> nn.Module:
    layer = PooledConvLayer if isinstance(op, PooledConv) else ConvBN
    return layer(op.in_channels, op.out_channels, op.kernel_size, op.stride, bn, padding, activation=nn.ReLU)


BUILDERS: dict[type[Operation], Callable[[Any, BatchNorm, Padding], nn.Module]] = {
    Conv: _conv_layer,
    ConvNorm: _conv_layer,
    ConvReLU: _conv_relu_layer,
    PooledConv: _conv_relu_layer,
    UIB: UIBLayer,
    MBConv: MBConvLayer,
    Zero: lambda op, bn, padding: ZeroLayer(),
    Linear: lambda op, bn, padding: Classifier(op),
    **trees.BUILDERS,
}
"""The layer of an operation, by its class; a new one is added here."""


def build_op(op: Operation, bn: BatchNorm, padding: Padding) -> nn.Module:
    """The layer for one spec value."""
    return BUILDERS[type(op)](op, bn, padding)


class ResidualBlock(nn.Module):
    """A block's operation and, where the spec says so, the identity skip around it."""

    def __init__(self, block: Block, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.mobile_inverted_conv = build_op(block.op, bn, padding)
        self.skip = block.skip
        self.vanished = block.op.vanishes

    def forward(self, x: Tensor) -> Tensor:
        if self.vanished:
            return x
        out = self.mobile_inverted_conv(x)
        return x + out if self.skip else out


def init_weights(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """He initialization by fan-out for convolutions (std = sqrt(2 / (k*k*out))), as in the release; BN to identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)


def zero_last_gamma(op: nn.Module) -> None:
    """Start an operation inside a skip at output 0: the scale of its last batch normalization, if any, is set to 0."""
    norms = [layer for layer in op.modules() if isinstance(layer, nn.BatchNorm2d)]
    if norms:
        nn.init.zeros_(norms[-1].weight)
