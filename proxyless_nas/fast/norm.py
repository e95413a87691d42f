"""A convolution's batch normalization and activation in one, for training on a CPU: equal up to rounding.

What torch does in seven passes over memory takes four (norm_kernel.py), and keeps one tensor in place of two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proxyless_nas.fast import norm_kernel
from proxyless_nas.fast.norm_kernel import MEAN, VARIANCE, WORTH_SHARING, Range
from proxyless_nas.layers import ConvBN

UNBOUNDED = float("inf")
LIMITS: dict[type[nn.Module], Range] = {
    nn.ReLU6: (0.0, 6.0),
    nn.ReLU: (0.0, UNBOUNDED),
    nn.Identity: (-UNBOUNDED, UNBOUNDED),
}
"""Between what an activation leaves a number as it is; what lies outside becomes the limit."""


class FastConvBN(ConvBN):
    """The same in training mode; made by ``accelerate`` of this folder."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        limits = LIMITS.get(type(self.act))
        if limits is None or not fits(x, self.bn):
            return self.act(self.bn(x))
        return norm_act(x, self.bn, limits)


def fits(x: Tensor, bn: nn.Module) -> bool:
    """Whether our kernels take an input of ``bn``, or of a convolution in front of it."""
    return (
        takes_norm(bn)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.ndim == 4
        and x.numel() > x.shape[1]  # a single number has no variance: torch says so
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def takes_norm(bn: nn.Module) -> bool:
    """Whether our kernels are there for a normalization, as it is now."""
    return (
        type(bn) is nn.BatchNorm2d
        and bn.training
        and bn.weight is not None
        and bn.weight.dtype == torch.float32
        and norm_kernel.lanes_of(bn.num_features) is not None
    )


def norm_act(x: Tensor, bn: nn.BatchNorm2d, limits: Range) -> Tensor:
    """clamp(bn(x)) in training mode; without a gradient it is written over ``x``."""
    if torch.is_grad_enabled():
        y, known = NormAct.apply(x, bn.weight, bn.bias, bn.eps, limits)
    else:
        known = norm_kernel.statistics(x, bn.weight, bn.bias, bn.eps, threads_for(x))
        y = norm_kernel.normalized(x, known, limits, threads_for(x), out=x)
    move_statistics(bn, known, x.numel() // x.shape[1])
    return y


@torch.no_grad()
def move_statistics(bn: nn.BatchNorm2d, known: Tensor, count: int) -> None:
    """The running statistics, if it has any, as torch moves them by a batch of ``count`` pixels."""
    if not bn.track_running_stats:
        return
    assert bn.num_batches_tracked is not None and bn.running_mean is not None and bn.running_var is not None
    bn.num_batches_tracked.add_(1)
    momentum = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    bn.running_mean.mul_(1 - momentum).add_(known[MEAN], alpha=momentum)
    bn.running_var.mul_(1 - momentum).add_(known[VARIANCE], alpha=momentum * count / (count - 1))


def threads_for(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= WORTH_SHARING else 1


class NormAct(torch.autograd.Function):
    """(N, C, H, W), weight, bias -> clamp(bn(x)) and the statistics of the batch, which have no gradient.

    dL/dx is written over x, which nothing else keeps: a convolution's gradient needs its input alone.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, limits: Range
    ) -> tuple[Tensor, Tensor]:
        known = norm_kernel.statistics(x, weight, bias, eps, threads_for(x))
        ctx.save_for_backward(x, known)
        ctx.mark_non_differentiable(known)
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.limits, ctx.is_spent = eps, limits, False
        return norm_kernel.normalized(x, known, limits, threads_for(x)), known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.is_spent:
            raise RuntimeError("a second gradient of one output: what it is computed from was written over")
        ctx.is_spent = True
        x, known = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        found = norm_kernel.gradients(x, grad, known, ctx.eps, ctx.limits, threads_for(x))
        return *found, None, None
