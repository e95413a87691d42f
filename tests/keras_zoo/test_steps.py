"""Evaluation through Keras."""

import numpy as np
import pytest
import tensorflow as tf

import proxyless_nas_tensorflow as zoo
from proxyless_nas_tensorflow.steps import compiled, evaluate


def test_compiled_is_the_model_and_is_traced_once(tiny_spec):
    net = zoo.build(tiny_spec, seed=0)
    forward = compiled(net)
    for batch, size in ((1, 32), (3, 32), (2, 47)):
        images = np.random.default_rng(size).standard_normal((batch, size, size, 3), dtype=np.float32)
        np.testing.assert_allclose(forward(images), net(images, training=False), atol=1e-6)
    assert forward.experimental_get_tracing_count() == 1


def test_evaluate_counts_every_image_of_a_short_last_batch():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((10, 20), dtype=np.float32), rng.integers(0, 20, 10)
    whole = evaluate(tf.identity, [(logits, labels)])
    parts = evaluate(tf.identity, [(logits[i : i + 4], tf.constant(labels[i : i + 4])) for i in (0, 4, 8)])
    assert (whole.n_images, whole.top1_hits) == (10, int((logits.argmax(1) == labels).sum()))
    assert (parts.top1_hits, parts.top5_hits, parts.n_images) == (whole.top1_hits, whole.top5_hits, 10)
    assert parts.loss == pytest.approx(whole.loss)


def test_evaluate_reads_half_precision_logits():
    logits = np.eye(4, dtype=np.float32) * 3
    result = evaluate(lambda images: tf.cast(images, tf.bfloat16), [(logits, np.arange(4))])
    assert (result.top1_hits, result.n_images) == (4, 4)
