"""LiteRT files (.tflite), whoever wrote them: what they say about themselves, and how they run.

export_tf.py writes them from Keras, export.py from PyTorch. Both take one float32 image (1, H, W, 3).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.base.quiet import captured_stderr
from proxyless_arch.exports.exported_file import METADATA_NAME, Loaded, as_uint8, read_metadata

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every LiteRT file."""


def with_metadata(content: bytes, metadata: str) -> bytes:
    """A LiteRT file with a metadata entry ``METADATA_NAME`` that holds a text."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for each in model.buffers:  # ai-edge-quantizer writes data behind the flatbuffer, at an offset into the file
        if each.offset > 1:
            each.data = np.frombuffer(content, np.uint8, each.size, each.offset)
            each.offset = each.size = 0
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(metadata.encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + len(buffer.data))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def litert_metadata(path: Path) -> str | None:
    """The metadata of a LiteRT file, or None when it has none of ours.

    Raises:
        InputError: no such file, or not a LiteRT file.
    """
    content = read_bytes(path)
    if content[4:8] != IDENTIFIER:
        raise InputError("expected a LiteRT file (.tflite)", source=str(path))
    load_litert(path, 1)  # the interpreter verifies the file; the reader below does not
    return _text_of(content, path)


def _text_of(content: bytes, path: Path) -> str | None:
    """The metadata of a LiteRT file whose bytes are ``content``; see litert_metadata."""
    try:
        return _metadata_of(content)
    except InputError as error:
        raise error.from_source(str(path)) from None


def _metadata_of(content: bytes) -> str | None:
    """InputError when the entry is damaged: of the metadata the interpreter verifies nothing."""
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.Model.GetRootAs(content, 0)
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry.Name() == METADATA_NAME.encode():
                return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"its metadata is damaged: {error}") from None
    return None


def load_litert(path: Path, threads: int) -> Loaded:
    """A LiteRT file on its interpreter, image by image. Integer inputs and outputs are scaled as the file states.

    Raises:
        InputError: ai-edge-litert is not installed, or it cannot read the file.
    """
    try:
        from ai_edge_litert import __version__ as version
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise InputError(
            "it needs ai-edge-litert, not installed: pip install -e '.[export]'", source=str(path)
        ) from None
    content = read_bytes(path)
    try:
        with captured_stderr():
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"expected a LiteRT file that its interpreter reads: {error}", source=str(path)) from None
    given, wanted = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    takes_pixels = given["dtype"] == np.uint8 and not given["quantization"][0]
    preprocessing = read_metadata(_text_of(content, path), str(path))[0].preprocessing if takes_pixels else None

    def forward(images: np.ndarray) -> np.ndarray:
        rows = []
        if preprocessing is not None and images.dtype != np.uint8:
            images = as_uint8(images, preprocessing, -1)
        try:
            for image in images:
                interpreter.set_tensor(given["index"], image[None] if takes_pixels else _quantized(image[None], given))
                interpreter.invoke()
                rows.append(_dequantized(interpreter.get_tensor(wanted["index"])[0], wanted))
            return np.stack(rows)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"its interpreter cannot run it on these images: {error}", source=str(path)) from None

    return Loaded(forward, "LiteRT", version)


def _quantized(values: np.ndarray, tensor: Mapping[str, Any]) -> np.ndarray:
    dtype = tensor["dtype"]
    if dtype == np.float32:
        return values
    scale, zero = tensor["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(dtype)


def _dequantized(values: np.ndarray, tensor: Mapping[str, Any]) -> np.ndarray:
    if tensor["dtype"] == np.float32:
        return values
    scale, zero = tensor["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)
