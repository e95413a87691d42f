"""Defensive Quantization (Lin, Gan, Han, ICLR 2019): a penalty on layers that expand, and rounded inputs of layers.

Each layer passes an error on, and one whose weights expand passes on more than it was given; with rounded activations
the error then reaches another step. The penalty keeps each layer near an isometry. It is a regularizer, no defence:
proxyless_nas/robust measures what it comes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proxyless_arch.arch.bits import BitLayer, BitPlan, Format, Range, bit_layers, uniform_plan
from proxyless_arch.arch.spec import ArchSpec
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import ProxylessNet
from proxyless_nas.quantized import InputQuantizer, quantizers, set_quantizer

RELU6 = 6.0
"""The clip of what lies behind a ReLU6: all of its range, as in the paper."""
NORMAL_CLIPS = {2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}
"""By bits: the clip that loses least of a normal distribution, in its standard deviations (Banner et al. 2019)."""
MOMENTUM = 0.1
"""The weight of a batch in a tracked clip, as in batch normalization."""
CALIBRATED = 512
"""Images at most from which the clips of trained weights begin."""


# ------------------------------------------------------------------------------------------------------ the penalty


def orthogonality(net: nn.Module) -> Tensor:
    """The sum over layers of ``||W^T W - I||^2`` (Frobenius), W being (out, in * k * k).

    The smaller of W^T W and W W^T is taken: their distances to the identity differ by a constant, the difference of
    W's sides.

    Deviation: a depthwise layer is a diagonal of rows of its own, whose lengths alone are asked to be 1; the paper has
    none, and W^T W would compare channels that never meet.
    Deviation: W has the gain of the batch normalization behind it, gamma / sqrt(var + eps): that could undo what is
    asked of W alone. sqrt(var) grows as W's rows do, so what is asked of a row is its direction, and the length of
    gamma.
    """
    return torch.stack([_distance(weight, depthwise) for weight, depthwise in _operators(net)]).sum()


def _operators(net: nn.Module) -> Iterator[tuple[Tensor, bool]]:
    """(the matrix that a layer applies, whether it is a depthwise convolution)."""
    for layer in net.modules():
        if isinstance(layer, ConvBN):
            yield folded_rows(layer), layer.conv.groups > 1
        elif isinstance(layer, nn.Linear):
            yield layer.weight.float(), False


def folded_rows(layer: ConvBN) -> Tensor:
    """The weights of a convolution, (out, in * k * k), times the gain behind them.

    The gradient of the running variance is the one that it would have, had it followed the length of its row.
    """
    rows = layer.conv.weight.float().flatten(1)
    length = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    assert layer.bn.running_var is not None
    per_length = length.detach() / (layer.bn.running_var + layer.bn.eps).sqrt()[:, None]
    return rows / length * per_length * layer.bn.weight[:, None]


def _distance(weight: Tensor, depthwise: bool) -> Tensor:
    if depthwise:
        return ((weight.square().sum(1) - 1) ** 2).sum()
    gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
    return ((gram - torch.eye(len(gram), device=gram.device)) ** 2).sum()


# ------------------------------------------------------------------------------------------------ rounded activations


class Input(NamedTuple):
    """What a layer takes in: whether it has a sign, and whether it ends at 6."""

    signed: bool
    ends: bool


def inputs_of(layers: Iterable[BitLayer]) -> dict[str, Input]:
    """Of each layer, by what is in front of it: nothing or a linear layer, a ReLU, or a ReLU6."""
    found, last = {}, Input(signed=True, ends=False)
    for layer in layers:
        found[layer.name] = last
        # of the two activations that networks have, ReLU6 alone keeps a copy
        last = Input(signed=not layer.conv.activated, ends=layer.conv.activated and layer.conv.copied)
    return found


class TrackingQuantizer(InputQuantizer):
    """An InputQuantizer of an input without an end: while it trains, its clip follows the size of what passes.

    The clip is NORMAL_CLIPS times the root mean square, averaged over batches as batch normalization does. Behind a
    ReLU, half of a normal distribution has the root of a half of its size, and twice as many steps.
    """

    def __init__(self, bits: int, signed: bool = True) -> None:
        super().__init__(bits, _spread(bits, signed), signed)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.clip.lerp_(self.clip_of(x), MOMENTUM)
        return super().forward(x)

    def clip_of(self, x: Tensor) -> Tensor:
        return _spread(self.bits, self.signed) * x.float().square().mean().sqrt()


def _spread(bits: int, signed: bool) -> float:
    most = max(NORMAL_CLIPS)
    return NORMAL_CLIPS[min(bits, most)] if signed else math.sqrt(2) * NORMAL_CLIPS[min(bits + 1, most)]


def quantize_activations(net: ProxylessNet, bits: int) -> None:
    """Round what every layer of ``net`` takes in, but the image, to ``bits``; the weights stay float32.

    Deviation: the paper's networks have a ReLU6 in front of every layer; behind a linear one, inputs have a sign here,
    and where nothing ends at 6 a clip is tracked.
    """
    layers = bit_layers(net.spec)
    inputs = inputs_of(layers)
    for layer in layers[1:]:
        signed, ends = inputs[layer.name]
        quantizer = InputQuantizer(bits, RELU6, signed=False) if ends else TrackingQuantizer(bits, signed)
        set_quantizer(net.get_submodule(layer.input_place), quantizer)


@torch.no_grad()
def calibrate(net: ProxylessNet, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> None:
    """Begin tracked clips with the mean over ``batches`` of float activations; ``net`` is left in eval mode.

    Of weights that were trained as float: their activations have sizes of their own.
    """
    seen: dict[InputQuantizer, list[Tensor]] = {each: [] for _, each in quantizers(net)}
    handles = [each.register_forward_hook(_keeping(clips)) for each, clips in seen.items()]
    net.eval()
    try:
        for images, _ in batches:
            net(images.to(device))
    finally:
        for handle in handles:
            handle.remove()
    for each, clips in seen.items():
        if clips:
            each.clip.copy_(torch.stack(clips).mean())


def _keeping(clips: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that notes the clip of what passes a tracked quantizer, and lets all pass as it is."""

    def hook(quantizer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(quantizer, TrackingQuantizer):
            clips.append(quantizer.clip_of(inputs[0]))
        return inputs[0]

    return hook


def share_clips(source: nn.Module, copy: nn.Module) -> None:
    """Let the quantizers of ``copy``, a copy of ``source``, have the clips of ``source`` from here on."""
    for (_, own), (_, other) in zip(quantizers(source), quantizers(copy), strict=True):
        other.clip = own.clip


def activation_plan(spec: ArchSpec, net: nn.Module, bits: int) -> BitPlan:
    """The plan that the quantizers of ``net`` come to: float weights, inputs of ``bits``."""
    attached = dict(quantizers(net))
    ranges = {
        layer.name: Range(float(found.clip), found.signed)
        for layer in bit_layers(spec)
        if (found := attached.get(layer.input_place)) is not None
    }
    return uniform_plan(spec, Format(None, bits), ranges)
