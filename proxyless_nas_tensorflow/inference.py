"""A network made ready to score many images: a tf.function on a device, bf16 where asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import PRECISIONS
from proxyless_arch.base.strict import listed
from proxyless_nas_tensorflow.network import ProxylessNet, build
from proxyless_nas_tensorflow.steps import compiled
from proxyless_nas_tensorflow.weights import load_named, to_named

FLOAT32_LAYERS = ("global_pool", "classifier.dropout", "classifier.linear")


def prepared(net: ProxylessNet, device: str, precision: str = "fp32") -> Callable[[np.ndarray | tf.Tensor], tf.Tensor]:
    """The fast forward pass of a trained network: (N, H, W, 3) float32 images -> (N, classes) float32 logits.

    Args:
        net: left as it was; its weights are copied.
        device: where to run, ``CPU:0`` or ``GPU:N``.
        precision: 'fp32', or 'bf16' for the convolutions; pool and classifier stay in float32, because the few
            digits of bf16 logits would make ties among the classes.

    Raises:
        InputError: another precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"expected {listed(PRECISIONS)}, got {precision!r}", "precision")
    height, width = net.input_shape[1:3]
    with tf.device(device), _policy("mixed_bfloat16" if precision == "bf16" else "float32"):
        fast = build(net.spec, (height, width))
        for name in FLOAT32_LAYERS:
            fast.get_layer(name).dtype_policy = "float32"
        load_named(fast, net.spec, to_named(net))
        function = compiled(fast)

    def forward(images: np.ndarray | tf.Tensor) -> tf.Tensor:
        with tf.device(device):
            return function(images)

    return forward


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    """Layers built in here compute with this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
