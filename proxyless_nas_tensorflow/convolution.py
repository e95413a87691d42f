"""Convolutions of both kinds of padding, without bias, and the initial weights of layers."""

from __future__ import annotations

import math

import keras
from keras import KerasTensor, layers

from proxyless_arch.arch.spec import Padding
from proxyless_arch.data.streams import named_seed


def layer_seed(seed: int | None, name: str) -> int | None:
    """The seed of one layer's initial weights: a function of the network's seed and the layer's name."""
    if seed is None:
        return None
    return named_seed(seed, name)


def he_normal(kernel_size: int, out_channels: int, seed: int | None) -> keras.initializers.Initializer:
    """He initialization by fan-out (std = sqrt(2 / (k*k*out))), as in the release, of depthwise kernels too."""
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / (kernel_size**2 * out_channels)), seed=seed)


def convolution(
    x: KerasTensor,
    name: str,
    out_channels: int,
    kernel_size: int,
    padding: Padding,
    seed: int | None,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
) -> KerasTensor:
    """A convolution that keeps the size at stride 1, and halves it, rounded up, at stride 2: the layer ``name``."""
    # At stride 1 Keras' "same" pads an odd kernel k//2 on both sides; at stride 2 it puts the odd pixel to the bottom
    # and the right.
    keras_padding: str = "same"
    if padding == "symmetric" and stride > 1:
        keras_padding = "valid"
        if kernel_size > 1:
            x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name.removesuffix('.conv')}.pad")(x)
    init = he_normal(kernel_size, out_channels, layer_seed(seed, name))
    common = {"strides": stride, "padding": keras_padding, "dilation_rate": dilation, "use_bias": False, "name": name}
    if depthwise:
        return layers.DepthwiseConv2D(kernel_size, depthwise_initializer=init, **common)(x)
    return layers.Conv2D(out_channels, kernel_size, groups=groups, kernel_initializer=init, **common)(x)
