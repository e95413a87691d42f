"""A spec becomes a torch module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from proxyless_arch.apps.prediction import class_names
from proxyless_arch.arch.spec import ArchSpec
from proxyless_nas.data import ImageTransform
from proxyless_nas.layers import ResidualBlock, build_op, init_weights, zero_last_gamma


class ProxylessNet(nn.Module):
    """A network of the ProxylessNAS family; takes (N, 3, H, W) at any size, gives (N, classes) logits.

    ``spec`` is the architecture it was built from; its preprocessing says how images are prepared. Without its top the
    network gives the feature map in front of the pool, (N, feature_mix width, h, w), and has no classifier.
    """

    def __init__(self, spec: ArchSpec, include_top: bool = True) -> None:
        super().__init__()
        self.spec = spec
        self.include_top = include_top
        self.first_conv = build_op(spec.stem, spec.bn, spec.padding)
        self.blocks = nn.ModuleList(ResidualBlock(block, spec.bn, spec.padding) for block in spec.blocks)
        mix = spec.feature_mix
        self.feature_mix_layer = nn.Identity() if mix is None else build_op(mix, spec.bn, spec.padding)
        if include_top:
            self.classifier = build_op(spec.classifier, spec.bn, spec.padding)

    def __iter__(self) -> Iterator[Any]:
        """``net, transform, classes = load(...)``: itself, how an image becomes its input, the names of its classes."""
        return iter((self, ImageTransform(self.spec.preprocessing), class_names(self.spec)))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> the feature map in front of the pool, (N, feature_mix width, h, w)."""
        x = self.first_conv(x)
        for block in self.blocks:
            x = block(x)
        return self.feature_mix_layer(x)

    def forward(self, x: Tensor) -> Tensor:
        features = self.forward_features(x)
        return self.classifier(features.mean((2, 3))) if self.include_top else features


def build(
    spec: ArchSpec, generator: torch.Generator | None = None, *, include_top: bool = True, zero_gamma: bool = False
) -> ProxylessNet:
    """The network of ``spec`` with He fan-out weights, in channels_last memory.

    Args:
        spec: the architecture.
        generator: of the initial weights.
        include_top: without it the output is the feature map in front of the pool, (N, feature_mix width, h, w).
        zero_gamma: start every block with a skip as the identity, which trains faster in short runs.
    """
    net = ProxylessNet(spec, include_top)
    init_weights(net, generator)
    if zero_gamma:
        for block in net.blocks:
            if block.skip:
                zero_last_gamma(block.mobile_inverted_conv)
    return net.to(memory_format=torch.channels_last)
