"""How tree-structured cells are lowered: the primitives they need besides those of graphs.py, and their branches.

Batch normalization in front of an activation is not folded into anything: it is a scale and a shift for each channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardware.profile.graphs import Addition, LiteRtFile, Node, OnnxFile, Trace, lowering
from proxyless_arch.arch.ops import Hwc, strided
from proxyless_arch.arch.preact import AvgPool, Identity, MaxPool, NormAct, PreConv, Separable, TreeEdge
from proxyless_arch.arch.tree import TreeBlock, TreeNode

# Primitive operations -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Normalization(Node):
    """``x * weight + bias`` by channel and, perhaps, ReLU; the output is as large as the input."""

    relu: bool

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        width = self.out_hwc[2]
        zero, one = (file.constant(f"{value}x{width}", np.full(width, value, np.float32)) for value in (0, 1))
        raw = f"{output}.bn" if self.relu else output
        weights = file.weights(self.name, (width,))
        file.operator("BatchNormalization", [*inputs, *weights, zero, one], raw, self.name, epsilon=0.0)
        if self.relu:
            file.operator("Relu", [raw], output, f"{self.name}.relu")

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        kinds = file.schema.ActivationFunctionType
        weight, bias = file.weights(self.name, (self.out_hwc[2],))
        scaled = file.value(f"{self.name}.scaled", self.out_hwc)
        file.operator("MUL", [*inputs, weight], scaled, "MulOptions", fusedActivationFunction=kinds.NONE)
        last = kinds.RELU if self.relu else kinds.NONE
        file.operator("ADD", [scaled, bias], output, "AddOptions", fusedActivationFunction=last)


@dataclass(frozen=True, kw_only=True)
class Pooling(Node):
    """The largest or the mean of the pixels in a window, as far as they are inside the image."""

    kind: Literal["max", "mean"]
    kernel: int
    stride: int = 1

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        kind = "MaxPool" if self.kind == "max" else "AveragePool"
        border = self.kernel // 2 if self.stride == 1 else 0
        file.operator(
            kind, inputs, output, self.name, kernel_shape=[self.kernel] * 2, strides=[self.stride] * 2,
            pads=[border] * 4, ceil_mode=int(self.stride > 1),
        )  # fmt: skip

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        file.operator(
            "MAX_POOL_2D" if self.kind == "max" else "AVERAGE_POOL_2D", inputs, output, "Pool2DOptions",
            padding=file.schema.Padding.SAME, strideW=self.stride, strideH=self.stride, filterWidth=self.kernel,
            filterHeight=self.kernel, fusedActivationFunction=file.activation(False),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Channels(Node):
    """Some of the channels, from ``start`` on."""

    start: int

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        bounds = [self.start, self.start + self.out_hwc[2], 1]
        starts, ends, axes = (file.constant(f"number{value}", np.array([value], np.int64)) for value in bounds)
        file.operator("Slice", [*inputs, starts, ends, axes], output, self.name)

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        begin = file.constant(f"{self.name}.begin", np.array([0, 0, 0, self.start], np.int32))
        size = file.constant(f"{self.name}.size", np.array([-1, *self.out_hwc], np.int32))
        file.operator("SLICE", [*inputs, begin, size], output, "SliceOptions")


@dataclass(frozen=True, kw_only=True)
class Shuffle(Node):
    """The first channel of every group, then the second of every group, and so on."""

    groups: int

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        rows, columns, width = self.out_hwc
        split, joined = [0, self.groups, width // self.groups, rows, columns], [0, width, rows, columns]
        shapes = [file.constant("x".join(map(str, shape)), np.array(shape, np.int64)) for shape in (split, joined)]
        apart, turned = f"{output}.apart", f"{output}.turned"
        file.operator("Reshape", [*inputs, shapes[0]], apart, f"{self.name}.apart")
        file.operator("Transpose", [apart], turned, f"{self.name}.turned", perm=[0, 2, 1, 3, 4])
        file.operator("Reshape", [turned, shapes[1]], output, self.name)

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        order = np.arange(self.out_hwc[2], dtype=np.int32).reshape(self.groups, -1).T.ravel()
        file.operator("GATHER", [*inputs, file.constant(f"{self.name}.order", order)], output, "GatherOptions", axis=3)


@dataclass(frozen=True, kw_only=True)
class Concatenation(Node):
    """The channels of all values, one behind the other."""

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        file.operator("Concat", inputs, output, self.name, axis=1)

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        none = file.activation(False)
        file.operator("CONCATENATION", inputs, output, "ConcatenationOptions", axis=3, fusedActivationFunction=none)


@dataclass(frozen=True, kw_only=True)
class Widening(Node):
    """The value with ``added`` channels of zeros behind its own."""

    added: int

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        amounts = file.constant(f"widening{self.added}", np.array([0] * 5 + [self.added, 0, 0], np.int64))
        file.operator("Pad", [*inputs, amounts], output, self.name)

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        amounts = np.array([[0, 0], [0, 0], [0, 0], [0, self.added]], np.int32)
        file.operator("PAD", [*inputs, file.constant(f"{self.name}.amounts", amounts)], output, "PadOptions")


# Lowering -----------------------------------------------------------------------------------------------------------


def _norm(trace: Trace, name: str, value: int, relu: bool) -> int:
    return trace.add(Normalization(name=name, inputs=(value,), out_hwc=trace.size(value), relu=relu))


def _edge(trace: Trace, name: str, op: TreeEdge, value: int) -> int:
    """The value that an edge makes of another."""
    match op:
        case PreConv():
            out = _norm(trace, f"{name}.bn", value, op.activated)
            size, stride = op.kernel_size, op.stride
            out = trace.conv(f"{name}.conv", op.out_channels, size, stride, op.groups, relu6=False, of=out)
            if op.groups == 1:
                return out
            shuffle = Shuffle(name=f"{name}.shuffle", inputs=(out,), out_hwc=trace.size(out), groups=op.groups)
            return trace.add(shuffle)
        case Separable():
            out, width = _norm(trace, f"{name}.bn", value, True), op.in_channels
            size, stride, dilation = op.kernel_size, op.stride, op.dilation
            deep = f"{name}.depth_conv"
            out = trace.conv(deep, width, size, stride, width, relu6=False, dilation=dilation, of=out)
            return trace.conv(f"{name}.point_conv", op.out_channels, relu6=False, of=out)
        case MaxPool() | AvgPool():
            kind: Literal["max", "mean"] = "max" if isinstance(op, MaxPool) else "mean"
            pool = Pooling(name=name, inputs=(value,), out_hwc=trace.size(value), kind=kind, kernel=op.kernel_size)
            return trace.add(pool)
        case Identity():
            return value
    raise KeyError(type(op))


def _lower_edge(trace: Trace, name: str, op: TreeEdge) -> None:
    _edge(trace, name, op, trace.last[0])


for kind in (PreConv, Separable, MaxPool, AvgPool, Identity):
    lowering(kind)(_lower_edge)


@lowering(NormAct)
def _lower_norm_act(trace: Trace, name: str, op: NormAct) -> None:
    _norm(trace, f"{name}.bn", trace.last[0], relu=True)


def _inputs(trace: Trace, name: str, node: TreeNode, value: int) -> list[int]:
    """What each branch of a node is given."""
    count, width = len(node.branches), node.branch_width
    if node.allocation == "copy" or count == 1:
        return [value] * count
    size: Hwc = (*trace.size(value)[:2], width)
    return [
        trace.add(Channels(name=f"{name}.part{index}", inputs=(value,), out_hwc=size, start=index * width))
        for index in range(count)
    ]


def _node(trace: Trace, name: str, node: TreeNode, value: int) -> int:
    outputs = []
    given = _inputs(trace, name, node, value)
    for index, (branch, each) in enumerate(zip(node.branches, given, strict=True)):
        first = out = _edge(trace, f"{name}.edges.{index}", branch.edge, each)
        if branch.child is not None:
            out = _node(trace, f"{name}.child_nodes.{index}", branch.child, first)
        if node.branch_bn:
            out = _norm(trace, f"{name}.branch_bns.{index}", out, relu=False)
            out = _sum(trace, f"{name}.branch{index}", [out, first])
        outputs.append(out)
    if node.merge == "add" or len(outputs) == 1:
        return _sum(trace, f"{name}.sum", outputs)
    size: Hwc = (*trace.size(outputs[0])[:2], node.out_channels)
    return trace.add(Concatenation(name=f"{name}.joined", inputs=tuple(outputs), out_hwc=size))


def _sum(trace: Trace, name: str, values: list[int]) -> int:
    total, *others = values
    for index, value in enumerate(others):
        total = trace.add(Addition(name=f"{name}.{index}", inputs=(total, value), out_hwc=trace.size(total)))
    return total


def _shortcut(trace: Trace, name: str, op: TreeBlock, value: int) -> int:
    rows, columns, width = trace.size(value)
    if op.stride == 2:
        size: Hwc = (strided(rows, 2), strided(columns, 2), width)
        pool = Pooling(name=f"{name}.pool", inputs=(value,), out_hwc=size, kind="mean", kernel=2, stride=2)
        value = trace.add(pool)
    if (added := op.out_channels - width) == 0:
        return value
    size = (*trace.size(value)[:2], op.out_channels)
    return trace.add(Widening(name=f"{name}.widened", inputs=(value,), out_hwc=size, added=added))


@lowering(TreeBlock)
def _lower_tree(trace: Trace, name: str, op: TreeBlock) -> None:
    (start,) = trace.last
    out = _edge(trace, f"{name}.in_bottle", op.in_bottle, start)
    out = _node(trace, f"{name}.cell", op.cell, out)
    out = _edge(trace, f"{name}.out_bottle", op.out_bottle, out)  # holds the batch normalization behind it
    _sum(trace, f"{name}.total", [out, _shortcut(trace, name, op, start)])
