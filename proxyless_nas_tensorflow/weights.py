"""Keras weights <-> NamedTensors, and networks <-> weight files.

proxyless_arch.arch.tensors has the contract, proxyless_arch.weights.files the axis table.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import ArchSpec, with_classes
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path, read_bytes
from proxyless_arch.weights import hdf5
from proxyless_arch.weights.files import (
    KERAS_SUFFIX,
    NamedTensors,
    WeightFile,
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
# what Keras calls these layers in its files, and their parts in the order in which it numbers them
_KINDS: Mapping[type, str] = {
    keras.layers.Conv2D: "conv2d",
    keras.layers.DepthwiseConv2D: "depthwise_conv2d",
    keras.layers.BatchNormalization: "batch_normalization",
    keras.layers.Dense: "dense",
}
_PARTS: Mapping[str, tuple[str, ...]] = {kind: tuple(VARIABLES[layer]) for layer, kind in _KINDS.items()}


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


def read_weights(path: str | os.PathLike[str], spec: ArchSpec) -> WeightFile:
    """The weights of ``spec`` in a file of any format that load_weights takes."""
    return _read_keras(path, spec) if _is_keras(path) else read_tensors(path, spec)


def load_weights(network: ProxylessNet | ArchSpec, path: str | os.PathLike[str]) -> ProxylessNet:
    """The network with the weights of a ``.h5``, ``.safetensors``, ``.pth``, ``.tfinit`` or ``.weights.h5`` file.

    The weights go into ``network``, or into one built from it when it is a spec. Its spec takes over the preprocessing
    and class names that a ``.h5`` or ``.safetensors`` file holds: preprocessing belongs to the weights.

    Raises:
        InputError: a bad file, or the weights of another network (with the missing, unexpected and wrongly shaped
            tensors); a network given is then untouched.
    """
    spec = network if isinstance(network, ArchSpec) else network.spec
    found = read_weights(path, spec)
    net = build(spec) if isinstance(network, ArchSpec) else network
    load_named(net, spec, found.tensors, str(path))
    net.spec = described(spec, found)
    return net


def load_pretrained(net: ProxylessNet, release: Release, pretrained: Pretrained, released_classes: int) -> None:
    """Put the weights that ``pretrained`` asks for into ``net`` (see proxyless_arch.weights.pretrained)."""

    def read(path: str | os.PathLike[str]) -> WeightFile:
        if not _is_keras(path):
            return read_tensors(path)
        as_released = _keras_classes(path) == released_classes
        return _read_keras(path, with_classes(net.spec, released_classes) if as_released else net.spec)

    found = read_pretrained(release, pretrained, net.spec, released_classes, read)
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
    source = _checked(path)
    try:
        named = _keras_tensors(_read_hdf5(source, spec), build(spec))
        check_tensors(named, spec)
    except InputError as error:
        raise error.from_source(source) from None
    return {name: named[name] for name in expected_tensors(spec)}


def _read_hdf5(path: str, spec: ArchSpec) -> hdf5.Contents:
    data = read_bytes(path)
    try:
        found = hdf5.read(data)
        if not any(place.startswith("layers/") for place in found.arrays):
            raise InputError("no group 'layers'")
    except InputError as error:
        raise InputError(f"not the Keras weights of {spec.name!r}: {error.problem}", error.place) from None
    return found


def _read_keras(path: str | os.PathLike[str], spec: ArchSpec) -> WeightFile:
    return WeightFile(spec=None, tensors=load_keras_weights(path, spec))


def _is_keras(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).endswith(KERAS_SUFFIX)


def _keras_classes(path: str | os.PathLike[str]) -> int | None:
    """Rows of the classifier in a ``.weights.h5`` file; None when it has none or cannot be read."""
    try:
        bias = hdf5.read(read_bytes(path)).arrays.get("layers/dense/vars/1")
    except InputError:
        return None
    return len(bias) if bias is not None and bias.ndim == 1 else None


def _checked(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text.endswith(KERAS_SUFFIX):
        raise InputError(f"expected a file name that ends in {KERAS_SUFFIX}, got {text!r}")
    return text


def _keras_tensors(file: hdf5.Contents, model: keras.Model) -> NamedTensors:
    """The arrays under ``layers/``, but for the state of dropout, by their released names and in the contract's layout.

    A group there is called after the layer's class and its number among the layers of that class. Keras writes the
    layer's name beside it, which says more when the networks differ; a file without it is named by the order.
    """
    places = _keras_places(model)
    tensors: NamedTensors = {}
    for place, array in file.arrays.items():
        if not place.startswith("layers/") or "seed_generator" in place:
            continue
        group, _, number = place.removeprefix("layers/").partition("/vars/")
        layer = file.attributes.get(f"layers/{group}/vars@name")
        parts = next((parts for kind, parts in _PARTS.items() if re.fullmatch(rf"{kind}(_[0-9]+)?", group)), ())
        known = isinstance(layer, str) and number.isdecimal() and int(number) < len(parts)
        name = f"{layer}.{parts[int(number)]}" if known else places.get(place.removeprefix("layers/"), place)
        tensors[place if name in tensors else name] = from_tf_layout(name, array)
    return tensors


def _keras_places(model: keras.Model) -> dict[str, str]:
    """{place under ``layers/`` of a Keras weight file: released name} of every weight."""
    seen: Counter[str] = Counter()
    places: dict[str, str] = {}
    for layer in model.layers:
        kind = _KINDS.get(type(layer))
        if kind is not None:
            group = f"{kind}_{seen[kind]}" if seen[kind] else kind
            seen[kind] += 1
            places |= {f"{group}/vars/{k}": f"{layer.name}.{part}" for k, part in enumerate(_PARTS[kind])}
    return places
