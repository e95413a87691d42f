"""LiteRT files whose layers have formats of their own, written by ai-edge-quantizer from the float32 file.

A layer is float32; W8A8, computed in integers; W8 or W4, unpacked to float32 each time it runs; or W4A8, unpacked to
W8A8 where it is a convolution. 4-bit weights are storage: XNNPACK has no convolution for them, and a depthwise one may
not even be stored so. The ranges of activations are the least and greatest values on the calibration images, which is
what TensorFlow's own converter takes (the moving averages of ai-edge-quantizer lose eight points of a small network).
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.arch.bits import Format, bit_layers
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.quiet import captured_stderr
from proxyless_arch.exports.bit_files import Formats, float_sums

LAST_LAYER = "classifier.linear"
POOL = "global_pool"
FLOAT_OP, INT_OP = Format(), Format(8, 8)


def to_mixed(content: bytes, spec: ArchSpec, formats: Formats, calibration: np.ndarray | None) -> bytes:
    """A LiteRT flatbuffer with layers in ``formats``.

    Args:
        content: the float32 file of the network, as export.to_litert makes it.
        spec: of the network.
        formats: of each layer, as bit_files.file_formats gives them.
        calibration: float32 (N, H, W, 3) images, whose activations set the ranges; None where weights alone have few
            bits (bit_files.needs_ranges).

    Raises InputError for what ai-edge-quantizer refuses.
    """
    from ai_edge_quantizer import quantizer as writer

    with _silence():
        made = writer.Quantizer(content)
        for operation in operations(content):
            _add(made, operation, _format_of(operation, spec, formats))
        ranges = ranges_of(content, calibration) if made.need_calibration and calibration is not None else None
        try:
            return bytes(made.quantize(ranges).quantized_model)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"ai-edge-quantizer refuses it: {error}", "litert_mixed") from None


class Operation(NamedTuple):
    """An operation of a LiteRT file: its kind, the layer of the zoo that it begins with, and its output's name."""

    kind: str
    layer: str
    output: str


def operations(content: bytes) -> list[Operation]:
    """All of them, in order. The last one is called by the network's output."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    found = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        output = graph.Tensors(operator.Outputs(0)).Name().decode()
        match = re.match(r"[^/;]+/([^/;]+?)(_\d+)?/", output)
        layer = LAST_LAYER if operator.Outputs(0) == graph.Outputs(0) or match is None else match[1]
        found.append(Operation(kinds[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()], layer, output))
    return found


def _format_of(operation: Operation, spec: ArchSpec, formats: Formats) -> Format:
    """Of a layer as planned; sums, padding and the pool have that of what they take in."""
    named = next((name for name in formats if operation.layer == name or operation.layer.startswith(f"{name}.")), None)
    if operation.kind == "ADD":
        blocks = {layer.call.name for layer in bit_layers(spec)}
        assert operation.layer in blocks, operation.layer
        return FLOAT_OP if operation.layer in float_sums(spec, formats) else INT_OP
    if operation.layer == POOL:
        named = LAST_LAYER
    assert named is not None, operation.layer
    format = formats[named]
    if operation.kind in ("PAD", "PADV2", "MEAN"):
        return FLOAT_OP if format.activation_bits is None else INT_OP
    return format


def _add(made: Any, operation: Operation, format: Format) -> None:
    """Tell the quantizer what becomes of an operation."""
    if format.is_float:
        return
    scope = re.escape(operation.output)
    if format.activation_bits is None:
        made.add_weight_only_config(scope, operation.kind, num_bits=format.weight_bits)
    else:
        made.add_static_config(
            scope, operation.kind, activation_num_bits=format.activation_bits, weight_num_bits=format.weight_bits
        )


def ranges_of(content: bytes, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """By tensor the least and the greatest of its values on the images, as ai-edge-quantizer takes them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    tensors = [each for each in interpreter.get_tensor_details() if each["dtype"] == np.float32 and each["name"]]
    given = interpreter.get_input_details()[0]["index"]
    found: dict[str, tuple[float, float]] = {}
    ranks: dict[str, int] = {}
    for image in images:
        interpreter.set_tensor(given, image[None])
        interpreter.invoke()
        for tensor in tensors:
            values = _values(interpreter, tensor["index"])
            if values is not None:
                ranks[tensor["name"]] = values.ndim
                low, high = found.get(tensor["name"], (0.0, 0.0))
                found[tensor["name"]] = min(low, float(values.min())), max(high, float(values.max()))
    return {
        name: {"min": np.full([1] * ranks[name], low, np.float32), "max": np.full([1] * ranks[name], high, np.float32)}
        for name, (low, high) in found.items()
    }


def _values(interpreter: Any, index: int) -> np.ndarray | None:
    """Of a tensor; None of one that holds none."""
    try:
        values = interpreter.get_tensor(index)
    except ValueError:
        return None
    return values if values.size else None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with captured_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of keeping all tensors, which is what it is for
        yield
