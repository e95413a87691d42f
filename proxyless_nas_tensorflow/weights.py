"""Keras weights <-> NamedTensors (proxyless_arch.tensors has the contract, proxyless_arch.weights the axis table)."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import keras
import numpy as np

from proxyless_arch.errors import InputError
from proxyless_arch.files import atomic_path
from proxyless_arch.spec import ArchSpec
from proxyless_arch.weights import NamedTensors, check_tensors, from_tf_layout, to_tf_layout
from proxyless_nas_tensorflow.network import build

KERAS_SUFFIX = ".weights.h5"

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
    for name, variable in named_variables(model):
        variable.assign(to_tf_layout(name, tensors[name]))


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

    Keras files hold no tensor names, only the order of layers: they go through a model.

    Raises:
        InputError: missing, damaged, or the weights of another network.
    """
    source = _checked(path)
    model = build(spec)
    try:
        with h5py.File(source, "r") as file:
            found = _count_weights(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Keras warns of here is the error below
            model.load_weights(source)
    except FileNotFoundError:
        raise InputError("no such file", source=source) from None
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"not the Keras weights of {spec.name!r}: {reason}", source=source) from None
    if found != len(model.weights):
        raise InputError(f"expected the {len(model.weights)} tensors of {spec.name!r}, got {found}", source=source)
    return to_named(model)


def _checked(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text.endswith(KERAS_SUFFIX):
        raise InputError(f"expected a file name that ends in {KERAS_SUFFIX}, got {text!r}")
    return text


def _count_weights(file: h5py.File) -> int:
    """Arrays under ``layers/`` but for the state of dropout; Keras leaves any it does not look for unread."""
    if not isinstance(file.get("layers"), h5py.Group):
        raise KeyError("no group 'layers'")
    names: list[str] = []
    file["layers"].visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sum("seed_generator" not in name for name in names)
