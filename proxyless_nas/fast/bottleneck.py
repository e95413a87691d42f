"""Inverted bottlenecks that train faster on a CPU: what their first layers make between them is never written.

The same networks up to rounding (expand_kernel.py, project_kernel.py). Images are small here: those of a few channels
have to stay in the nearest caches; for larger ones the layers compute by themselves.
"""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proxyless_nas.convolution import SameConv2d
from proxyless_nas.fast import expand_kernel, norm_kernel, project_kernel
from proxyless_nas.fast.compiler import registers
from proxyless_nas.fast.depthwise import FAST, WORTH_SHARING
from proxyless_nas.fast.expand_kernel import Layer, Moments
from proxyless_nas.fast.norm import LIMITS, FastConvBN, fits, move_statistics, takes_norm, threads_for
from proxyless_nas.fast.norm_kernel import Range
from proxyless_nas.fast.pointwise import FastPointwise
from proxyless_nas.layers import MBConvLayer, ZeroLayer

MOST_VECTORS = 3000
"""Of an image of a few channels, beyond which it does not stay in the nearest caches."""

MOST_CHANNELS = 64
"""Of the input: beyond, the matrix product of a library is faster than making each channel's image twice."""
FEWEST_PIXELS = 8
"""Of a batch, times the channels of the input: fewer are not worth the covariance."""


@dataclass(frozen=True)
class Settings:
    """What is computed beside tensors: eps and limits of both normalizations, and the places between them."""

    eps: float
    eps_behind: float
    limits: Range
    limits_behind: Range
    layer: Layer


class FastMBConv(MBConvLayer):
    """The same in training mode; made by ``accelerate`` of this folder."""

    def forward(self, x: Tensor) -> Tensor:
        settings = _settings(x, self)
        if settings is None:
            return super().forward(x)
        if torch.is_grad_enabled():
            y, known, behind = Inner.apply(x, *_tensors(self), settings)
        else:
            d, known, behind = _inner(x, _tensors(self), settings)
            y = norm_kernel.normalized(d, behind, settings.limits_behind, threads_for(d), out=d)
        move_statistics(self.inverted_bottleneck.bn, known, x.numel() // x.shape[1])
        move_statistics(self.depth_conv.bn, behind, y.numel() // y.shape[1])
        return self.point_linear(y)

    @torch.no_grad()
    def product(self, x: Tensor, grad: Tensor) -> Tensor | None:
        """<dL/doutput, output> of ``x`` in training mode, no statistic moved; None where our kernels do not take it."""
        last, settings = self.point_linear, _settings(x, self)
        if (
            settings is None
            or not project_kernel.takes(*last.conv.weight.shape[1::-1])
            or not fits(grad, last.bn)
            or not _is_as_built(last, FastPointwise)
            or _is_watched(self)
        ):
            return None
        d, _, behind = _inner(x, _tensors(self), settings)
        norm = last.bn.weight, last.bn.bias, last.bn.eps
        return project_kernel.product(d, behind, settings.limits_behind, last.conv.weight, norm, grad)


class FastZero(ZeroLayer):
    """Made by ``accelerate`` of this folder."""

    def product(self, x: Tensor, grad: Tensor) -> Tensor | None:
        """As FastMBConv's."""
        return None if _is_watched(self) else grad.new_zeros((), dtype=torch.promote_types(grad.dtype, torch.float32))


def is_fused(layer: MBConvLayer) -> bool:
    """Whether our kernels may be there for it, which has its own of each layer."""
    first, depth, last = layer.inverted_bottleneck, layer.depth_conv, layer.point_linear
    plain = depth.conv.bias is None and not isinstance(depth.conv.padding, str) and type(last.act) is nn.Identity
    return plain and all(_is_as_built(one, *kinds) for one, kinds in zip((first, depth, last), KINDS, strict=True))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
KINDS = (FastPointwise,), tuple(FAST.values()), (FastPointwise,)
"""Of the three convolutions."""


def _is_as_built(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer computes what ``accelerate`` found it to: none of another kind came in, and nothing looks on."""
    return (
        type(layer) is FastConvBN
        and type(layer.conv) in kinds
        and type(layer.act) in LIMITS
        and not any(_is_watched(one) for one in (layer, layer.conv, layer.bn, layer.act))
    )


def _is_watched(layer: nn.Module) -> bool:
    return any(getattr(layer, name) for name in HOOKS)


def _settings(x: Tensor, module: FastMBConv) -> Settings | None:
    """None where our kernels do not take an input."""
    first, depth = module.inverted_bottleneck, module.depth_conv
    if (
        not module.training
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or not (_is_as_built(first, FastPointwise) and _is_as_built(depth, *FAST.values()))
        or not fits(x, first.bn)
        or not takes_norm(depth.bn)
    ):
        return None
    conv = depth.conv
    pads = None if isinstance(conv, SameConv2d) else conv.padding
    layer = _layer(first.conv.weight.shape[0], conv.kernel_size[0], conv.stride[0], pads, *x.shape[2:])
    is_alone = layer is not None and len(x) * layer.out_height * layer.out_width == 1  # which has no variance
    if layer is None or is_alone or not _is_worth_it(x):
        return None
    limits = LIMITS[type(first.act)], LIMITS[type(depth.act)]
    return Settings(first.bn.eps, depth.bn.eps, *limits, layer)


def _is_worth_it(x: Tensor) -> bool:
    return x.shape[1] <= MOST_CHANNELS and x.numel() >= FEWEST_PIXELS * x.shape[1] ** 2


@functools.cache
def _layer(
    channels: int, size: int, stride: int, pads: tuple[int, int] | None, height: int, width: int
) -> Layer | None:
    """``pads``: None for TensorFlow's. None where our kernels are not there for it."""
    machine, sides = registers(), (height, width)
    if pads is None:
        outs = [-(-side // stride) for side in sides]
        totals = [max((out - 1) * stride + size - side, 0) for out, side in zip(outs, sides, strict=True)]
        pads = totals[0] // 2, totals[1] // 2
    else:
        outs = [(side + 2 * pad - size) // stride + 1 for side, pad in zip(sides, pads, strict=True)]
    found = Layer(size, stride, pads, height, width, *outs)
    is_small = min(outs) > 0 and found.scratch <= MOST_VECTORS
    return found if is_small and machine is not None and channels >= machine.lanes else None


def _tensors(module: FastMBConv) -> tuple[Tensor, ...]:
    """What computes d: weights, with weight and bias of the normalization behind each."""
    first, depth = module.inverted_bottleneck, module.depth_conv
    return first.conv.weight, first.bn.weight, first.bn.bias, depth.conv.weight, depth.bn.weight, depth.bn.bias


def _inner(x: Tensor, tensors: tuple[Tensor, ...], settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """As expand_kernel.forward."""
    first, weight, bias, depthwise, weight_behind, bias_behind = tensors
    norm, behind = (weight, bias, settings.eps), (weight_behind, bias_behind, settings.eps_behind)
    threads = _threads(x, first, settings.layer)
    return expand_kernel.forward(
        x, _moments(x), first, norm, depthwise, behind, settings.limits, settings.layer, threads
    )


def _threads(x: Tensor, first: Tensor, layer: Layer) -> int:
    sums = x.numel() * len(first) + len(x) * len(first) * layer.out_height * layer.out_width * layer.size**2
    return torch.get_num_threads() if sums >= WORTH_SHARING else 1


_latest: tuple[weakref.ref[Tensor], int, Moments] | None = None


def _moments(x: Tensor) -> Moments:
    """Of x; the candidates of a block are given the same one after the other.

    What changes a tensor through its memory alone does not count as a version of it: no layer of ours does that to what
    a block is given.
    """
    global _latest
    if x.is_inference():  # such a tensor has no versions
        return Moments.of(x)
    known = _latest
    if known is not None and known[0]() is x and known[1] == x._version:
        return known[2]
    found = Moments.of(x)
    _latest = weakref.ref(x), x._version, found
    return found


class Inner(torch.autograd.Function):
    """All of an inverted bottleneck in front of its last convolution, and what is known of what its two normalizations
    were given, which has no gradient."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, first: Tensor, weight: Tensor, bias: Tensor, depthwise: Tensor, weight_behind: Tensor,
        bias_behind: Tensor, settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        d, known, behind = _inner(x, (first, weight, bias, depthwise, weight_behind, bias_behind), settings)
        moments = _moments(x)
        ctx.save_for_backward(x, moments.mean, moments.covariance, first, depthwise, known, d, behind)
        ctx.mark_non_differentiable(known, behind)
        ctx.set_materialize_grads(False)
        ctx.settings = settings
        return norm_kernel.normalized(d, behind, settings.limits_behind, threads_for(d)), known, behind

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, mean, covariance, first, depthwise, known, d, behind = ctx.saved_tensors
        own: Settings = ctx.settings
        grad = grad.contiguous(memory_format=torch.channels_last)
        sums = norm_kernel.sums(d, grad, behind, own.eps_behind, own.limits_behind, threads_for(d))
        given = x, known, first, depthwise, d, behind, grad, sums, own.limits, own.limits_behind, own.layer
        wants_taps = ctx.needs_input_grad[4]  # an architecture step asks for x's gradient alone
        rows, of_bias, of_depthwise = expand_kernel.backward(*given, _threads(x, first, own.layer), wants_taps)
        moments = Moments(mean, covariance)
        found = expand_kernel.first_gradients(x, moments, known, first, own.eps, rows, of_bias)
        of_x, of_first, of_weight = found
        return of_x, of_first, of_weight, of_bias, of_depthwise, sums[0], sums[1], None
