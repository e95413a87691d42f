"""Layers as files that a runtime can run: ONNX and LiteRT (.tflite), built directly, without torch or TensorFlow.

A network or a single operation is a sequence of LayerCalls. ``trace`` lowers it to primitive operations, with batch
normalization already folded, as the zoos' export does: how an operation is lowered is registered by its class
(``lowering``), and a primitive knows how to write itself to a file of either kind. A file takes milliseconds, where a
converter takes seconds, so that hundreds of them can be timed. Latency does not depend on the values of weights:
``RandomWeights`` keeps activations in an ordinary range.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from proxyless_arch.arch.ops import Conv, Hwc, Linear, MBConv, Operation, strided
from proxyless_arch.arch.preact import ConvNorm
from proxyless_arch.arch.spec import Padding
from proxyless_arch.arch.uib import UIB, ConvReLU, PooledConv
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.streams import Stream, numpy_rng

Weights = Callable[[str, tuple[int, ...]], np.ndarray]  # (name as in the zoos' folded networks, shape) -> float32
ONNX_OPSET = 18
VALUE_SCALE, VALUE_ZERO, WEIGHT_SCALE = 6 / 255, -128, 0.01
"""Of int8 files: values are 0..6, as behind a ReLU6, which is then no operation of its own."""
INPUT, OUTPUT = "images", "output"


# Primitive operations -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Node(ABC):
    """One primitive operation on (height, width, channels); ``inputs`` are indices of earlier values, 0 the input.

    ``name``: of its weights, ``<name>.weight`` and ``<name>.bias``, and of what is made for it.
    """

    name: str
    inputs: tuple[int, ...]
    out_hwc: Hwc

    @property
    def is_flat(self) -> bool:
        """Whether its output is (N, channels), without height and width."""
        return False

    @property
    def takes_flat(self) -> bool:
        """Whether its input is."""
        return False

    @abstractmethod
    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        """Write it into ``file``."""

    @abstractmethod
    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        """Write it into ``file``."""


@dataclass(frozen=True, kw_only=True)
class Convolution(Node):
    """Convolution with bias and, perhaps, ReLU6 or ReLU. ``pads``: pixels added at the top and left, at the bottom and
    right.

    Weights (out, in / groups, k, k). With as many groups as channels it is a depthwise convolution.
    """

    in_hwc: Hwc
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    pads: tuple[int, int] = (0, 0)
    relu6: bool = False
    relu: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.out_hwc[2], self.in_hwc[2] // self.groups, self.kernel, self.kernel

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        raw = f"{output}.conv" if self.relu6 or self.relu else output
        before, after = self.pads
        file.operator(
            "Conv", [*inputs, *file.weights(self.name, self.weight_shape)], raw, self.name, group=self.groups,
            kernel_shape=[self.kernel] * 2, strides=[self.stride] * 2, pads=[before, before, after, after],
            dilations=[self.dilation] * 2,
        )  # fmt: skip
        if self.relu6:
            limits = [file.constant(name, np.float32(value)) for name, value in (("zero", 0), ("six", 6))]
            file.operator("Clip", [raw, *limits], output, f"{self.name}.relu6")
        if self.relu:
            file.operator("Relu", [raw], output, f"{self.name}.relu")

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        depthwise, padding = 1 < self.groups == self.in_hwc[2], file.schema.Padding.SAME
        if self.pads != pads(self.in_hwc[0], self.kernel, self.stride, "same", self.dilation):
            padding = file.schema.Padding.VALID
            inputs = [self._padded(file, inputs[0])]
        axes = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        inputs = [*inputs, *file.weights(self.name, self.weight_shape, axes)]
        file.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, output,
            "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
            padding=padding, strideH=self.stride, strideW=self.stride,
            dilationHFactor=self.dilation, dilationWFactor=self.dilation,
            fusedActivationFunction=file.activation(self.relu6, self.relu),
            **({"depthMultiplier": 1} if depthwise else {}),
        )  # fmt: skip

    def _padded(self, file: LiteRtFile, value: int) -> int:
        """The value with a border of zeros."""
        before, after = self.pads
        height, width, channels = self.in_hwc
        amounts = np.array([[0, 0], [before, after], [before, after], [0, 0]], np.int32)
        grown = file.value(f"{self.name}.pad", (height + before + after, width + before + after, channels))
        file.operator("PAD", [value, file.constant(f"{self.name}.pads", amounts)], grown, "PadOptions")
        return grown


@dataclass(frozen=True, kw_only=True)
class Addition(Node):
    """The sum of two values of one size."""

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        file.operator("Add", inputs, output, f"{self.name}.add")

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        file.operator("ADD", inputs, output, "AddOptions", fusedActivationFunction=file.activation(False))


@dataclass(frozen=True, kw_only=True)
class PixelMean(Node):
    """The mean over all pixels. ``keeps_axes``: height and width stay, as 1."""

    keeps_axes: bool = False

    @property
    def is_flat(self) -> bool:
        return not self.keeps_axes

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        axes = file.constant("axes", np.array([2, 3], np.int64))
        file.operator("ReduceMean", [*inputs, axes], output, self.name, keepdims=int(self.keeps_axes))

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        axes = file.constant(f"{self.name}.axes", np.array([1, 2], np.int32))
        file.operator("MEAN", [*inputs, axes], output, "ReducerOptions", keepDims=self.keeps_axes)


@dataclass(frozen=True, kw_only=True)
class MatrixProduct(Node):
    """A matrix product with bias; weights (out, in)."""

    in_features: int

    @property
    def is_flat(self) -> bool:
        return True

    @property
    def takes_flat(self) -> bool:
        return True

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.out_hwc[2], self.in_features

    def to_onnx(self, file: OnnxFile, inputs: list[str], output: str) -> None:
        file.operator("Gemm", [*inputs, *file.weights(self.name, self.weight_shape)], output, self.name, transB=1)

    def to_litert(self, file: LiteRtFile, inputs: list[int], output: int) -> None:
        inputs = [*inputs, *file.weights(self.name, self.weight_shape)]
        file.operator(
            "FULLY_CONNECTED", inputs, output, "FullyConnectedOptions", fusedActivationFunction=file.activation(False)
        )


@dataclass(frozen=True)
class Graph:
    """Nodes in order; value ``i + 1`` is the output of ``nodes[i]``, the last one the output of the graph."""

    in_hwc: Hwc
    nodes: tuple[Node, ...]

    @property
    def out_hwc(self) -> Hwc:
        return self.nodes[-1].out_hwc


# Lowering -----------------------------------------------------------------------------------------------------------


def pads(size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1) -> tuple[int, int]:
    """Pixels in front and behind."""
    if padding == "symmetric" or stride == 1:
        return dilation * (kernel // 2), dilation * (kernel // 2)
    total = max((strided(size, stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Trace:
    """The primitive operations so far; each is applied to the output of the one before."""

    def __init__(self, in_hwc: Hwc, padding: Padding) -> None:
        self.in_hwc, self.padding = in_hwc, padding
        self.nodes: list[Node] = []

    @property
    def hwc(self) -> Hwc:
        """The size of the last value."""
        return self.nodes[-1].out_hwc if self.nodes else self.in_hwc

    @property
    def last(self) -> tuple[int]:
        """The last value, as the inputs of the next node."""
        return (len(self.nodes),)

    def size(self, value: int) -> Hwc:
        """The size of a value; 0 is the input."""
        return self.nodes[value - 1].out_hwc if value else self.in_hwc

    def add(self, node: Node) -> int:
        """The value that ``node`` makes."""
        self.nodes.append(node)
        return len(self.nodes)

    def conv(
        self,
        name: str,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
        *,
        relu: bool = False,
        dilation: int = 1,
        of: int | None = None,
    ) -> int:
        """A convolution of the last value, or ``of`` another, with ReLU6 behind it, ReLU, or neither."""
        value = self.last[0] if of is None else of
        height, length, _ = self.size(value)
        return self.add(
            Convolution(
                name=name,
                inputs=(value,),
                in_hwc=self.size(value),
                out_hwc=(strided(height, stride), strided(length, stride), width),
                kernel=kernel,
                stride=stride,
                groups=groups,
                dilation=dilation,
                pads=pads(height, kernel, stride, self.padding, dilation),
                relu6=relu6 and not relu,
                relu=relu,
            )
        )


Op = TypeVar("Op", bound=Operation)
LOWERINGS: dict[type[Operation], Callable[[Trace, str, Any], None]] = {}
"""How an operation is lowered, by its class: (trace, name of its tensors, operation)."""


def lowering(kind: type[Op]) -> Callable[[Callable[[Trace, str, Op], None]], Callable[[Trace, str, Op], None]]:
    """Register how operations of a class are lowered; their skip is added by ``trace``."""

    def register(lower: Callable[[Trace, str, Op], None]) -> Callable[[Trace, str, Op], None]:
        LOWERINGS[kind] = lower
        return lower

    return register


@lowering(Conv)
def _lower_conv(trace: Trace, name: str, op: Conv) -> None:
    trace.conv(f"{name}.conv", op.out_channels, op.kernel_size, op.stride)


@lowering(ConvNorm)
def _lower_conv_norm(trace: Trace, name: str, op: ConvNorm) -> None:
    trace.conv(f"{name}.conv", op.out_channels, op.kernel_size, op.stride, relu6=False)


@lowering(ConvReLU)
def _lower_conv_relu(trace: Trace, name: str, op: ConvReLU) -> None:
    trace.conv(f"{name}.conv", op.out_channels, op.kernel_size, op.stride, relu=True)


@lowering(PooledConv)
def _lower_pooled_conv(trace: Trace, name: str, op: PooledConv) -> None:
    trace.add(PixelMean(name=f"{name}.mean", inputs=trace.last, out_hwc=(1, 1, op.in_channels), keeps_axes=True))
    trace.conv(f"{name}.conv", op.out_channels, relu=True)


@lowering(UIB)
def _lower_uib(trace: Trace, name: str, op: UIB) -> None:
    width, hidden = op.in_channels, op.hidden_channels
    if op.start_kernel_size:
        trace.conv(f"{name}.start_conv.conv", width, op.start_kernel_size, op.start_stride, groups=width, relu6=False)
    trace.conv(f"{name}.inverted_bottleneck.conv", hidden, relu=True)
    if op.kernel_size:
        trace.conv(f"{name}.depth_conv.conv", hidden, op.kernel_size, op.stride, groups=hidden, relu=True)
    trace.conv(f"{name}.point_linear.conv", op.out_channels, relu6=False)


@lowering(MBConv)
def _lower_mbconv(trace: Trace, name: str, op: MBConv) -> None:
    hidden = op.hidden_channels
    if op.expands:
        trace.conv(f"{name}.inverted_bottleneck.conv", hidden)
    trace.conv(f"{name}.depth_conv.conv", hidden, op.kernel_size, op.stride, groups=hidden)
    trace.conv(f"{name}.point_linear.conv", op.out_channels, relu6=False)


@lowering(Linear)
def _lower_linear(trace: Trace, name: str, op: Linear) -> None:
    trace.nodes.append(PixelMean(name=f"{name}.mean", inputs=trace.last, out_hwc=(1, 1, op.in_features)))
    flat = MatrixProduct(
        name=f"{name}.linear", inputs=trace.last, out_hwc=(1, 1, op.out_features), in_features=op.in_features
    )
    trace.nodes.append(flat)


def trace(calls: Sequence[LayerCall], padding: Padding = "symmetric") -> Graph:
    """The primitive operations of ``calls``, each applied to the output of the one before.

    Raises InputError when there is nothing to run, or a layer's input is not the output of the layer before it.
    """
    real = [call for call in calls if not call.op.vanishes]
    if not real:
        raise InputError("expected at least one layer that is not skipped", "layers")
    traced = Trace(real[0].in_hwc, padding)
    for call in real:
        if call.in_hwc != traced.hwc:
            raise InputError(f"expected an input of {traced.hwc}, got {call.in_hwc}", call.name)
        (start,) = traced.last
        LOWERINGS[type(call.op)](traced, call.tensor_prefix, call.op)
        if call.skip:
            traced.nodes.append(Addition(name=call.name, inputs=(start, *traced.last), out_hwc=call.out_hwc))
    return Graph(traced.in_hwc, tuple(traced.nodes))


class RandomWeights:
    """He-scaled random weights, cut from one pool of normal numbers so that a network costs no time to fill."""

    def __init__(self, seed: int = 0, pool: int = 1 << 21) -> None:
        self._rng = numpy_rng(seed, Stream.TIMED_WEIGHTS)
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


# ONNX ---------------------------------------------------------------------------------------------------------------


class OnnxFile:
    """What is written to an ONNX file."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def weights(self, name: str, shape: tuple[int, ...]) -> list[str]:
        """``<name>.weight`` and ``<name>.bias``, one number per output."""
        return [
            self.constant(f"{name}.{part}", self._weights(f"{name}.{part}", part_shape))
            for part, part_shape in (("weight", shape), ("bias", shape[:1]))
        ]

    def constant(self, name: str, value: Any) -> str:
        """The name of a constant, which is written once."""
        from onnx import numpy_helper

        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def operator(self, kind: str, inputs: list[str], output: str, name: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name, **attributes))


class Int8OnnxFile(OnnxFile):
    """As OnnxFile, for W8A8: every value is quantized and dequantized, weights have a scale per output channel.

    onnxruntime makes integer operators of what lies between.
    """

    def weights(self, name: str, shape: tuple[int, ...]) -> list[str]:
        weight = np.clip(np.rint(self._weights(f"{name}.weight", shape) / WEIGHT_SCALE), -127, 127).astype(np.int8)
        scale = self.constant(f"{name}.scale", np.full(shape[0], WEIGHT_SCALE, np.float32))
        zero = self.constant(f"{name}.zero", np.zeros(shape[0], np.int8))
        inputs = [self.constant(f"{name}.weight", weight), scale, zero]
        super().operator("DequantizeLinear", inputs, f"{name}.float", f"{name}.dequantize", axis=0)
        bias_scale = self.constant(f"{name}.bias_scale", np.full(shape[0], VALUE_SCALE * WEIGHT_SCALE, np.float32))
        bias_zero = self.constant(f"{name}.bias_zero", np.zeros(shape[0], np.int32))
        bias = [self.constant(f"{name}.bias", np.zeros(shape[0], np.int32)), bias_scale, bias_zero]
        super().operator("DequantizeLinear", bias, f"{name}.bias_float", f"{name}.bias_dequantize", axis=0)
        return [f"{name}.float", f"{name}.bias_float"]

    def operator(self, kind: str, inputs: list[str], output: str, name: str, **attributes: Any) -> None:
        """With its first input dequantized and, of the last one, its output quantized."""
        if kind == "Clip":  # what is quantized behind it
            super().operator(kind, inputs, f"{output}.float", name, **attributes)
            self._quantize(f"{output}.float", output)
            return
        first = f"{name}.in"
        super().operator("DequantizeLinear", [inputs[0], *self._scale()], first, f"{name}.dequantize_in")
        is_raw = output.endswith(".conv")
        super().operator(kind, [first, *inputs[1:]], output if is_raw else f"{output}.float", name, **attributes)
        if not is_raw:
            self._quantize(f"{output}.float", output)

    def _scale(self) -> list[str]:
        scale = self.constant("value_scale", np.array(VALUE_SCALE, np.float32))
        return [scale, self.constant("value_zero", np.array(VALUE_ZERO, np.int8))]

    def _quantize(self, value: str, output: str) -> None:
        super().operator("QuantizeLinear", [value, *self._scale()], output, f"{output}.quantize")


def to_onnx(graph: Graph, weights: Weights, batch_size: int = 1, *, integer: bool = False) -> bytes:
    """The graph as an ONNX file: (N, C, H, W) in, (N, C, H, W) or, with a classifier, (N, classes) out, float32.

    With ``integer`` it is one convolution or matrix product in W8A8, its input and output int8.
    """
    from onnx import TensorProto, helper

    def described(name: str, hwc: Hwc, flat: bool) -> Any:
        shape = [batch_size, hwc[2]] if flat else [batch_size, hwc[2], *hwc[:2]]
        return helper.make_tensor_value_info(name, TensorProto.INT8 if integer else TensorProto.FLOAT, shape)

    file = (Int8OnnxFile if integer else OnnxFile)(weights)
    names = [INPUT, *(f"value{index}" for index in range(1, len(graph.nodes))), OUTPUT]
    for node, output in zip(graph.nodes, names[1:], strict=True):
        node.to_onnx(file, [names[value] for value in node.inputs], output)
    body = helper.make_graph(
        file.nodes,
        "layers",
        [described(INPUT, graph.in_hwc, graph.nodes[0].takes_flat)],
        [described(OUTPUT, graph.out_hwc, graph.nodes[-1].is_flat)],
        list(file.initializers.values()),
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=9)
    return model.SerializeToString()


# LiteRT -------------------------------------------------------------------------------------------------------------


class LiteRtFile:
    """What is written to a .tflite file; values and constants are known by their index."""

    def __init__(self, weights: Weights, batch_size: int) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self._weights, self._batch_size = weights, batch_size
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.description = 3, "layers"
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self._codes: dict[int, int] = {}

    def activation(self, relu6: bool, relu: bool = False) -> int:
        """The activation function that an operator ends with."""
        kinds = self.schema.ActivationFunctionType
        return kinds.RELU6 if relu6 else kinds.RELU if relu else kinds.NONE

    def value(self, name: str, hwc: Hwc, flat: bool = False) -> int:
        """A float32 value that is computed."""
        return self._tensor(name, [self._batch_size, hwc[2]] if flat else [self._batch_size, *hwc])

    def weights(self, name: str, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> list[int]:
        """``<name>.weight``, its axes in another order, and ``<name>.bias``, one number per output."""
        weight = self._weights(f"{name}.weight", shape)
        bias = self._weights(f"{name}.bias", shape[:1])
        return [
            self.constant(f"{name}.weight", weight.transpose(axes) if axes is not None else weight),
            self.constant(f"{name}.bias", bias),
        ]

    def constant(self, name: str, data: np.ndarray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.ascontiguousarray(data).view(np.uint8).ravel()
        self.model.buffers.append(buffer)
        return self._tensor(name, data.shape, data.dtype == np.int32, len(self.model.buffers) - 1)

    def _tensor(self, name: str, shape: Sequence[int], is_int: bool = False, buffer: int = 0) -> int:
        kinds, made = self.schema.TensorType, self.schema.TensorT()
        made.name, made.shape, made.buffer = name.encode(), list(shape), buffer
        made.type = kinds.INT32 if is_int else kinds.FLOAT32
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: list[int], output: int, options: str | None = None, **values: Any) -> None:
        """An operator by its name in BuiltinOperator, and the values of its ``options`` table."""
        made = self.schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self._code(kind), inputs, [output]
        if options is not None:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
            for name, value in values.items():
                setattr(made.builtinOptions, name, value)
        self.graph.operators.append(made)

    def _code(self, kind: str) -> int:
        code = getattr(self.schema.BuiltinOperator, kind)
        if code not in self._codes:
            made = self.schema.OperatorCodeT()
            made.builtinCode = made.deprecatedBuiltinCode = code
            made.version = 1
            self._codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(made)
        return self._codes[code]


class Int8LiteRtFile(LiteRtFile):
    """As LiteRtFile, for W8A8: int8 values of one scale, int8 weights of one scale per output channel, int32 biases."""

    def weights(self, name: str, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> list[int]:
        weight = np.clip(np.rint(self._weights(f"{name}.weight", shape) / WEIGHT_SCALE), -127, 127).astype(np.int8)
        scales, axis = [WEIGHT_SCALE] * shape[0], 0 if axes is None else axes.index(0)
        found = [self.constant(f"{name}.weight", weight.transpose(axes) if axes is not None else weight)]
        self._scaled(found[0], scales, 0, axis)
        found.append(self.constant(f"{name}.bias", np.zeros(shape[0], np.int32)))
        self._scaled(found[1], [VALUE_SCALE * scale for scale in scales], 0, 0)
        return found

    def _scaled(self, tensor: int, scales: Sequence[float], zero: int, axis: int) -> None:
        made = self.schema.QuantizationParametersT()
        made.scale, made.zeroPoint, made.quantizedDimension = list(scales), [zero] * len(scales), axis
        self.graph.tensors[tensor].quantization = made

    def _tensor(self, name: str, shape: Sequence[int], is_int: bool = False, buffer: int = 0) -> int:
        made = super()._tensor(name, shape, is_int, buffer)
        if not is_int:
            self.graph.tensors[made].type = self.schema.TensorType.INT8
            self._scaled(made, [VALUE_SCALE], VALUE_ZERO, 0)
        return made


def to_litert(graph: Graph, weights: Weights, batch_size: int = 1, *, integer: bool = False) -> bytes:
    """The graph as a .tflite file: (N, H, W, C) in, (N, H, W, C) or, with a classifier, (N, classes) out, float32.

    Stride-2 convolutions that pad both sides alike become PAD and an unpadded convolution, as the converter writes
    them for the Keras twin. With ``integer`` all of it is W8A8, images and output int8.
    """
    import flatbuffers

    file = (Int8LiteRtFile if integer else LiteRtFile)(weights, batch_size)
    values = [file.value(INPUT, graph.in_hwc)]
    for number, node in enumerate(graph.nodes, start=1):
        name = OUTPUT if number == len(graph.nodes) else f"value{number}"
        inputs = [values[value] for value in node.inputs]
        values.append(file.value(name, node.out_hwc, node.is_flat))
        node.to_litert(file, inputs, values[-1])
    file.graph.inputs, file.graph.outputs = [values[0]], [values[-1]]
    file.model.subgraphs = [file.graph]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
