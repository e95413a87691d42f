"""1x1 convolutions as the matrix products that they are: in channels_last memory nothing has to be moved for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def is_pointwise(layer: nn.Conv2d) -> bool:
    """Whether a layer is a 1x1 convolution of all channels at every pixel, without bias."""
    plain = layer.groups == 1 and layer.bias is None and layer.padding in ((0, 0), 0)
    return plain and set(layer.kernel_size) == set(layer.stride) == {1}


class FastPointwise(nn.Conv2d):
    """A 1x1 convolution; made by ``accelerate`` of this folder."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None or not _fits(x):
            return super()._conv_forward(x, weight, bias)
        return Product.apply(x, weight) if torch.is_grad_enabled() else _product(x, weight)


def _fits(x: Tensor) -> bool:
    float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return float32 and x.ndim == 4 and x.numel() > 0 and x.is_contiguous(memory_format=torch.channels_last)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """(N, I, H, W) in channels_last memory and (O, I, 1, 1) -> (N, O, H, W) in the same."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C), in channels_last memory the same numbers."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class Product(torch.autograd.Function):
    """A 1x1 convolution, whose gradients come in the order that torch's library is fast in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows, of_weight = _rows(grad), None
        of_x = _product(grad, weight.transpose(0, 1)) if ctx.needs_input_grad[0] else None
        if ctx.needs_input_grad[1]:
            wide = len(weight) > weight.shape[1]
            found = (_rows(x).t() @ rows).t() if wide else rows.t() @ _rows(x)
            of_weight = found.view_as(weight)
        return of_x, of_weight
