"""An exported file is loaded and run once in a process of its own before this one does: a runtime that gets a damaged
or hostile file can crash, or never come back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from proxyless_arch.base import apart
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.exports.exported_file import Loaded, read_metadata
from proxyless_arch.exports.litert import litert_metadata, load_litert
from proxyless_arch.exports.onnx_file import load_onnx, onnx_metadata

MODULE = "proxyless_arch.exports.trial"
ONNX, LITERT = ".onnx", ".tflite"


def try_apart(path: Path, kind: str) -> None:
    """Whether an exported file can be loaded and gives finite logits of its classes.

    Args:
        kind: ``.onnx`` or ``.tflite``, whatever the file is called.

    Raises:
        InputError: it cannot, or it crashes its runtime.
    """
    data = json.dumps([kind, str(path)]).encode() + b"\n" + read_bytes(path)
    try:
        apart.ask(MODULE, data, "onnxruntime" if kind == ONNX else "the LiteRT interpreter")
    except InputError as error:
        raise error.from_source(str(path)) from None


def answer_to(data: bytes) -> apart.Answer:
    """In the child: see try_apart."""
    head, _, content = data.partition(b"\n")
    kind, name = json.loads(head)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file{kind}")  # the bytes that were read, alone: nothing beside them is found
        path.write_bytes(content)
        try:
            _try(path, kind)
        except InputError as error:
            return apart.refusal(InputError(error.problem, error.place, name))
    return 0, b""


def _try(path: Path, kind: str) -> None:
    spec, _ = read_metadata((onnx_metadata if kind == ONNX else litert_metadata)(path), str(path))
    loaded: Loaded = (load_onnx if kind == ONNX else load_litert)(path, 1)
    shape = spec.preprocessing.chw if kind == ONNX else spec.preprocessing.hwc
    logits = loaded.forward(np.zeros((1, *shape), np.float32))
    if np.shape(logits) != (1, spec.num_classes) or not np.issubdtype(logits.dtype, np.floating):
        raise InputError(f"expected logits of {spec.num_classes} classes, got an array of shape {np.shape(logits)}")
    if not np.isfinite(logits).all():
        raise InputError("its logits are not finite numbers on a plain image")


if __name__ == "__main__":
    raise SystemExit(apart.serve(answer_to))
