"""A trained network at work: the classes of one image, and the fast forward pass for many.

The fast one is a tf.function on a device and computes in bf16 where asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from proxyless_arch.apps.prediction import TOP, Prediction, most_likely
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import PRECISIONS
from proxyless_arch.base.strict import listed
from proxyless_arch.data.images import AnyImage
from proxyless_nas_tensorflow.data import ImageTransform
from proxyless_nas_tensorflow.network import LOGITS, ProxylessNet, build, feature_extractor
from proxyless_nas_tensorflow.steps import compiled
from proxyless_nas_tensorflow.weights import load_named, to_named

FLOAT32_LAYERS = ("global_pool", "classifier.dropout", LOGITS)


def predict(net: ProxylessNet, image: AnyImage, top: int = TOP) -> list[Prediction]:
    """The ``top`` most likely classes of one image, as (name, probability, label), the most likely first.

    The image is prepared as the weights want it (``net.spec.preprocessing``).

    Args:
        net: a trained network.
        image: a file, uint8 RGB pixels (height, width, 3), or an image of Pillow.
        top: how many classes.

    Raises:
        InputError: an image that cannot be read, or a network without its classifier.
    """
    if not net.include_top:
        raise InputError("expected a network with its classifier", "net")
    pixels = ImageTransform(net.spec.preprocessing)(image)[None]
    if net.classifier_activation is None:
        logits = net(pixels, training=False)
    else:
        logits = feature_extractor(net, [LOGITS])(pixels, training=False)[LOGITS]
    return most_likely(np.asarray(logits, np.float32)[0], net.spec, top)


def prepared(net: ProxylessNet, device: str, precision: str = "fp32") -> Callable[[np.ndarray | tf.Tensor], tf.Tensor]:
    """The fast forward pass of a trained network: (N, H, W, 3) float32 images -> (N, classes) float32 logits.

    Args:
        net: left as it was; its weights are copied.
        device: where to run, ``CPU:0`` or ``GPU:N``.
        precision: 'fp32', or 'bf16' for the convolutions; pool and classifier stay in float32, because the few
            digits of bf16 logits would make ties among the classes.

    Raises:
        InputError: another precision, or one that TensorFlow has no kernels for here.
    """
    if precision not in PRECISIONS:
        raise InputError(f"expected {listed(PRECISIONS)}, got {precision!r}", "precision")
    height, width = net.input_shape[1:3]
    with tf.device(device), dtype_policy("mixed_bfloat16" if precision == "bf16" else "float32"):
        fast = build(net.spec, (height, width))
        for name in FLOAT32_LAYERS:
            fast.get_layer(name).dtype_policy = "float32"
        load_named(fast, net.spec, to_named(net))
        function = compiled(fast)

    def forward(images: np.ndarray | tf.Tensor) -> tf.Tensor:
        with tf.device(device):
            return function(images)

    if precision == "bf16":
        try:
            forward(np.zeros((1, *net.input_shape[1:]), np.float32))
        except tf.errors.OpError as error:  # TensorFlow asks the CPU, its kernels ask oneDNN: they need not agree
            problem = next(iter(str(error).splitlines()), "")
            raise InputError(
                f"TensorFlow has no bf16 kernels for this machine ({problem}); use fp32", "precision"
            ) from None
    return forward


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Layers built in here compute with this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
