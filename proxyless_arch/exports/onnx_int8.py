"""A float ONNX file with some layers in int8, by QDQ pairs: what onnxruntime computes in integers.

Weights are int8 with a scale per output channel; activations int8, in the ranges that calibration images give. Around a
float32 layer stand no pairs, so onnxruntime computes it as before.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.arch.bits import bit_layers
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.exports.bit_files import Formats, float_sums
from proxyless_arch.exports.onnx_file import INPUT

LAYERS, SUMS = ("Conv", "Gemm", "MatMul"), ("Add",)
POOLS = ("GlobalAveragePool", "Clip", "Relu")
"""Operations that pass integers on where they stand between two integer layers."""


def to_onnx_int8(content: bytes, spec: ArchSpec, formats: Formats, pixels: np.ndarray) -> bytes:
    """A float ``.onnx`` file of a network with the W8A8 layers of ``formats`` in int8.

    Args:
        content: as export.py writes it, batch normalization folded.
        pixels: calibration images, float32 (N, 3, H, W).

    Raises InputError where the file's layers are not those of ``spec``.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = onnx.load_from_string(content)
    chosen = integer_nodes(model.graph, spec, formats)
    if not chosen:
        return content
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(content)
        quantize_static(
            before,
            after,
            _Images(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=chosen,
        )
        made = onnx.load(after)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    made.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(made.opset_import))
    return made.SerializeToString()


def integer_nodes(graph: Any, spec: ArchSpec, formats: Formats) -> list[str]:
    """The names of the nodes of a float graph that become integers: layers in the order of the network, the sums of
    blocks that take in integers, and what stands between them."""
    layers, sums = bit_layers(spec), [layer for layer in bit_layers(spec) if layer.leads and layer.call.skip]
    nodes = [node for node in graph.node if node.op_type in LAYERS]
    adds = [node for node in graph.node if node.op_type in SUMS]
    if len(nodes) != len(layers) or len(adds) != len(sums):
        problem = f"expected {len(layers)} layers and {len(sums)} sums, the file has {len(nodes)} and {len(adds)}"
        raise InputError(f"onnx_int8 does not know this network's operations: {problem}", "--format")
    in_float = {layer.name for layer in layers if formats[layer.name].is_float}
    kept = set(float_sums(spec, formats))
    found = [node.name for node, layer in zip(nodes, layers, strict=True) if layer.name not in in_float]
    found += [node.name for node, layer in zip(adds, sums, strict=True) if layer.call.name not in kept]
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in POOLS and getattr(made_by.get(node.input[0]), "name", None) in found:
            found.append(node.name)
    return found


class _Images:
    """Calibration images, one at a time, as onnxruntime asks for them."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._left = iter(pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it onnxruntime's quantizer gives no advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
