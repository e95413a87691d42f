"""Convolutions of both kinds of padding, without bias."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.arch.spec import Padding


class SameConv2d(nn.Conv2d):
    """Stride-2 convolution with TensorFlow's "same" padding: the odd pixel goes to the bottom and the right."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[-1:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    padding: Padding,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1, and halves it, rounded up, at stride 2."""
    # at stride 1 an odd kernel pads k//2 on both sides under either rule
    if padding == "same" and stride > 1:
        return SameConv2d(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=False)
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        groups=groups,
        dilation=dilation,
        bias=False,
    )
