"""Layers as files that a runtime can run: ONNX and LiteRT (.tflite), built directly, without torch or TensorFlow.

A network or a single operation is a sequence of LayerCalls. ``trace`` turns it into convolutions, additions, a mean
and a matrix product, with batch normalization already folded, as the zoos' export does; ``to_onnx`` and ``to_litert``
write that down. A file takes milliseconds, where a converter takes seconds, so that hundreds of them can be timed.
Latency does not depend on the values of weights: ``RandomWeights`` keeps activations in an ordinary range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from proxyless_arch.arch.ops import Conv, Hwc, Linear, MBConv, strided
from proxyless_arch.arch.spec import Padding
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError

Weights = Callable[[str, tuple[int, ...]], np.ndarray]  # (name as in the zoos' folded networks, shape) -> float32
ONNX_OPSET = 18
INPUT, OUTPUT = "images", "output"


@dataclass(frozen=True)
class Node:
    """One primitive operation on (height, width, channels); ``inputs`` are indices of earlier values, 0 the input.

    ``name``: of the weights, ``<name>.weight`` (out, in / groups, k, k) and ``<name>.bias``. ``pads``: pixels added
    at the top and left, and at the bottom and right.
    """

    kind: Literal["conv", "add", "mean", "linear"]
    name: str
    inputs: tuple[int, ...]
    out_hwc: Hwc
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    pads: tuple[int, int] = (0, 0)
    relu6: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes in order; value ``i + 1`` is the output of ``nodes[i]``, the last one the output of the graph."""

    in_hwc: Hwc
    nodes: tuple[Node, ...]

    def hwc(self, value: int) -> Hwc:
        return self.in_hwc if value == 0 else self.nodes[value - 1].out_hwc

    @property
    def out_hwc(self) -> Hwc:
        return self.hwc(len(self.nodes))


def _pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    if padding == "symmetric" or stride == 1:
        return kernel // 2, kernel // 2
    total = max((strided(size, stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def trace(calls: Sequence[LayerCall], padding: Padding = "symmetric") -> Graph:
    """The primitive operations of ``calls``, each applied to the output of the one before.

    Raises InputError when there is nothing to run, or a layer's input is not the output of the layer before it.
    """
    real = [call for call in calls if not call.op.vanishes]
    if not real:
        raise InputError("expected at least one layer that is not Zero", "layers")
    nodes: list[Node] = []

    def hwc() -> Hwc:
        return nodes[-1].out_hwc if nodes else real[0].in_hwc

    def conv(name: str, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu6: bool = True) -> None:
        height, length = hwc()[:2]
        out = (strided(height, stride), strided(length, stride), width)
        pads = _pads(height, kernel, stride, padding)
        nodes.append(Node("conv", name, (len(nodes),), out, kernel, stride, groups, pads, relu6))

    for call in real:
        if call.in_hwc != hwc():
            raise InputError(f"expected an input of {hwc()}, got {call.in_hwc}", call.name)
        start = len(nodes)
        match call.op:
            case Conv() as op:
                conv(f"{call.name}.conv", op.out_channels, op.kernel_size, op.stride)
            case MBConv() as op:
                inner, hidden = f"{call.name}.mobile_inverted_conv", op.hidden_channels
                if op.expand_ratio > 1:
                    conv(f"{inner}.inverted_bottleneck.conv", hidden)
                conv(f"{inner}.depth_conv.conv", hidden, op.kernel_size, op.stride, groups=hidden)
                conv(f"{inner}.point_linear.conv", op.out_channels, relu6=False)
                if call.skip:
                    nodes.append(Node("add", call.name, (start, len(nodes)), call.out_hwc))
            case Linear() as op:
                nodes.append(Node("mean", f"{call.name}.mean", (len(nodes),), (1, 1, op.in_features)))
                nodes.append(Node("linear", f"{call.name}.linear", (len(nodes),), (1, 1, op.out_features)))
    return Graph(real[0].in_hwc, tuple(nodes))


class RandomWeights:
    """He-scaled random weights, cut from one pool of normal numbers so that a network costs no time to fill."""

    def __init__(self, seed: int = 0, pool: int = 1 << 21) -> None:
        self._rng = np.random.default_rng(seed)
        self._pool = self._rng.standard_normal(pool, dtype=np.float32)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers of mean 0 and variance 1, perhaps a view of the pool."""
        count = math.prod(shape)
        if count > len(self._pool) // 2:
            return np.resize(self._pool, shape)
        start = int(self._rng.integers(len(self._pool) - count))
        return self._pool[start : start + count].reshape(shape)

    def __call__(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        fan_in = math.prod(shape[1:])
        return self.normal(shape) * np.float32(math.sqrt(2 / fan_in) if len(shape) > 1 else 0.1)


def _weight_shape(graph: Graph, node: Node) -> tuple[int, ...]:
    c_in, c_out = graph.hwc(node.inputs[0])[2], node.out_hwc[2]
    return (c_out, c_in) if node.kind == "linear" else (c_out, c_in // node.groups, node.kernel, node.kernel)


# ONNX ---------------------------------------------------------------------------------------------------------------


def to_onnx(graph: Graph, weights: Weights, batch_size: int = 1) -> bytes:
    """The graph as an ONNX file: (N, C, H, W) in, (N, C, H, W) or, with a classifier, (N, classes) out, float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    low_high = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("zero", 0), ("six", 6))]
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    constants, made = {"relu6": low_high, "mean": [axes]}, []
    used: set[str] = set()
    nodes = []
    names = [INPUT, *(f"value{index + 1}" for index in range(len(graph.nodes)))]
    names[-1] = OUTPUT
    for index, node in enumerate(graph.nodes):
        inputs, result = [names[value] for value in node.inputs], names[index + 1]
        if node.kind in ("conv", "linear"):
            shape = _weight_shape(graph, node)
            for part, part_shape in (("weight", shape), ("bias", shape[:1])):
                name = f"{node.name}.{part}"
                made.append(numpy_helper.from_array(np.ascontiguousarray(weights(name, part_shape)), name))
                inputs.append(name)
        match node.kind:
            case "conv":
                raw = f"{result}.conv" if node.relu6 else result
                (before, after), size = node.pads, node.kernel
                nodes.append(
                    helper.make_node(
                        "Conv", inputs, [raw], node.name, kernel_shape=[size, size], group=node.groups,
                        strides=[node.stride] * 2, pads=[before, before, after, after],
                    )
                )  # fmt: skip
                if node.relu6:
                    used.add("relu6")
                    nodes.append(helper.make_node("Clip", [raw, "zero", "six"], [result], f"{node.name}.relu6"))
            case "add":
                nodes.append(helper.make_node("Add", inputs, [result], f"{node.name}.add"))
            case "mean":
                used.add("mean")
                nodes.append(helper.make_node("ReduceMean", [*inputs, "axes"], [result], node.name, keepdims=0))
            case "linear":
                nodes.append(helper.make_node("Gemm", inputs, [result], node.name, transB=1))

    def described(name: str, hwc: Hwc, flat: bool) -> Any:
        shape = [batch_size, hwc[2]] if flat else [batch_size, hwc[2], *hwc[:2]]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    made += [constant for name in sorted(used) for constant in constants[name]]
    body = helper.make_graph(
        nodes,
        "layers",
        [described(INPUT, graph.in_hwc, False)],
        [described(OUTPUT, graph.out_hwc, graph.nodes[-1].kind in ("linear", "mean"))],
        made,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=9)
    assert isinstance(model, onnx.ModelProto)
    return model.SerializeToString()


# LiteRT -------------------------------------------------------------------------------------------------------------


def to_litert(graph: Graph, weights: Weights, batch_size: int = 1) -> bytes:
    """The graph as a .tflite file: (N, H, W, C) in, (N, H, W, C) or, with a classifier, (N, classes) out, float32.

    Stride-2 convolutions that pad both sides alike become PAD and an unpadded convolution, as the converter writes
    them for the Keras twin.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, sub = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "layers"
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    sub.tensors, sub.operators = [], []
    codes: dict[int, int] = {}

    def tensor(name: str, shape: Sequence[int], data: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape = name.encode(), list(shape)
        made.type = schema.TensorType.FLOAT32
        made.buffer = 0
        if data is not None:
            made.type = schema.TensorType.INT32 if data.dtype == np.int32 else schema.TensorType.FLOAT32
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(data).view(np.uint8).ravel()
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        sub.tensors.append(made)
        return len(sub.tensors) - 1

    def operator(code: int, kind: str | None, inputs: list[int], output: int, **options: Any) -> None:
        if code not in codes:
            made_code = schema.OperatorCodeT()
            made_code.builtinCode = code
            made_code.deprecatedBuiltinCode = code
            made_code.version = 1
            codes[code] = len(model.operatorCodes)
            model.operatorCodes.append(made_code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = codes[code], inputs, [output]
        if kind is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            for name, value in options.items():
                setattr(made.builtinOptions, name, value)
        sub.operators.append(made)

    def shape_of(hwc: Hwc, flat: bool) -> list[int]:
        return [batch_size, hwc[2]] if flat else [batch_size, *hwc]

    operators, act = schema.BuiltinOperator, schema.ActivationFunctionType
    values = [tensor(INPUT, shape_of(graph.in_hwc, False))]
    for index, node in enumerate(graph.nodes):
        inputs = [values[value] for value in node.inputs]
        last = index + 1 == len(graph.nodes)
        name = OUTPUT if last else f"value{index + 1}"
        fused = act.RELU6 if node.relu6 else act.NONE
        match node.kind:
            case "conv":
                size, (before, after) = node.kernel, node.pads
                shape = _weight_shape(graph, node)
                depthwise = node.groups > 1
                kernel = weights(f"{node.name}.weight", shape).transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
                bias = weights(f"{node.name}.bias", shape[:1])
                padding = schema.Padding.SAME
                source = graph.hwc(node.inputs[0])
                if (before, after) != _pads(source[0], size, node.stride, "same"):
                    padding = schema.Padding.VALID
                    padded = (source[0] + before + after, source[1] + before + after, source[2])
                    amounts = np.array([[0, 0], [before, after], [before, after], [0, 0]], np.int32)
                    grown = tensor(f"{node.name}.pad", shape_of(padded, False))
                    paddings = tensor(f"{node.name}.pads", (4, 2), amounts)
                    operator(operators.PAD, "PadOptions", [inputs[0], paddings], grown)
                    inputs = [grown]
                inputs += [
                    tensor(f"{node.name}.weight", kernel.shape, kernel),
                    tensor(f"{node.name}.bias", bias.shape, bias),
                ]
                options: dict[str, Any] = {
                    "padding": padding,
                    "strideH": node.stride,
                    "strideW": node.stride,
                    "dilationHFactor": 1,
                    "dilationWFactor": 1,
                    "fusedActivationFunction": fused,
                }
                values.append(tensor(name, shape_of(node.out_hwc, False)))
                if depthwise:
                    operator(operators.DEPTHWISE_CONV_2D, "DepthwiseConv2DOptions", inputs, values[-1],
                             depthMultiplier=1, **options)  # fmt: skip
                else:
                    operator(operators.CONV_2D, "Conv2DOptions", inputs, values[-1], **options)
            case "add":
                values.append(tensor(name, shape_of(node.out_hwc, False)))
                operator(operators.ADD, "AddOptions", inputs, values[-1], fusedActivationFunction=fused)
            case "mean":
                axes = tensor(f"{node.name}.axes", (2,), np.array([1, 2], np.int32))
                values.append(tensor(name, shape_of(node.out_hwc, True)))
                operator(operators.MEAN, "ReducerOptions", [*inputs, axes], values[-1], keepDims=False)
            case "linear":
                shape = _weight_shape(graph, node)
                inputs += [
                    tensor(f"{node.name}.weight", shape, weights(f"{node.name}.weight", shape)),
                    tensor(f"{node.name}.bias", shape[:1], weights(f"{node.name}.bias", shape[:1])),
                ]
                values.append(tensor(name, shape_of(node.out_hwc, True)))
                operator(operators.FULLY_CONNECTED, "FullyConnectedOptions", inputs, values[-1],
                         fusedActivationFunction=fused)  # fmt: skip
    sub.inputs, sub.outputs = [values[0]], [values[-1]]
    model.subgraphs = [sub]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
