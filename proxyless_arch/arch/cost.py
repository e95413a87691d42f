"""Multiply-accumulates and parameters, in closed form."""

from __future__ import annotations

from proxyless_arch.arch.shapes import LayerCall, walk
from proxyless_arch.arch.spec import ArchSpec, Conv, Linear, MBConv, Zero


def macs(call: LayerCall) -> int:
    """Multiply-accumulates of the convolutions and the linear layer, per image (batch normalization is folded)."""
    op = call.op
    in_pixels = call.in_hwc[0] * call.in_hwc[1]
    out_pixels = call.out_hwc[0] * call.out_hwc[1]
    match op:
        case Conv():
            return out_pixels * op.kernel_size**2 * op.in_channels * op.out_channels
        case MBConv():
            hidden = op.hidden_channels
            expand = in_pixels * op.in_channels * hidden if op.expand_ratio > 1 else 0
            depthwise = out_pixels * op.kernel_size**2 * hidden
            return expand + depthwise + out_pixels * hidden * op.out_channels
        case Zero():
            return 0
        case Linear():
            return op.in_features * op.out_features


def params(call: LayerCall) -> int:
    """Trainable parameters: convolution weights, batch-normalization scale and shift, linear weight and bias."""
    op = call.op
    match op:
        case Conv():
            return op.kernel_size**2 * op.in_channels * op.out_channels + 2 * op.out_channels
        case MBConv():
            hidden = op.hidden_channels
            expand = op.in_channels * hidden + 2 * hidden if op.expand_ratio > 1 else 0
            depthwise = op.kernel_size**2 * hidden + 2 * hidden
            return expand + depthwise + hidden * op.out_channels + 2 * op.out_channels
        case Zero():
            return 0
        case Linear():
            return op.in_features * op.out_features + op.out_features


def total_macs(spec: ArchSpec, resolution: int | None = None) -> int:
    """MACs of a whole network for one image."""
    return sum(macs(call) for call in walk(spec, resolution))


def total_params(spec: ArchSpec) -> int:
    """Trainable parameters of a whole network."""
    return sum(params(call) for call in walk(spec))
