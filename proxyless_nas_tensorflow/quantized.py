"""A network under a bit plan, in Keras: rounded weights, and inputs of layers that are rounded on their way in.

The weights are those of proxyless_arch.weights.quantizer, the layers those of the zoo: what a layer takes in is rounded
by a layer in front of it. Gradients pass through rounding as if it were none, where the input is within its clip.

Twin: proxyless_nas/quantized.py. In float64 the logits are the same: in float32 the last digit of a sum decides now and
then between two steps, in each framework otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor

from proxyless_arch.arch.bits import BitPlan, bit_layers
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.quantizer import levels, quantized_tensors
from proxyless_nas_tensorflow.inference import dtype_policy
from proxyless_nas_tensorflow.network import ProxylessNet, Resolution, build
from proxyless_nas_tensorflow.weights import load_named


@tf.custom_gradient
def _rounded(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    return tf.round(x), lambda gradient: gradient


@keras.saving.register_keras_serializable(package="proxyless_nas_tensorflow")
class InputQuantizer(keras.layers.Layer):
    """Rounds to the steps of a format (quantizer.quantized_activation)."""

    def __init__(self, bits: int, clip: float, signed: bool, **more: Any) -> None:
        super().__init__(**more)
        self.bits, self.clip, self.signed = bits, clip, signed

    def call(self, x: tf.Tensor) -> tf.Tensor:
        most = levels(self.bits, signed=self.signed)
        steps = tf.clip_by_value(x * (most / self.clip), -most if self.signed else 0, most)
        return _rounded(steps) * (self.clip / most)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "clip": self.clip, "signed": self.signed}


def build_quantized(
    spec: ArchSpec, tensors: NamedTensors, plan: BitPlan, resolution: Resolution = None
) -> ProxylessNet:
    """The network of ``spec`` with these weights under ``plan``.

    Raises InputError for a plan or weights of another network.
    """
    whole = build(spec, resolution)
    layers, skips = _quantizers(spec, plan)

    def call(layer: keras.layers.Layer, *inputs: Any, **more: Any) -> KerasTensor:
        if layer.name in layers:
            inputs = (layers[layer.name](inputs[0]), *inputs[1:])
        elif layer.name in skips and isinstance(layer, keras.layers.Add):
            passed, added = inputs[0]
            inputs = ([skips[layer.name](passed), added],)
        return layer(*inputs, **more)

    copy = keras.models.clone_model(whole, call_function=call)
    net = ProxylessNet(copy.inputs[0], copy.outputs[0], spec)
    load_named(net, spec, quantized_tensors(spec, tensors, plan))
    return net


def _quantizers(spec: ArchSpec, plan: BitPlan) -> tuple[dict[str, InputQuantizer], dict[str, InputQuantizer]]:
    """By the layer in front of which it rounds, and by the block whose skip passes its result on."""
    layers: dict[str, InputQuantizer] = {}
    skips: dict[str, InputQuantizer] = {}
    for layer in bit_layers(spec):
        bits = plan.formats[layer.name].activation_bits
        if bits is None:
            continue
        given = plan.ranges[layer.name]
        quantizer = InputQuantizer(bits, given.clip, given.signed, name=f"{layer.name}.input_quantizer")
        layers[layer.weight.removesuffix(".weight")] = quantizer
        if layer.leads and layer.call.skip:
            skips[layer.call.name] = quantizer
    return layers, skips


def exact_forward(spec: ArchSpec, tensors: NamedTensors, plan: BitPlan) -> Callable[[np.ndarray], tf.Tensor]:
    """(N, H, W, 3) float32 images -> (N, classes) float32 logits, computed in float64."""
    with dtype_policy("float64"):
        net = build_quantized(spec, tensors, plan, spec.resolution)

    @tf.function(input_signature=[tf.TensorSpec(net.input_shape, tf.float32)], autograph=False)
    def forward(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(net(tf.cast(images, tf.float64), training=False), tf.float32)

    return forward
