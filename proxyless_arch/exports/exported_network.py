"""The network in an exported file that a person names: tried in a process of its own, then read from its metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proxyless_arch.apps.evaluation import Network, RunConfig, exported_network
from proxyless_arch.base.errors import InputError
from proxyless_arch.exports.exported_file import read_metadata
from proxyless_arch.exports.litert import litert_metadata
from proxyless_arch.exports.onnx_file import onnx_metadata
from proxyless_arch.exports.trial import LITERT, ONNX, try_apart


def onnx_network(arguments: RunConfig) -> Network:
    """The network of a ``.onnx`` file: spec, preprocessing and class names are read from the file.

    Raises:
        InputError: a bad file, one that crashes its runtime, or one without our metadata.
    """
    return _network(arguments, ONNX, onnx_metadata)


def litert_network(arguments: RunConfig) -> Network:
    """The network of a ``.tflite`` file: spec, preprocessing and class names are read from the file.

    Raises:
        InputError: a bad file, one that crashes its runtime, or one without our metadata.
    """
    assert arguments.exported is not None
    if arguments.exported.suffix.lower() == ONNX:
        raise InputError("ONNX files run in the script without _tf", source=str(arguments.exported))
    return _network(arguments, LITERT, litert_metadata)


def _network(arguments: RunConfig, kind: str, metadata: Callable[[Path], str | None]) -> Network:
    path = arguments.exported
    assert path is not None
    try_apart(path, kind)
    spec, provenance = read_metadata(metadata(path), str(path))
    return exported_network(arguments, spec, provenance)
