"""A trained network at work: the classes of one image, and the fast forward pass for many.

The fast one has its batch normalization folded, lies in channels_last memory and computes in bf16 where asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from proxyless_arch.apps.prediction import TOP, Prediction, most_likely
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import PRECISIONS
from proxyless_arch.base.strict import listed
from proxyless_arch.data.images import AnyImage
from proxyless_nas.data import ImageTransform
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import ProxylessNet
from proxyless_nas.trees import TreeBlockLayer


@torch.inference_mode()
def predict(net: ProxylessNet, image: AnyImage, top: int = TOP) -> list[Prediction]:
    """The ``top`` most likely classes of one image, as (name, probability, label), the most likely first.

    The image is prepared as the weights want it (``net.spec.preprocessing``). The network computes in eval mode, where
    it is, and is left in the mode it was in.

    Args:
        net: a trained network.
        image: a file, uint8 RGB pixels (height, width, 3), or an image of Pillow.
        top: how many classes.

    Raises:
        InputError: an image that cannot be read, or a network without its classifier.
    """
    if not net.include_top:
        raise InputError("expected a network with its classifier", "net")
    pixels = ImageTransform(net.spec.preprocessing)(image)[None]
    mode, parameter = net.training, next(net.parameters())
    try:
        logits = net.eval()(pixels.to(parameter.device, parameter.dtype))
    finally:
        net.train(mode)
    return most_likely(logits[0].float().cpu().numpy(), net.spec, top)


def fold_bn(net: ProxylessNet) -> ProxylessNet:
    """A copy in eval mode whose convolutions contain the batch normalization behind them; ``net`` is left as it was.

    The logits are those of ``net.eval()`` up to float32 rounding. The copy is for inference only: its tensors are no
    longer those of the weight contract.
    """
    folded = copy.deepcopy(net).eval()
    for layer in folded.modules():
        if isinstance(layer, ConvBN | TreeBlockLayer):
            layer.fold_bn()
    return folded.to(memory_format=torch.channels_last)


def prepared(net: ProxylessNet, device: torch.device | str, precision: str = "fp32") -> Callable[[Tensor], Tensor]:
    """The fast forward pass of a trained network: (N, 3, H, W) float32 images -> (N, classes) float32 logits.

    Args:
        net: left as it was; its weights are copied.
        device: where to run; images are moved there, without waiting when they are in pinned memory.
        precision: 'fp32', or 'bf16' for the convolutions; pool and classifier stay in float32, because the few
            digits of bf16 logits would make ties among the classes.

    Raises:
        InputError: another precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"expected {listed(PRECISIONS)}, got {precision!r}", "precision")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    fast = fold_bn(net).to(device)
    for part in (fast.first_conv, fast.blocks, fast.feature_mix_layer):
        part.to(dtype)

    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        images = images.to(device, dtype, non_blocking=True, memory_format=torch.channels_last)
        return fast.classifier(fast.forward_features(images).float().mean((2, 3)))

    return forward
