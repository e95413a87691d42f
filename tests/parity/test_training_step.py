"""One training step in both frameworks: logits, gradients and batch statistics.

The loss is computed in batch mode, so the running statistics do not enter it; they are compared after the step.
Running variance: torch averages the unbiased variance of the batch, n / (n - 1) times the biased one that Keras 3
averages (n: values per channel). Momentum agrees, and inference does not depend on the factor.
"""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.nn import functional as F

import proxyless_nas.weights as torch_weights
import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.weights as keras_weights
from proxyless_arch.weights.files import from_tf_layout

pytestmark = pytest.mark.trains

LOGITS_ATOL = 1e-5
GRADIENT_RTOL = 1e-4  # of the largest entry of each tensor
GRADIENT_FLOOR = 1e-6  # of the largest entry of all
STATISTICS_RTOL = 1e-5


@pytest.fixture(scope="module")
def step(tiny_spec, lively):
    """Everything that one step at batch 8, 32 pixels gives: (torch, keras) pairs of dicts."""
    spec = replace(tiny_spec, bn=replace(tiny_spec.bn, momentum=0.3))
    net = lively(spec).train()
    before = torch_weights.to_named(net)
    twin = keras_zoo.build(spec)
    keras_weights.load_named(twin, spec, before)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 32, 32, 3), dtype=np.float32), rng.integers(0, 10, 8)

    counts: dict[str, int] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda _, inputs, __, name=name: counts.__setitem__(name, inputs[0][:, 0].numel())
            )
    logits = net(torch.from_numpy(images).permute(0, 3, 1, 2))
    F.cross_entropy(logits, torch.from_numpy(labels)).backward()
    torch_gradients = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}

    trained = {name: v for name, v in keras_weights.named_variables(twin) if v.trainable}
    with tf.GradientTape() as tape:
        twin_logits = twin(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, twin_logits))
    gradients = tape.gradient(loss, [v.value for v in trained.values()])
    keras_gradients = {n: from_tf_layout(n, g.numpy()) for n, g in zip(trained, gradients, strict=True)}
    return {
        "logits": (logits.detach().numpy(), twin_logits.numpy()),
        "gradients": (torch_gradients, keras_gradients),
        "statistics": (torch_weights.to_named(net), keras_weights.to_named(twin)),
        "before": before,
        "counts": counts,
    }


def test_logits_in_batch_mode(step):
    wanted, found = step["logits"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS_ATOL)


def test_gradients(step):
    wanted, found = step["gradients"]
    assert list(found) == list(wanted)
    largest = max(np.abs(gradient).max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        # the floor: a shift in front of another batch normalization has gradient 0, up to rounding
        atol = GRADIENT_RTOL * np.abs(gradient).max() + GRADIENT_FLOOR * largest
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=atol, err_msg=name)


def test_batch_statistics(step):
    (wanted, found), before = step["statistics"], step["before"]
    for name, n in step["counts"].items():
        mean, variance = f"{name}.running_mean", f"{name}.running_var"
        scale = np.sqrt(wanted[variance].max())
        np.testing.assert_allclose(found[mean], wanted[mean], rtol=0, atol=STATISTICS_RTOL * scale, err_msg=name)
        assert np.abs(wanted[mean] - before[mean]).max() > 100 * STATISTICS_RTOL * scale
        old = 0.7 * before[variance].astype(np.float64)
        unbiased = old + (found[variance] - old) * n / (n - 1)
        np.testing.assert_allclose(unbiased, wanted[variance], rtol=STATISTICS_RTOL, err_msg=name)


def test_the_variance_factor_is_the_only_difference_and_small(step):
    wanted, found = step["statistics"]
    ratios = np.concatenate([wanted[f"{n}.running_var"] / found[f"{n}.running_var"] for n in step["counts"]])
    assert 1e-4 < (ratios - 1).max() < 1 / (min(step["counts"].values()) - 1)
