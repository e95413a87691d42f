"""onnx_int8 files: which layers are integers, by the plan and without one, and that they compute the network."""

import numpy as np
import pytest
import torch

from proxyless_arch.arch.bits import FLOAT32, INT8, Format, Range, bit_layers, uniform_plan
from proxyless_arch.exports.bit_files import first_blocks_float, formats_for
from proxyless_arch.exports.export_formats import TORCH_FORMATS
from proxyless_nas.export import TorchBackend
from tests.compress.nets import images, trained
from tests.compress.specs import SPEC
from tests.errors import refused

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
KIND = TORCH_FORMATS["onnx_int8"]
RANGES = {layer.name: Range(clip=6.0, signed=True) for layer in bit_layers(SPEC)}


def int8_plan(**others):
    return uniform_plan(SPEC, INT8, RANGES, image=True).with_formats(others)


def exported(path, plan=None, **more):
    backend = TorchBackend(trained(), plan=plan, **more)
    pixels = images(32).permute(0, 2, 3, 1).numpy()
    made = backend.write(KIND, path, "{}", pixels)
    return backend, made


def integer_layers(path):
    """Of each layer in order: whether its weights are stored as int8."""
    graph = onnx.load(path).graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    found = []
    for layer in layers:
        weight = made_by.get(layer.input[1])
        found.append(weight is not None and kinds.get(weight.input[0]) == onnx.TensorProto.INT8)
    return found


def test_the_layers_of_the_plan_are_integers_and_the_network_is_the_same(tmp_path):
    last = bit_layers(SPEC)[-1].name
    plan = int8_plan(**{last: FLOAT32})
    backend, made = exported(tmp_path / "net.onnx", plan)
    assert integer_layers(tmp_path / "net.onnx") == [layer.name != last for layer in bit_layers(SPEC)]
    assert made["plan"] == plan.digest and made["float_layers"] == [last]
    x = images(16).numpy()
    with torch.inference_mode():
        expected = backend.source(x)
    found = backend.load(KIND, tmp_path / "net.onnx").forward(x)
    off = np.sqrt(((found - expected) ** 2).mean()) / expected.std()
    assert 0 < off < 0.1
    assert onnx.load(tmp_path / "net.onnx").metadata_props[0].value == "{}"


@pytest.mark.slow
def test_without_a_plan_the_first_quarter_stays_float(tmp_path):
    _, made = exported(tmp_path / "net.onnx")
    wanted = first_blocks_float(SPEC)
    assert integer_layers(tmp_path / "net.onnx") == [not wanted[layer.name].is_float for layer in bit_layers(SPEC)]
    assert made["float_layers"] == [name for name, each in wanted.items() if each.is_float]


def test_a_plan_that_no_kernel_runs_names_the_layer_and_the_nearest_format(tmp_path):
    layer = bit_layers(SPEC)[2].name
    with refused(f"layers.{layer}", "onnx_int8", INT8):
        exported(tmp_path / "net.onnx", int8_plan(**{layer: Format(4, 8)}))
    assert not (tmp_path / "net.onnx").exists()


def test_the_file_that_is_offered_is_of_what_runs_it():
    assert formats_for(None, SPEC) == ("export.py", "onnx")
    assert formats_for(int8_plan(), SPEC, "onnxruntime") == ("export.py", "onnx,onnx_int8")
    assert formats_for(int8_plan(), SPEC, "litert") == ("export_tf.py", "litert,litert_mixed")
    three = uniform_plan(SPEC, Format(3, 8), RANGES)
    assert formats_for(three, SPEC, "storage") is None
