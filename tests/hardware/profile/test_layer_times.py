"""A layer timed alone in int8: two runtimes compute the same integers, and float does what the integers stand for."""

import numpy as np
import pytest

from hardware.profile.graphs import VALUE_SCALE, VALUE_ZERO, RandomWeights, to_litert, to_onnx
from hardware.profile.layer_times import layer_graph, time_layers
from hardware.profile.measure import LiteRt, OnnxRuntime
from proxyless_arch.arch.bits import bit_layers
from tests.compress.specs import SPEC

LAYERS = {layer.name: layer for layer in bit_layers(SPEC)}
NAMES = ("first_conv", "blocks.1.mobile_inverted_conv.depth_conv", "blocks.1.mobile_inverted_conv.point_linear",
         "classifier.linear")  # fmt: skip


def outputs(layer, integer, values):
    """(of LiteRT, of onnxruntime), channels last, on the same weights; biases are 0."""

    def weights(name, shape):
        return np.zeros(shape, np.float32) if name.endswith("bias") else RandomWeights()(name, shape).copy()

    graph = layer_graph(layer)
    interpreter = LiteRt().load(to_litert(graph, weights, integer=integer))
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    one = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    session = OnnxRuntime().load(to_onnx(graph, weights, integer=integer))
    flat = len(layer.shape) == 2
    given = values.reshape(1, -1) if flat else np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    other = session.run(None, {"images": given})[0]
    return one.reshape(1, -1) if flat else one, other if flat else other.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", NAMES)
def test_two_runtimes_compute_the_same_integers(name):
    layer = LAYERS[name]
    whole = np.random.default_rng(0).integers(-128, 128, (1, *layer.conv.in_hwc)).astype(np.int8)
    one, other = outputs(layer, True, whole)
    assert one.dtype == other.dtype == np.int8
    assert np.abs(one.astype(int) - other).max() <= 1 and len(np.unique(one)) > 2
    floats = ((whole.astype(np.float32) - VALUE_ZERO) * np.float32(VALUE_SCALE)).astype(np.float32)
    wanted, _ = outputs(layer, False, floats)
    found = (one.astype(float) - VALUE_ZERO) * VALUE_SCALE
    assert np.abs(found - np.clip(wanted, 0, 6)).mean() < 0.2  # a step of the weights is 0.01


def test_equal_layers_are_timed_once(monkeypatch):
    made = []
    monkeypatch.setattr("hardware.profile.layer_times.session_of", lambda *given: made.append(given))
    monkeypatch.setattr("hardware.profile.layer_times.measure", lambda *_, **__: type("T", (), {"ms": (1.0, 2.0, 4.0)}))
    layers = [LAYERS["first_conv"], LAYERS["first_conv"], LAYERS["classifier.linear"]]
    found = time_layers(layers, "onnxruntime", 1, lambda line: None)
    assert len(made) == 4 and set(found.values()) == {2.0} and len(found) == 4
