"""The torch layers of tree-structured cells: edges in pre-activation order, nodes, and the block around a cell.

Tensor names are those of the released CIFAR-10 network (``cell.child_nodes.0.edges.1.depth_conv.weight``), except that
its blocks come one later and have no ``mobile_inverted_conv`` in their names (proxyless_arch/weights/wrapping.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from proxyless_arch.arch.ops import Operation
from proxyless_arch.arch.preact import AvgPool, Identity, MaxPool, NormAct, PreConv, Separable
from proxyless_arch.arch.spec import BatchNorm, Padding
from proxyless_arch.arch.tree import TreeBlock, TreeNode
from proxyless_nas.convolution import convolution

Run = Callable[[nn.Module, Tensor], Tensor]
"""How a part of a block is applied; a supernet applies parts in ways of its own."""


def call(module: nn.Module, x: Tensor) -> Tensor:
    """The ordinary way."""
    return module(x)


def batch_norm(channels: int, bn: BatchNorm) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=bn.eps, momentum=bn.momentum)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The first channel of every group, then the second of every group, and so on. (N, C, H, W) both."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class NormActLayer(nn.Module):
    """Batch normalization and ReLU."""

    def __init__(self, op: NormAct, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.bn = batch_norm(op.channels, bn)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x))


class PreConvLayer(nn.Module):
    """Batch normalization, ReLU unless there is none, convolution; groups are shuffled."""

    def __init__(self, op: PreConv, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.activated, self.groups = op.activated, op.groups
        self.bn = batch_norm(op.in_channels, bn)
        self.conv = convolution(
            op.in_channels, op.out_channels, op.kernel_size, padding, stride=op.stride, groups=op.groups
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        x = self.conv(F.relu(x) if self.activated else x)
        return shuffled(x, self.groups) if self.groups > 1 else x


class SeparableLayer(nn.Module):
    """Batch normalization, ReLU, depthwise convolution, 1x1 convolution."""

    def __init__(self, op: Separable, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        width = op.in_channels
        self.bn = batch_norm(width, bn)
        self.depth_conv = convolution(
            width, width, op.kernel_size, padding, stride=op.stride, groups=width, dilation=op.dilation
        )
        self.point_conv = convolution(width, op.out_channels, 1, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(F.relu(self.bn(x))))


def max_pool(op: MaxPool, bn: BatchNorm, padding: Padding) -> nn.Module:
    return nn.MaxPool2d(op.kernel_size, stride=1, padding=op.kernel_size // 2)


def avg_pool(op: AvgPool, bn: BatchNorm, padding: Padding) -> nn.Module:
    return nn.AvgPool2d(op.kernel_size, stride=1, padding=op.kernel_size // 2, count_include_pad=False)


class PathDrop(nn.Dropout):
    """While training, all of an image's values become 0 with probability p, and others grow by 1 / (1 - p).

    ``Deviation:`` from the release, which decides for a whole batch, and scales when it evaluates.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=torch.float32) >= self.p
        return x * (kept / (1 - self.p)).to(x.dtype)


def set_path_drop(net: nn.Module, rate: float) -> None:
    """Leave out each branch of the network's cells with that probability while it is trained."""
    for layer in net.modules():
        if isinstance(layer, PathDrop):
            layer.p = rate


class TreeNodeLayer(nn.Module):
    """A node of a cell with all that is behind it. (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        node: the value.
        bn: constants of its batch normalizations.
        padding: of its convolutions.
    """

    def __init__(self, node: TreeNode, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.splits, self.joins = node.allocation == "split", node.merge == "concat"
        self.edges = nn.ModuleList(BUILDERS[type(branch.edge)](branch.edge, bn, padding) for branch in node.branches)
        self.child_nodes = nn.ModuleList(
            nn.Identity() if branch.child is None else TreeNodeLayer(branch.child, bn, padding)
            for branch in node.branches
        )
        norms = [branch.edge.out_channels for branch in node.branches if node.branch_bn]
        self.branch_bns = nn.ModuleList(batch_norm(width, bn) for width in norms)
        self.path_drop = PathDrop(0.0)

    def forward(self, x: Tensor, run: Run = call) -> Tensor:
        count = len(self.edges)
        inputs: Sequence[Tensor] = x.chunk(count, dim=1) if self.splits else [x] * count
        outputs = [self._branch(index, each, run) for index, each in enumerate(inputs)]
        if count > 1:
            outputs = [self.path_drop(output) for output in outputs]
        if self.joins:
            return torch.cat(outputs, dim=1)
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total

    def _branch(self, index: int, x: Tensor, run: Run) -> Tensor:
        first = run(self.edges[index], x)
        child = self.child_nodes[index]
        out = child(first, run) if isinstance(child, TreeNodeLayer) else first
        return run(self.branch_bns[index], out) + first if len(self.branch_bns) else out


class TreeBlockLayer(nn.Module):
    """1x1 convolution, cell, 1x1 convolution, batch normalization; the shortcut around them is inside."""

    def __init__(self, op: TreeBlock, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.halves, self.added = op.stride == 2, op.out_channels - op.in_channels
        self.in_bottle = PreConvLayer(op.in_bottle, bn, padding)
        self.cell = TreeNodeLayer(op.cell, bn, padding)
        self.out_bottle = PreConvLayer(op.out_bottle, bn, padding)
        self.final_bn: nn.Module = batch_norm(op.out_channels, bn)

    def forward(self, x: Tensor, run: Run = call) -> Tensor:
        out = self.cell(run(self.in_bottle, x), run)
        out = run(self.final_bn, run(self.out_bottle, out))
        return out + self.shortcut(x)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input at the size of the output, with channels of zeros behind its own."""
        if self.halves:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        return F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x

    def fold_bn(self) -> None:
        """Put the last batch normalization into the convolution in front of it; in eval mode."""
        norm = self.final_bn
        if isinstance(norm, nn.BatchNorm2d):
            self.out_bottle.conv = fuse_conv_bn_eval(self.out_bottle.conv, norm)
            self.final_bn = nn.Identity()


BUILDERS: dict[type[Operation], Callable[[Any, BatchNorm, Padding], nn.Module]] = {
    NormAct: NormActLayer,
    PreConv: PreConvLayer,
    Separable: SeparableLayer,
    MaxPool: max_pool,
    AvgPool: avg_pool,
    Identity: lambda op, bn, padding: nn.Identity(),
    TreeBlock: TreeBlockLayer,
}
"""The layer of an operation, by its class."""
