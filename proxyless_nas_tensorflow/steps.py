"""Evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from proxyless_arch.apps.scores import AnyScore, EvalResult

Batches = Iterable[tuple[np.ndarray | tf.Tensor, np.ndarray | tf.Tensor]]


def compiled(model: keras.Model) -> Callable[[np.ndarray | tf.Tensor], tf.Tensor]:
    """``model`` at inference as a tf.function: traced once, for every batch size and every image size it takes.

    No jit_compile: on a CPU that is more than ten times slower.
    """
    signature = [tf.TensorSpec(model.input_shape, tf.float32)]
    return tf.function(partial(model, training=False), input_signature=signature, autograph=False)


def evaluate(
    forward: Callable[[np.ndarray | tf.Tensor], tf.Tensor], batches: Batches, score: AnyScore | None = None
) -> AnyScore:
    """``score`` (by default of hits and loss) with all batches of (N, H, W, 3) images and (N,) labels."""
    result = EvalResult() if score is None else score
    for images, labels in batches:
        logits = np.asarray(forward(images)).astype(np.float32)
        result = result.plus(logits, np.asarray(labels))
    return result
