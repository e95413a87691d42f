"""Keras weights <-> NamedTensors, and networks <-> weight files.

proxyless_arch.arch.tensors has the contract, proxyless_arch.weights.files the axis table.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.weights.files import (
    KERAS_SUFFIX,
    NamedTensors,
    check_tensors,
    from_tf_layout,
    read_tensors,
    save_tensors,
    to_tf_layout,
)
from proxyless_arch.weights.pretrained import Pretrained, described, read_pretrained
from proxyless_nas_tensorflow.network import ProxylessNet, build

# part of a tensor's released name -> attribute of the layer that holds it
VARIABLES: Mapping[type, Mapping[str, str]] = {
    keras.layers.Conv2D: {"weight": "kernel"},
    keras.layers.DepthwiseConv2D: {"weight": "kernel"},
    keras.layers.BatchNormalization: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    keras.layers.Dense: {"weight": "kernel", "bias": "bias"},
}


def named_variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """(released tensor name, variable) of every weight of a network, in network order."""
    for layer in model.layers:
        for part, attribute in VARIABLES.get(type(layer), {}).items():
            yield f"{layer.name}.{part}", getattr(layer, attribute)


def to_named(model: keras.Model) -> NamedTensors:
    """The weights as float32 numpy arrays (copies, C order) under their released names and in torch's layouts."""
    return {
        name: from_tf_layout(name, np.asarray(variable.numpy(), dtype=np.float32))
        for name, variable in named_variables(model)
    }


def load_named(model: keras.Model, spec: ArchSpec, tensors: NamedTensors, source: str = "weights") -> None:
    """Put ``tensors`` into a network built from ``spec``. One without its top takes all but the classifier's.

    Raises InputError listing missing, unexpected and wrongly shaped tensors; the model is then untouched.
    """
    check_tensors(tensors, spec, source)
    assign(model, tensors)


def assign(model: keras.Model, tensors: NamedTensors) -> None:
    """Put checked ``tensors``, perhaps not all, into ``model``."""
    for name, variable in named_variables(model):
        if name in tensors:
            variable.assign(to_tf_layout(name, tensors[name]))


def load_weights(network: ProxylessNet | ArchSpec, path: str | os.PathLike[str]) -> ProxylessNet:
    """The network with the weights of a file of any format that proxyless_arch.weights.files reads.

    The weights go into ``network``, or into one built from it when it is a spec. Its spec takes over the preprocessing
    and class names that the file holds: preprocessing belongs to the weights.

    Raises:
        InputError: a bad file, or the weights of another network (with the missing, unexpected and wrongly shaped
            tensors); a network given is then untouched.
    """
    spec = network if isinstance(network, ArchSpec) else network.spec
    found = read_tensors(path, spec)
    net = build(spec) if isinstance(network, ArchSpec) else network
    load_named(net, spec, found.tensors, str(path))
    net.spec = described(spec, found)
    return net


def load_pretrained(net: ProxylessNet, release: Release, pretrained: Pretrained, released_classes: int) -> None:
    """Put the weights that ``pretrained`` asks for into ``net`` (see proxyless_arch.weights.pretrained)."""
    found = read_pretrained(release, pretrained, net.spec, released_classes)
    assign(net, found.tensors)
    net.spec = described(net.spec, found)


def save_weights(path: str | os.PathLike[str], net: ProxylessNet, provenance: Mapping[str, Any]) -> None:
    """Write a network's weights, atomically, in the format that the extension names.

    ``.h5`` and ``.safetensors`` hold the spec, its preprocessing and ``provenance`` (JSON values) as well;
    ``.weights.h5`` is what Keras writes and holds the weights alone.

    Raises:
        InputError: another extension, ``provenance`` is not JSON, or a network without its top (which only
            ``.weights.h5`` takes).
    """
    if _is_keras(path):
        save_keras_weights(path, net)
    else:
        save_tensors(path, net.spec, to_named(net), provenance, also=(KERAS_SUFFIX,))


def save_keras_weights(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Write the weights as Keras does, atomically: a ``.weights.h5`` file without the spec.

    Raises InputError when the name does not end in ``.weights.h5``.
    """
    with (
        atomic_path(_checked(path)) as temporary,
        tempfile.TemporaryDirectory(prefix=".keras.", dir=temporary.parent) as folder,
    ):
        written = Path(folder, f"net{KERAS_SUFFIX}")
        model.save_weights(written)
        written.replace(temporary)


def load_keras_weights(path: str | os.PathLike[str], spec: ArchSpec) -> NamedTensors:
    """The tensors of a ``.weights.h5`` file of a whole network built from ``spec``.

    Raises:
        InputError: missing, damaged, or the weights of another network (with the missing, unexpected and wrongly
            shaped tensors).
    """
    return read_tensors(_checked(path), spec).tensors


def _is_keras(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).endswith(KERAS_SUFFIX)


def _checked(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text.endswith(KERAS_SUFFIX):
        raise InputError(f"expected a file name that ends in {KERAS_SUFFIX}, got {text!r}")
    return text
