"""Training under a bit plan: rounded in every forward pass, as it will be computed, and learnt straight through.

Batch normalization is folded into the weights that are rounded, with the statistics there are; its scale and shift
go on learning. Gradients pass through rounding as if it were none. The clips of inputs are learnt (LSQ, Esser et al.
2020); those of weights are the ones of least error, looked for again at each epoch.

Deviation: the common way trains with the statistics of batches first and folds for the last epochs; here weights that
were trained as float are fine-tuned, folded from the first step on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.arch.bits import CHANNEL, BitPlan, Range, bit_layers
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.quantizer import channel_clips, levels
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import ProxylessNet
from proxyless_nas.quantized import InputQuantizer, fake_quantized, quantizers, set_quantizer, straight_rounded

SMALLEST_SHARE = 0.05
"""Of the clip that a learnt one begins with: below it nothing would pass."""


class LearntQuantizer(InputQuantizer):
    """An InputQuantizer whose clip is trained, gradient times LSQ's 1 / sqrt(values per image x levels)."""

    def __init__(self, bits: int, clip: float, signed: bool) -> None:
        super().__init__(bits, clip, signed)
        del self._buffers["clip"]
        self.clip = nn.Parameter(torch.tensor(clip))
        self.least = SMALLEST_SHARE * clip

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 / math.sqrt(x[0].numel() * levels(self.bits, signed=self.signed))
        clip = self.clip.clamp(min=self.least)
        clip = clip * scale + (clip * (1 - scale)).detach()
        return fake_quantized(x, self.bits, clip, signed=self.signed)


class RoundedWeight:
    """What a layer with rounded weights has: ``bits``, and each output channel's clip, as a share of its largest."""

    bits: int
    shares: Tensor

    def rounded(self, weight: Tensor) -> Tensor:
        most = levels(self.bits, signed=True)
        rows = weight.flatten(1)
        clip = self.shares * rows.detach().abs().amax(1).clamp(min=1e-12)
        step = (clip / most)[:, None]
        return (straight_rounded(torch.clamp(rows / step, -most, most)) * step).view_as(weight)

    @torch.no_grad()
    def look_for_clips(self, weight: Tensor) -> None:
        rows = weight.flatten(1).double().cpu().numpy()
        largest = np.abs(rows).max(1)
        shares = np.where(largest > 0, channel_clips(rows, self.bits) / np.maximum(largest, 1e-30), 1.0)
        self.shares.copy_(torch.from_numpy(shares))


class RoundedConvBN(ConvBN, RoundedWeight):
    """A ConvBN whose weights, batch normalization folded in, are rounded. It becomes one: see ``round_weights``."""

    def folded(self) -> tuple[Tensor, Tensor]:
        """(weight, bias)."""
        mean, var = self.bn.running_mean, self.bn.running_var
        assert mean is not None and var is not None
        factor = self.bn.weight / (var + self.bn.eps).sqrt()
        return self.conv.weight * factor.view(-1, 1, 1, 1), self.bn.bias - mean * factor

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        return self.act(functional_conv(self.conv, x, self.rounded(weight)) + bias.view(1, -1, 1, 1))


class RoundedLinear(nn.Linear, RoundedWeight):
    """A linear layer whose weights are rounded."""

    def folded(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rounded(self.weight), self.bias)


def functional_conv(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """``conv`` with another weight; its padding, TensorFlow's included, is its own."""
    return torch.func.functional_call(conv, {"weight": weight}, (x,))


def round_weights(module: nn.Module, bits: int) -> None:
    """Let a ConvBN or a linear layer round its weights from here on; its parameters keep their names."""
    module.__class__ = RoundedConvBN if isinstance(module, ConvBN) else RoundedLinear
    assert isinstance(module, RoundedConvBN | RoundedLinear)
    weight, _ = module.folded()
    module.bits = bits
    module.register_buffer("shares", torch.ones(len(weight), device=weight.device), persistent=False)
    module.look_for_clips(weight)


def train_under(net: ProxylessNet, plan: BitPlan) -> None:
    """Give ``net`` the rounding of ``plan``. Raises InputError for a quantizer of weights that does not train."""
    if plan.quantizer != CHANNEL:
        raise InputError(f"trained weights have a step per channel: expected {CHANNEL}, got {plan.quantizer}", "--bits")
    for layer in bit_layers(net.spec):
        format = plan.formats[layer.name]
        if format.weight_bits is not None:
            round_weights(net.get_submodule(layer.name), format.weight_bits)
        if format.activation_bits is not None:
            given = plan.ranges[layer.name]
            quantizer = LearntQuantizer(format.activation_bits, given.clip, given.signed)
            set_quantizer(net.get_submodule(layer.input_place), quantizer)


def rounded_layers(net: nn.Module) -> Iterator[RoundedConvBN | RoundedLinear]:
    for module in net.modules():
        if isinstance(module, RoundedConvBN | RoundedLinear):
            yield module


def look_for_clips(net: nn.Module) -> None:
    """Of all rounded weights, as they are now."""
    for module in rounded_layers(net):
        module.look_for_clips(module.folded()[0])


def weight_clips(net: nn.Module) -> list[Tensor]:
    """Of each layer with rounded weights, as shares of the largest weights."""
    return [module.shares for module in rounded_layers(net)]


def share_weight_clips(source: nn.Module, copy: nn.Module) -> None:
    """Let the rounded weights of ``copy``, a copy of ``source``, have the clips of ``source`` from here on."""
    for own, other in zip(rounded_layers(source), rounded_layers(copy), strict=True):
        other.shares = own.shares


def learnt_plan(spec: ArchSpec, net: nn.Module, plan: BitPlan) -> BitPlan:
    """``plan`` with the clips that ``net`` has learnt."""
    found = dict(quantizers(net))
    ranges = {
        layer.name: Range(max(each.clip.item(), getattr(each, "least", 0.0)), each.signed)
        for layer in bit_layers(spec)
        if (each := found.get(layer.input_place)) is not None and plan.formats[layer.name].activation_bits is not None
    }
    return replace(plan, network=spec.name, ranges=ranges)
