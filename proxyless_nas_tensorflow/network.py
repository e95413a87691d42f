"""A spec becomes a functional Keras model."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import KerasTensor

from proxyless_arch.apps.prediction import class_names
from proxyless_arch.arch.codec import spec_from_node, spec_to_dict
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node, listed, nearest
from proxyless_nas_tensorflow.data import ImageTransform
from proxyless_nas_tensorflow.layers import build_op, residual_block

Resolution = int | tuple[int | None, int | None] | None
POOLS = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
MOST_LAYERS = 20_000
"""One behind the other."""
LOGITS, ACTIVATION = "classifier.linear", "classifier.act"
"""The layers whose outputs are the logits, and what a ``classifier_activation`` makes of them."""


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Keras goes through the layers of a model by a function that calls itself; a network of trees has over 1000."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, MOST_LAYERS))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@keras.saving.register_keras_serializable(package="proxyless_nas_tensorflow")
class ProxylessNet(keras.Model):
    """A network of the ProxylessNAS family; takes (N, H, W, channels) float32, gives (N, classes) logits.

    ``spec`` is the architecture it was built from; its preprocessing says how images are prepared. Without its top the
    network gives the feature map in front of the pool, (N, h, w, features), or with ``pooling`` "avg" or "max" one
    number for each feature, (N, features). With a ``classifier_activation`` the logits went through it. ``save`` and
    ``keras.models.load_model`` keep all of this.
    """

    def __init__(
        self,
        inputs: KerasTensor,
        outputs: KerasTensor,
        spec: ArchSpec,
        include_top: bool = True,
        *,
        pooling: str | None = None,
        classifier_activation: str | None = None,
        name: str | None = None,
    ) -> None:
        # whatever TensorFlow does not take in the name of a scope becomes a dot
        name = name or re.sub(r"^[^A-Za-z0-9.]|[^A-Za-z0-9_.-]", ".", spec.name)
        with deep_recursion():
            super().__init__(inputs, outputs, name=name)
        self.spec = spec
        self.include_top = include_top
        self.pooling, self.classifier_activation = pooling, classifier_activation

    def __iter__(self) -> Iterator[Any]:
        """``net, transform, classes = load(...)``: itself, how an image becomes its input, the names of its classes."""
        return iter((self, ImageTransform(self.spec.preprocessing), class_names(self.spec)))

    def get_config(self) -> dict[str, Any]:
        return {
            "spec": spec_to_dict(self.spec),
            "resolution": list(self.input_shape[1:3]),
            "include_top": self.include_top,
            "pooling": self.pooling,
            "classifier_activation": self.classifier_activation,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> ProxylessNet:
        spec = spec_from_node(Node(config["spec"], "spec"))
        height, width = config["resolution"]
        known = {key: config[key] for key in ("pooling", "classifier_activation", "name") if key in config}
        return build(spec, (height, width), include_top=config["include_top"], **known)


# model.save('m.h5') writes the class without its package, and looks for it by what it wrote
keras.saving.get_custom_objects()[ProxylessNet.__name__] = ProxylessNet


def _input_size(resolution: Resolution) -> tuple[int | None, int | None]:
    """(height, width); None where any size will do."""
    size = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    good = len(size) == 2 and all(
        value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0) for value in size
    )
    if not good:
        raise InputError(f"expected a positive integer, (height, width) or None, got {resolution!r}", "resolution")
    return size


def build(
    spec: ArchSpec,
    resolution: Resolution = None,
    *,
    include_top: bool = True,
    seed: int | None = None,
    images: KerasTensor | None = None,
    pooling: str | None = None,
    classifier_activation: str | None = None,
    name: str | None = None,
) -> ProxylessNet:
    """The network of ``spec`` with He fan-out weights.

    Args:
        spec: the architecture.
        resolution: input pixels, or (height, width); by default images of any size are taken.
        include_top: without it the output is that of ``feature_mix_layer.act``, the feature map in front of the
            pool, (N, h, w, feature_mix width).
        seed: 0 or more; the initial weights depend on it and the layers' names alone. None draws fresh ones.
        images: its input, a ``keras.Input``, in place of one at ``resolution``.
        pooling: without its top, "avg" or "max" over the pixels of the feature map.
        classifier_activation: of the logits, by its Keras name ("softmax"); None leaves them.
        name: of the model, in place of the spec's.

    Raises:
        InputError: a resolution, seed or pooling that is none.
    """
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise InputError(f"expected an integer, 0 or more, or None, got {seed!r}", "seed")
    if pooling not in (None, *POOLS):
        raise InputError(f"expected {listed(map(repr, POOLS))} or None, got {pooling!r}", "pooling")
    if images is None:
        images = keras.Input((*_input_size(resolution), spec.stem.in_channels), name="images")
    x = build_op(images, "first_conv", spec.stem, spec.bn, spec.padding, seed)
    for index, block in enumerate(spec.blocks):
        x = residual_block(x, f"blocks.{index}", block, spec.bn, spec.padding, seed)
    if spec.feature_mix is not None:
        x = build_op(x, "feature_mix_layer", spec.feature_mix, spec.bn, spec.padding, seed)
    if include_top or pooling:
        x = POOLS["avg" if include_top else str(pooling)](name="global_pool")(x)
    if include_top:
        x = build_op(x, "classifier", spec.classifier, spec.bn, spec.padding, seed)
        if classifier_activation is not None:
            x = keras.layers.Activation(classifier_activation, name=ACTIVATION)(x)
    return ProxylessNet(
        images,
        x,
        spec,
        include_top,
        pooling=None if include_top else pooling,
        classifier_activation=classifier_activation if include_top else None,
        name=name,
    )


def feature_extractor(model: keras.Model, layer_names: Iterable[str]) -> keras.Model:
    """A model that shares ``model``'s weights and gives ``{layer name: that layer's output}``.

    ``blocks.3`` is the output of block 3, ``first_conv.act`` that of the stem, ``feature_mix_layer.act`` the feature
    map in front of the pool and ``global_pool`` the vector behind it.

    Raises:
        InputError: no such layer, with the nearest name.
    """
    outputs = {layer.name: layer.output for layer in model.layers}
    wanted = list(layer_names)
    for name in wanted:
        if name not in outputs:
            raise InputError(f"{model.name} has no layer {name!r}{nearest(name, outputs)}", "layer_names")
    with deep_recursion():
        return keras.Model(model.input, {name: outputs[name] for name in wanted}, name=f"{model.name}_features")
