"""Files that run without this repository: LiteRT (float32, float16, int8) and SavedModel. The twin writes ONNX.

LiteRT files take one float32 image (1, H, W, 3) of the network's resolution, SavedModels any batch; both give
logits. The converter folds batch normalization. Spec, preprocessing, class names and provenance travel inside.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from proxyless_arch.arch.bits import BitPlan
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import threads_text
from proxyless_arch.base.quiet import captured_stderr
from proxyless_arch.exports.bit_files import Formats, file_formats, first_blocks_float, float_sums
from proxyless_arch.exports.export_formats import Format, default_float_blocks
from proxyless_arch.exports.exported_file import METADATA_NAME, Loaded
from proxyless_arch.exports.exporting import write_file
from proxyless_arch.exports.litert import load_litert, with_metadata
from proxyless_nas_tensorflow.devices import tensorflow_version
from proxyless_nas_tensorflow.mixed import to_mixed
from proxyless_nas_tensorflow.network import ProxylessNet
from proxyless_nas_tensorflow.steps import compiled

INPUT = "images"
EXTRA_ASSETS = "assets.extra"
"""Where a SavedModel keeps files that are not part of its graph."""
LAST_LAYER = "classifier.linear"
SUM = "+"
"""Behind the name of a block: the sum with its skip."""

Quantizer = tf.lite.experimental.QuantizationDebugger


class KerasBackend:
    """TensorFlow's side of an export (see exporting.Backend). Images are (N, H, W, 3).

    Args:
        net: the source network, built for its preprocessing's resolution.
        threads: of the LiteRT interpreter.
        framework_threads: what devices.use_threads said TensorFlow uses.
        float_blocks: of an int8 file (see to_int8); by default a quarter of the blocks.
        bake: whether float LiteRT files take uint8 images and scale them.
        plan: of an int8 or a mixed file, in place of ``float_blocks``.
        integer_io: images and logits of an int8 file are int8, too.
    """

    channels = -1

    def __init__(
        self,
        net: ProxylessNet,
        threads: int = 1,
        framework_threads: int | None = None,
        float_blocks: int | None = None,
        bake: bool = False,
        plan: BitPlan | None = None,
        integer_io: bool = False,
    ) -> None:
        self.threads = threads
        self.framework = f"tensorflow {tensorflow_version()}"
        if framework_threads is not None and framework_threads != threads:
            self.framework += f", {threads_text(framework_threads)}"
        self._net, self._compiled, self._bake = net, compiled(net), bake
        self._float_blocks = default_float_blocks(net.spec) if float_blocks is None else float_blocks
        self._plan, self._integer_io = plan, integer_io

    @property
    def versions(self) -> Mapping[str, str]:
        return {"tensorflow": tensorflow_version(), "keras": keras.__version__}

    def source(self, images: np.ndarray) -> np.ndarray:
        return self._compiled(images).numpy()

    def native(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def write(self, format: Format, path: Path, metadata: str, calibration: np.ndarray | None) -> Mapping[str, Any]:
        if format.name == "saved_model":
            return write_saved_model(self._net, path, metadata)
        if format.quantized:
            content, made = self._quantized(format, calibration)
        else:
            content = to_litert(self._net, half=format.name == "litert_fp16", bake=self._bake)
            made = {"weights": "float16" if format.name == "litert_fp16" else "float32"}
        write_file(path, with_metadata(content, metadata))
        return made

    def _quantized(self, format: Format, calibration: np.ndarray | None) -> tuple[bytes, dict[str, Any]]:
        """(a quantized LiteRT file, how it was made)."""
        formats = self._formats(format)
        by = {"float_blocks": self._float_blocks} if self._plan is None else {"plan": self._plan.digest}
        float_layers = [name for name, each in formats.items() if each.is_float]
        if format.name == "litert_mixed":
            content = to_mixed(to_litert(self._net), self._net.spec, formats, calibration)
            weights, activations = "int8 or int4, one scale per output channel", "int8 or float32"
        else:
            assert calibration is not None
            content = to_int8(self._net, calibration, formats, integer_io=self._integer_io)
            weights, activations = "int8, one scale per output channel", "int8"
        takes = "int8" if self._integer_io and format.name == "litert_int8" else "float32"
        made = {"weights": weights, "activations": activations, **by, "float_layers": float_layers}
        return content, {**made, "images_and_logits": takes}

    def _formats(self, format: Format) -> Formats:
        """Of each layer in a quantized file. Raises InputError for a plan that it cannot hold."""
        if self._plan is None:
            return first_blocks_float(self._net.spec, self._float_blocks)
        formats = file_formats(self._plan, self._net.spec, format.name)
        kept = next((name for name, each in formats.items() if each.is_float), None)
        if self._integer_io and format.name == "litert_int8" and kept is not None:
            raise InputError("stays float32 by the plan: an integer file has W8A8 layers alone", f"layers.{kept}")
        return formats

    def load(self, format: Format, path: Path) -> Loaded:
        return load_saved_model(path) if format.name == "saved_model" else load_litert(path, self.threads)


# ------------------------------------------------------------------------------------------------------ SavedModel


def write_saved_model(net: ProxylessNet, folder: Path, metadata: str) -> Mapping[str, Any]:
    """A SavedModel whose ``serve`` endpoint (and default signature) takes (batch, H, W, 3) images.

    Raises:
        OSError: it cannot be written (TensorFlow's own errors included).
    """
    _archive(net, folder, batch=None)
    extra = folder / EXTRA_ASSETS
    extra.mkdir()
    write_file(extra / METADATA_NAME, metadata.encode())
    return {"endpoint": "serve", "batch": "dynamic"}


def load_saved_model(folder: Path) -> Loaded:
    """A SavedModel on TensorFlow. Load only files you trust."""
    with captured_stderr():
        loaded = tf.saved_model.load(str(folder))
    serve = loaded.serve

    def forward(images: np.ndarray) -> np.ndarray:
        return serve(tf.constant(images)).numpy()

    # the variables live as long as the object they were loaded with
    forward.owner = loaded  # type: ignore[attr-defined]
    return Loaded(forward, "tensorflow", tensorflow_version())


def _archive(net: ProxylessNet, folder: Path, batch: int | None, bake: bool = False) -> None:
    signature = [tf.TensorSpec((batch, *net.input_shape[1:]), tf.uint8 if bake else tf.float32, name=INPUT)]
    archive = keras.export.ExportArchive()
    archive.track(net)
    mean, std = (np.asarray(values, np.float32) for values in (net.spec.preprocessing.mean, net.spec.preprocessing.std))

    def serve(images: tf.Tensor) -> tf.Tensor:
        if bake:
            images = tf.cast(images, tf.float32) * (1 / (255 * std)) - mean / std
        return net(images, training=False)

    archive.add_endpoint("serve", serve, input_signature=signature)
    try:
        with captured_stderr():
            archive.write_out(str(folder), verbose=False)
    except tf.errors.OpError as error:
        raise OSError(error.message) from None


# ---------------------------------------------------------------------------------------------------------- LiteRT


def to_litert(net: ProxylessNet, *, half: bool = False, bake: bool = False) -> bytes:
    """``net`` as a LiteRT flatbuffer for one image; with ``half`` its weights are float16 (computed in float32), with
    ``bake`` it takes uint8 images and scales them itself."""
    with _converter(net, bake) as converter:
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return _converted(converter)


def to_int8(net: ProxylessNet, calibration: np.ndarray, formats: Formats, *, integer_io: bool = False) -> bytes:
    """``net`` as a LiteRT flatbuffer with int8 weights (one scale per output channel) and int8 activations.

    Layers may stay float32. By default the stem and the first blocks do, where most of the error of an all-int8 network
    arises, to grow on its way through the rest; they hold few weights. Measured with proxyless-w0.3-r176 on 1000 photos
    (experiments/int8_study.json): with all 22 blocks in int8 top-1 falls by 1.2 points and cross-entropy rises by
    0.035; with 6 of them in float by 0.5 and 0.010, at 1.4 % more bytes (float32: 3 times as many). More calibration
    images, a float classifier, int16 activations or filled ReLU6 ranges give less.

    Args:
        net: the source.
        calibration: float32 (N, H, W, 3) images, whose activations set the ranges.
        formats: float32 or W8A8, of each layer.
        integer_io: images and logits are int8, too, with the scales that the file states; else float32.
    """
    debugger = calibrated(net, calibration)
    return quantized(debugger, float_names=float_names(net.spec, formats), integer_io=integer_io)


def float_layers(spec: ArchSpec, blocks: int) -> tuple[str, ...]:
    """What stays float32 of a network whose stem and first ``blocks`` blocks do; none at all for 0."""
    return float_names(spec, first_blocks_float(spec, blocks))


def float_names(spec: ArchSpec, formats: Formats) -> tuple[str, ...]:
    """The layers that stay float32 and, with SUM behind them, the blocks whose sums do."""
    layers = tuple(name for name, format in formats.items() if format.is_float)
    return (*layers, *(f"{name}{SUM}" for name in float_sums(spec, formats)))


def to_int16x8(net: ProxylessNet, calibration: np.ndarray) -> bytes:
    """``net`` with int8 weights and int16 activations: no fast kernels, and no closer to the source than to_int8.

    Args:
        net: the source.
        calibration: float32 (N, H, W, 3) images, whose activations set the ranges.
    """
    with _converter(net) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [wide]
        return _converted(converter)


def calibrated(net: ProxylessNet, images: np.ndarray, *, per_channel: bool = True) -> Quantizer:
    """``net`` with the ranges of its activations on some images, ready to be quantized in different ways.

    TensorFlow's public way to keep layers in float is its QuantizationDebugger.

    Args:
        net: the source.
        images: float32 (N, H, W, 3).
        per_channel: one scale per output channel of a weight, else one per weight.
    """
    with _converter(net) as converter, _silence():
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter._experimental_disable_per_channel = not per_channel
        return Quantizer(converter=converter, debug_dataset=converter.representative_dataset)


def quantized(quantizer: Quantizer, *, float_names: Sequence[str] = (), integer_io: bool = False) -> bytes:
    """A LiteRT flatbuffer with int8 weights and activations.

    Args:
        quantizer: of ``calibrated``.
        float_names: names of zoo layers, or of modules with everything in them (``blocks.3``), that stay float32.
        integer_io: images and logits are int8 too, with the scales that the file states.

    Raises:
        ValueError: one of ``float_names`` is not in the network.
    """
    with _silence():
        nodes = _nodes(quantizer.calibrated_model, float_names)
        quantizer.options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=nodes, fully_quantize=integer_io
        )
        return bytes(quantizer.get_nondebug_quantized_model())


def _nodes(content: bytes, layers: Sequence[str]) -> list[str]:
    """The names, in a LiteRT file, of the operations of some layers.

    The converter names an operation by the layers fused into it, ``model_1/first_conv.act_1/Relu6;model_1/...``, but
    the last one by the network's output.
    """
    if not layers:
        return []
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    outputs = [graph.Operators(index).Outputs(0) for index in range(graph.OperatorsLength())]
    found: dict[str, list[str]] = {layer: [] for layer in layers}
    for output in outputs:
        name = graph.Tensors(output).Name().decode()
        origin = f"model/{LAST_LAYER}/" if output == graph.Outputs(0) else name
        for layer in layers:
            end = r"(_\d+)?/Add" if layer.endswith(SUM) else "[._/]"
            if re.match(rf"[^/;]+/{re.escape(layer.removesuffix(SUM))}{end}", origin):
                found[layer].append(name)
    missing = [layer for layer, names in found.items() if not names]
    if missing:
        raise ValueError(f"expected layers that the file holds, got {', '.join(missing)}")
    return [name for names in found.values() for name in names]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what the converter says on standard output and error, and its warning of its own interpreter's age."""
    with captured_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
        yield


@contextlib.contextmanager
def _converter(net: ProxylessNet, bake: bool = False) -> Iterator[tf.lite.TFLiteConverter]:
    """A converter of ``net`` for batches of one image: of a SavedModel in a folder that lives as long as the block.

    From a concrete function alone TensorFlow 2.21 writes a file without the weights of a Keras 3 network.
    """
    with tempfile.TemporaryDirectory(prefix="litert-") as folder:
        _archive(net, Path(folder, "model"), batch=1, bake=bake)
        yield tf.lite.TFLiteConverter.from_saved_model(os.path.join(folder, "model"))  # noqa: PTH118


def _converted(converter: tf.lite.TFLiteConverter) -> bytes:
    with _silence():
        return bytes(converter.convert())
