"""Depthwise convolutions that train faster on a CPU: the same output, gradients equal up to rounding.

torch's weight gradient of 5x5 and 7x7 depthwise kernels takes several times as long as the rest of the layer, and in
bfloat16 tens of times (docs/results.md, "The gradient of a depthwise convolution"). Where the extra ``[fast]`` is
installed a kernel of our own computes it (depthwise_kernel.py), where that was measured to be faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from proxyless_nas.convolution import SameConv2d
from proxyless_nas.fast import depthwise_kernel
from proxyless_nas.fast.compiler import registers

SMALLEST_KERNEL = {torch.float32: 5, torch.bfloat16: 3}
"""From which on a kernel of ours was faster, by the type of the input: torch's is as fast for 3x3 in float32."""
WORTH_SHARING = 4_000_000
"""Multiply-adds below which one thread computes a gradient: waking another takes as long."""


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether our kernel may be there for it."""
    square = len({*layer.kernel_size}) == len({*layer.stride}) == 1
    usual = layer.padding_mode == "zeros" and set(layer.dilation) == {1}
    overlaps = isinstance(layer.padding, str) or max(layer.padding) < layer.kernel_size[0]
    return square and usual and overlaps and layer.groups == layer.in_channels == layer.out_channels


class FastDepthwise(nn.Conv2d):
    """A depthwise convolution without bias; made by ``accelerate`` of this folder."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (
            torch.is_grad_enabled() and weight.requires_grad and bias is None and not isinstance(self.padding, str)
        ):
            return super()._conv_forward(x, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if not _fits(x, self.kernel_size[0]):
            return super()._conv_forward(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return Depthwise.apply(x, weight, self.stride[0], self.padding)


class FastSameDepthwise(FastDepthwise, SameConv2d):
    """The same with TensorFlow's padding."""


FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: FastDepthwise, SameConv2d: FastSameDepthwise}


def _fits(x: Tensor, kernel_size: int) -> bool:
    """Whether our kernel takes an input, and is faster."""
    machine = registers()
    return (
        machine is not None
        and kernel_size >= SMALLEST_KERNEL.get(x.dtype, kernel_size + 1)
        and x.ndim == 4
        and x.shape[1] >= machine.lanes
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class Depthwise(torch.autograd.Function):
    """A depthwise convolution, (N, C, H, W) and (C, 1, K, K) -> (N, C, H', W'), whose gradients are computed faster.

    The weight is rounded to the type of the input, and its gradient stays in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:  # type: ignore[override]
        rounded = weight.to(x.dtype)
        ctx.save_for_backward(x, rounded)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, rounded, None, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_input = input_gradient(x, weight, grad, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            size = weight.shape[-1]
            threads = torch.get_num_threads() if grad.numel() * size**2 >= WORTH_SHARING else 1
            of_weight = depthwise_kernel.weight_gradient(x, grad, size, ctx.stride, ctx.padding, threads)
        return of_input, of_weight, None, None


def input_gradient(x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
    """dL/dx, in the type of ``x``."""
    size = weight.shape[-1]
    if stride == 1:  # the convolution with the kernel turned round, which torch computes faster as such
        above, left = (size - 1 - pad for pad in padding)
        return F.conv2d(grad, weight.flip(2, 3), None, 1, (above, left), 1, x.shape[1])
    # torch's strided one takes tens of times as long in bfloat16; of x it needs the shape and the memory
    like_x = torch.empty_like(x, dtype=torch.float32)
    places = ([stride] * 2, padding, [1, 1], False, [0, 0], x.shape[1], [True, False, False])
    wide, *_ = torch.ops.aten.convolution_backward(grad.float(), like_x, weight.float(), None, *places)
    return wide.to(x.dtype)
