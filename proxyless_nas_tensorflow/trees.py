"""The Keras layers of tree-structured cells: edges in pre-activation order, nodes, and the block around a cell.

A layer that holds weights is named like the torch module that holds them (proxyless_nas/trees.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from proxyless_arch.arch.ops import Operation
from proxyless_arch.arch.preact import AvgPool, Identity, MaxPool, NormAct, PreConv, Separable
from proxyless_arch.arch.spec import BatchNorm, Padding
from proxyless_arch.arch.tree import TreeBlock, TreeNode
from proxyless_nas_tensorflow.convolution import convolution


def batch_norm(x: KerasTensor, name: str, bn: BatchNorm) -> KerasTensor:
    # Keras' momentum is the weight of the old statistics, the spec's (and torch's) that of the new batch
    return layers.BatchNormalization(epsilon=bn.eps, momentum=1 - bn.momentum, name=name)(x)


def shuffled(x: KerasTensor, groups: int) -> KerasTensor:
    """The first channel of every group, then the second of every group, and so on. (N, H, W, C) both."""
    order = np.arange(x.shape[-1]).reshape(groups, -1).T.ravel()
    return keras.ops.take(x, order, axis=-1)


def norm_act(x: KerasTensor, name: str, op: NormAct, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    """Batch normalization and ReLU."""
    return layers.Activation("relu", name=f"{name}.act")(batch_norm(x, f"{name}.bn", bn))


def preconv(x: KerasTensor, name: str, op: PreConv, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    """Batch normalization, ReLU unless there is none, convolution; groups are shuffled."""
    x = batch_norm(x, f"{name}.bn", bn)
    if op.activated:
        x = layers.Activation("relu", name=f"{name}.act")(x)
    x = convolution(
        x, f"{name}.conv", op.out_channels, op.kernel_size, padding, seed, stride=op.stride, groups=op.groups
    )
    return shuffled(x, op.groups) if op.groups > 1 else x


def separable(
    x: KerasTensor, name: str, op: Separable, bn: BatchNorm, padding: Padding, seed: int | None
) -> KerasTensor:
    """Batch normalization, ReLU, depthwise convolution, 1x1 convolution."""
    x = layers.Activation("relu", name=f"{name}.act")(batch_norm(x, f"{name}.bn", bn))
    how: dict[str, Any] = {"stride": op.stride, "dilation": op.dilation, "depthwise": True}
    x = convolution(x, f"{name}.depth_conv", op.in_channels, op.kernel_size, padding, seed, **how)
    return convolution(x, f"{name}.point_conv", op.out_channels, 1, padding, seed)


def max_pool(x: KerasTensor, name: str, op: MaxPool, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    return layers.MaxPooling2D(op.kernel_size, strides=1, padding="same", name=name)(x)


def avg_pool(x: KerasTensor, name: str, op: AvgPool, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    return layers.AveragePooling2D(op.kernel_size, strides=1, padding="same", name=name)(x)


def identity(x: KerasTensor, name: str, op: Identity, bn: BatchNorm, padding: Padding, seed: int | None) -> KerasTensor:
    return x


def tree_node(
    x: KerasTensor, name: str, node: TreeNode, bn: BatchNorm, padding: Padding, seed: int | None
) -> KerasTensor:
    """A node of a cell with all that is behind it. (N, H, W, in_channels) -> (N, H, W, out_channels)."""
    count = len(node.branches)
    inputs = keras.ops.split(x, count, axis=-1) if node.allocation == "split" and count > 1 else [x] * count
    outputs = []
    for index, (branch, each) in enumerate(zip(node.branches, inputs, strict=True)):
        edge = branch.edge
        first = out = BUILDERS[type(edge)](each, f"{name}.edges.{index}", edge, bn, padding, seed)
        if branch.child is not None:
            out = tree_node(first, f"{name}.child_nodes.{index}", branch.child, bn, padding, seed)
        if node.branch_bn:
            normalized = batch_norm(out, f"{name}.branch_bns.{index}", bn)
            out = layers.Add(name=f"{name}.branch_bns.{index}.add")([normalized, first])
        outputs.append(out)
    if count == 1:
        return outputs[0]
    return (layers.Concatenate if node.merge == "concat" else layers.Add)(name=f"{name}.merged")(outputs)


def tree_block(
    x: KerasTensor, name: str, op: TreeBlock, bn: BatchNorm, padding: Padding, seed: int | None
) -> KerasTensor:
    """1x1 convolution, cell, 1x1 convolution, batch normalization; the shortcut around them is inside."""
    out = preconv(x, f"{name}.in_bottle", op.in_bottle, bn, padding, seed)
    out = tree_node(out, f"{name}.cell", op.cell, bn, padding, seed)
    out = preconv(out, f"{name}.out_bottle", op.out_bottle, bn, padding, seed)
    normalized = batch_norm(out, f"{name}.final_bn", bn)
    return layers.Add(name=f"{name}.add")([normalized, shortcut(x, f"{name}.shortcut", op)])


def shortcut(x: KerasTensor, name: str, op: TreeBlock) -> KerasTensor:
    """The input at the size of the output, with channels of zeros behind its own."""
    if op.stride == 2:
        x = layers.AveragePooling2D(2, padding="same", name=name)(x)
    added = op.out_channels - op.in_channels
    return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, added]]) if added else x


BUILDERS: dict[type[Operation], Callable[[KerasTensor, str, Any, BatchNorm, Padding, int | None], KerasTensor]] = {
    NormAct: norm_act,
    PreConv: preconv,
    Separable: separable,
    MaxPool: max_pool,
    AvgPool: avg_pool,
    Identity: identity,
    TreeBlock: tree_block,
}
"""The layers of an operation, by its class."""
