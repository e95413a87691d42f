"""ONNX files, whoever wrote them: what they say about themselves, and how they run on onnxruntime.

export.py writes them. They take float32 images (N, 3, H, W).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes, require_regular
from proxyless_arch.base.text import is_text
from proxyless_arch.exports.exported_file import METADATA_NAME, Loaded, as_uint8, read_metadata

INPUT, OUTPUT = "images", "logits"


def onnx_metadata(path: Path) -> str | None:
    """The metadata of a ``.onnx`` file, or None when it has none of ours."""
    return _metadata_of(_session(path, 1), path)


def _metadata_of(session: Any, path: Path) -> str | None:
    try:
        return session.get_modelmeta().custom_metadata_map.get(METADATA_NAME)
    except UnicodeDecodeError as error:
        raise InputError(f"its metadata is no text: {error}", source=str(path)) from None


def load_onnx(path: Path, threads: int) -> Loaded:
    """A ``.onnx`` file on onnxruntime's CPU provider.

    Raises:
        InputError: no such file, or onnxruntime cannot read it.
    """
    session = _session(path, threads)
    inputs = [(one.name, one.type) for one in session.get_inputs()]
    if [name for name, _ in inputs] != [INPUT] or len(session.get_outputs()) != 1:
        raise InputError(f"expected one input, {INPUT!r}, and one output: not a file of export.py", source=str(path))
    takes_pixels = inputs[0][1] == "tensor(uint8)"
    preprocessing = read_metadata(_metadata_of(session, path), str(path))[0].preprocessing if takes_pixels else None
    errors = _onnx_errors()

    def forward(images: np.ndarray) -> np.ndarray:
        if preprocessing is not None and images.dtype != np.uint8:
            images = as_uint8(images, preprocessing, 1)
        try:
            return session.run(None, {INPUT: np.ascontiguousarray(images)})[0]
        except errors as error:
            raise InputError(f"onnxruntime cannot run it on these images: {error}", source=str(path)) from None

    import onnxruntime

    return Loaded(forward, "onnxruntime", onnxruntime.__version__)


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError:
        raise InputError("it needs onnxruntime, not installed: pip install -e '.[export]'", source=str(path)) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    require_regular(path)
    model = str(path) if is_text(str(path)) else read_bytes(path)  # it takes no other names
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except errors.NoSuchFile:
        raise InputError("no such file", source=str(path)) from None
    except _onnx_errors() as error:
        raise InputError(f"expected an ONNX file that onnxruntime reads: {error}", source=str(path)) from None


def _onnx_errors() -> tuple[type[Exception], ...]:
    """Every exception of onnxruntime, which have no base class of their own, and what it passes on."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    own = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, UnicodeDecodeError)
