"""The Keras layers: functional building blocks, one per spec class; those of tree-structured cells are in trees.py.

A layer that holds weights is named like the torch module that holds them (``blocks.3.mobile_inverted_conv.
depth_conv.conv``), so that a tensor's released name is its layer's name, a dot and the part. The output of block 3
is the output of the layer ``blocks.3``; those in front of and behind the blocks are ``first_conv.act`` and
``feature_mix_layer.act``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import KerasTensor, layers

from proxyless_arch.arch.ops import Conv, Linear, MBConv, Operation, Zero
from proxyless_arch.arch.preact import ConvNorm
from proxyless_arch.arch.spec import BatchNorm, Block, Padding
from proxyless_arch.arch.uib import UIB, ConvReLU, PooledConv
from proxyless_nas_tensorflow import trees
from proxyless_nas_tensorflow.convolution import convolution, layer_seed
from proxyless_nas_tensorflow.trees import batch_norm


def conv_bn(
    x: KerasTensor,
    name: str,
    out_channels: int,
    kernel_size: int,
    stride: int,
    bn: BatchNorm,
    padding: Padding,
    seed: int | None,
    *,
    depthwise: bool = False,
    act: bool = True,
    activation: str = "relu6",
) -> KerasTensor:
    """Convolution without bias, batch normalization and, unless ``act`` is false, an activation. NHWC in, NHWC out."""
    x = convolution(x, f"{name}.conv", out_channels, kernel_size, padding, seed, stride=stride, depthwise=depthwise)
    x = batch_norm(x, f"{name}.bn", bn)
    return layers.Activation(activation, name=f"{name}.act")(x) if act else x


def conv_layer(x: KerasTensor, name: str, op: Conv, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    """A full convolution with batch normalization and, but for a ConvNorm, ReLU6."""
    is_activated = type(op) is Conv
    x = conv_bn(x, name, op.out_channels, op.kernel_size, op.stride, bn, padding, seed, act=is_activated)
    return x if is_activated else layers.Identity(name=f"{name}.act")(x)


def conv_relu_layer(
    x: KerasTensor, name: str, op: ConvReLU, bn: BatchNorm, padding: Padding, seed: int | None
) -> KerasTensor:
    """A convolution, of a PooledConv that of the mean over all pixels, with batch normalization and ReLU."""
    if isinstance(op, PooledConv):
        x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.pool")(x)
    return conv_bn(x, name, op.out_channels, op.kernel_size, op.stride, bn, padding, seed, activation="relu")


def uib_layer(x: KerasTensor, name: str, op: UIB, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    """Universal inverted bottleneck: perhaps depthwise, 1x1 expand, perhaps depthwise, 1x1 project (no skip here)."""
    width, hidden = op.in_channels, op.hidden_channels
    if op.start_kernel_size:
        start = (width, op.start_kernel_size, op.start_stride)
        x = conv_bn(x, f"{name}.start_conv", *start, bn, padding, seed, depthwise=True, act=False)
    x = conv_bn(x, f"{name}.inverted_bottleneck", hidden, 1, 1, bn, padding, seed, activation="relu")
    if op.kernel_size:
        how = {"depthwise": True, "activation": "relu"}
        x = conv_bn(x, f"{name}.depth_conv", hidden, op.kernel_size, op.stride, bn, padding, seed, **how)
    return conv_bn(x, f"{name}.point_linear", op.out_channels, 1, 1, bn, padding, seed, act=False)


def mbconv_layer(
    x: KerasTensor, name: str, op: MBConv, bn: BatchNorm, padding: Padding, seed: int | None
) -> KerasTensor:
    """Inverted bottleneck: 1x1 expand, depthwise kxk, 1x1 project without activation (no skip of its own)."""
    hidden = op.hidden_channels
    if op.expand_ratio > 1:
        x = conv_bn(x, f"{name}.inverted_bottleneck", hidden, 1, 1, bn, padding, seed)
    x = conv_bn(x, f"{name}.depth_conv", hidden, op.kernel_size, op.stride, bn, padding, seed, depthwise=True)
    return conv_bn(x, f"{name}.point_linear", op.out_channels, 1, 1, bn, padding, seed, act=False)


def zero_layer(x: KerasTensor, name: str, op: Zero, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    """The operation whose output is 0."""
    return keras.ops.zeros_like(x)


def classifier(x: KerasTensor, name: str, op: Linear, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    """Dropout (while training) and a linear layer; (N, features) -> (N, classes)."""
    bound = op.in_features**-0.5
    init = keras.initializers.RandomUniform(-bound, bound, seed=layer_seed(seed, f"{name}.linear"))
    x = layers.Dropout(op.dropout_rate, seed=layer_seed(seed, f"{name}.dropout"), name=f"{name}.dropout")(x)
    return layers.Dense(op.out_features, kernel_initializer=init, name=f"{name}.linear")(x)


BUILDERS: dict[type[Operation], Callable[[KerasTensor, str, Any, BatchNorm, Padding, int | None], KerasTensor]] = {
    Conv: conv_layer,
    ConvNorm: conv_layer,
    ConvReLU: conv_relu_layer,
    PooledConv: conv_relu_layer,
    UIB: uib_layer,
    MBConv: mbconv_layer,
    Zero: zero_layer,
    Linear: classifier,
    **trees.BUILDERS,
}
"""The layers of an operation, by its class; a new one is added here."""


def build_op(
    x: KerasTensor,
    name: str,
    op: Operation,
    bn: BatchNorm,
    padding: Padding,
    seed: int | None = None,
) -> KerasTensor:
    """The layers for one spec value, applied to ``x``; their names start with ``name``."""
    return BUILDERS[type(op)](x, name, op, bn, padding, seed)


def residual_block(
    x: KerasTensor, name: str, block: Block, bn: BatchNorm, padding: Padding, seed: int | None = None
) -> KerasTensor:
    """A block's operation and, where the spec says so, the identity skip around it. Its output is layer ``name``."""
    if block.op.vanishes:
        return layers.Identity(name=name)(x)
    out = build_op(x, f"{name}.mobile_inverted_conv", block.op, bn, padding, seed)
    return layers.Add(name=name)([x, out]) if block.skip else layers.Identity(name=name)(out)
