"""What the commands with Keras share before TensorFlow is loaded."""

from __future__ import annotations

from pathlib import Path

from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.weights.files import NamedTensors


def read_keras(path: Path, spec: ArchSpec) -> NamedTensors:
    from proxyless_nas_tensorflow.weights import load_keras_weights

    return load_keras_weights(path, spec)
