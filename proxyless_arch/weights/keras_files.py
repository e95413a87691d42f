"""Keras's own files, read without Keras: ``.keras``, ``.weights.h5``, and the ``.h5`` of ``model.save`` and of Keras 2.

Our layers are named like the tensors of the contract, and Keras writes the layers' names. A model of the Keras zoo
that is saved whole holds its spec as well.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from proxyless_arch.arch.codec import spec_from_node
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json
from proxyless_arch.base.strict import Node
from proxyless_arch.weights import hdf5
from proxyless_arch.weights.layout import from_tf_layout, is_depthwise
from proxyless_arch.weights.pickles import BROKEN_ZIP

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
"""Members of a ``.keras`` file."""
MODEL_CLASS = "ProxylessNet"
"""The class of the Keras zoo's models, whose config has the spec."""

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "conv2d": ("weight",),
        "depthwise_conv2d": ("weight",),
        "batch_normalization": ("weight", "bias", "running_mean", "running_var"),
        "dense": ("weight", "bias"),
    }
)
"""What Keras calls a layer with weights, and the parts of released names in the order in which it numbers them."""
_OLDER_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "kernel": "weight",
        "depthwise_kernel": "weight",
        "gamma": "weight",
        "beta": "bias",
        "bias": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
)
_PLACE = re.compile(r"(?:.*/)?layers/((?P<kind>[a-z0-9_]+?)(?:_[0-9]+)?)/vars/(?P<number>[0-9])")
_OLDER_PLACE = re.compile(rf"(?:.*/)?(?P<layer>[^/]+)/(?P<part>{'|'.join(_OLDER_PARTS)})(?::0)?")

Found = tuple[ArchSpec | None, dict[str, np.ndarray]]


def is_keras_archive(data: bytes) -> bool:
    """Whether a zip is a ``.keras`` file."""
    try:
        return {CONFIG, WEIGHTS} <= set(zipfile.ZipFile(io.BytesIO(data)).namelist())
    except BROKEN_ZIP:
        return False


def read_keras_archive(data: bytes, spec: ArchSpec | None) -> Found:
    """(the spec, the tensors) in a ``.keras`` file; see read_keras_hdf5.

    Raises:
        InputError: damaged, or compressed.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = {name: archive.getinfo(name) for name in (CONFIG, WEIGHTS)}
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise InputError("expected stored entries, got compressed ones: not as Keras writes it", "zip")
        config, weights = (archive.read(member) for member in members.values())
    except InputError:
        raise
    except BROKEN_ZIP as error:
        raise InputError(f"a damaged zip archive: {error}") from None
    own = _spec_in(parse_json(config, CONFIG))
    return own, _tensors(hdf5.read(weights), own or spec)


def read_keras_hdf5(data: bytes, spec: ArchSpec | None) -> Found:
    """(the spec where the file holds it, else None; the tensors by their released names) of a file of Keras.

    Args:
        data: an HDF5 file.
        spec: the network, where the caller knows it: by its order are layers named in a file that does not name them.

    Raises:
        InputError: damaged, or no weights of Keras.
    """
    found = hdf5.read(data)
    config = found.attributes.get("@model_config")
    own = _spec_in(parse_json(config, "model_config")) if isinstance(config, str) else None
    return own, _tensors(found, own or spec)


def _spec_in(config: Any) -> ArchSpec | None:
    """The spec in the config of a saved model: of the model, or of one among its layers."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict) or not isinstance(inside := value.get("config"), dict):
            continue
        if value.get("class_name") == MODEL_CLASS and "spec" in inside:
            return spec_from_node(Node(inside["spec"], "spec"))
        layers = inside.get("layers")
        waiting += layers if isinstance(layers, list) else []
    return None


def _tensors(found: hdf5.Contents, spec: ArchSpec | None) -> dict[str, np.ndarray]:
    """Arrays of layers by their released names, in the contract's layout; those of optimizers are left out."""
    order = _layers_in_order(spec) if spec is not None else {}
    tensors: dict[str, np.ndarray] = {}
    for place, array in found.arrays.items():
        if {"optimizer", "optimizer_weights", "seed_generator"} & set(place.split("/")):
            continue
        name = _name_at(place, found, order)
        if name is not None:
            tensors[place if name in tensors else name] = from_tf_layout(name, array)
    if not tensors:
        raise InputError("not the weights of a Keras model: no layer with weights in it")
    return tensors


def _name_at(place: str, found: hdf5.Contents, order: Mapping[str, str]) -> str | None:
    """The released name of the array at ``place``; the place itself for a layer we do not have."""
    if inside := _PLACE.fullmatch(place):
        layer = found.attributes.get(f"{place.rpartition('/')[0]}@name", order.get(inside[1]))
        parts, number = PARTS.get(inside["kind"], ()), int(inside["number"])
        return f"{layer}.{parts[number]}" if layer and number < len(parts) else place
    if older := _OLDER_PLACE.fullmatch(place):
        return f"{older['layer']}.{_OLDER_PARTS[older['part']]}"
    return place if "layers/" in place else None


def _layers_in_order(spec: ArchSpec) -> dict[str, str]:
    """{what Keras calls a layer by its kind and number in the network: our name of it}."""
    seen: Counter[str] = Counter()
    names: dict[str, str] = {}
    for layer, kind in _layers(spec):
        names[f"{kind}_{seen[kind]}" if seen[kind] else kind] = layer
        seen[kind] += 1
    return names


def _layers(spec: ArchSpec) -> Iterator[tuple[str, str]]:
    shapes = expected_tensors(spec)
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in shapes):
        if layer.endswith(".bn"):
            yield layer, "batch_normalization"
        elif layer.endswith(".linear"):
            yield layer, "dense"
        else:
            name = f"{layer}.weight"
            yield layer, "depthwise_conv2d" if is_depthwise(name, *shapes[name][:3]) else "conv2d"
