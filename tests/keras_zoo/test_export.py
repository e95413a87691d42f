"""LiteRT and SavedModel files: the source network's numbers, int8 where asked, and what they say about themselves."""

from dataclasses import replace

import numpy as np
import pytest

from proxyless_arch.arch.bits import FLOAT32, BitPlan, Format, Range, bit_layers
from proxyless_arch.arch.bits import INT8 as W8A8
from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.spec import Block, Preprocessing, with_channels
from proxyless_arch.exports.bit_files import first_blocks_float
from proxyless_arch.exports.export_formats import KERAS_FORMATS, missing
from proxyless_arch.exports.exported_file import METADATA_NAME
from proxyless_arch.exports.litert import litert_metadata, load_litert, with_metadata
from proxyless_nas_tensorflow import build
from proxyless_nas_tensorflow.export import (
    EXTRA_ASSETS,
    KerasBackend,
    calibrated,
    float_layers,
    float_names,
    quantized,
    to_int8,
    to_int16x8,
    to_litert,
)
from proxyless_nas_tensorflow.weights import load_named
from tests.errors import refused
from tests.proxyless_arch.nets import random_tensors, three_blocks

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

BASE = three_blocks()
FLOAT, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
SPECS = {
    padding: replace(
        with_channels(BASE, channels),
        padding=padding,
        blocks=(BASE.blocks[0], BASE.blocks[1], Block(op=Zero(channels=6), skip=True), BASE.blocks[2]),
        preprocessing=Preprocessing(resolution=size, resize=size, mean=(0.4,) * channels, std=(0.3,) * channels),
    )
    for padding, size, channels in (("symmetric", (11, 14), 1), ("same", 12, 3))
}


def lively(spec):
    """Random weights whose logits are about 1 on noise."""
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith("running_var"):
            tensors[name] = np.abs(tensors[name]) + 3
        elif name.startswith("classifier"):
            tensors[name] /= 3
    net = build(spec, spec.resolution)
    load_named(net, spec, tensors, "random")
    return net


def noise(spec, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, *spec.preprocessing.hwc), dtype=np.float32)


@pytest.fixture(scope="module", params=["symmetric", pytest.param("same", marks=pytest.mark.slow)])
def files(request, tmp_path_factory):
    """(backend, spec, {format name: file}) of one network."""
    spec, folder = SPECS[request.param], tmp_path_factory.mktemp("exported")
    backend = KerasBackend(lively(spec), float_blocks=2)
    formats = {name: format for name, format in KERAS_FORMATS.items() if missing(format) is None}
    for name, format in formats.items():
        backend.write(format, folder / name, '{"only": "text"}', noise(spec, 20, 1) if format.quantized else None)
    return backend, spec, {name: folder / name for name in formats}


@pytest.fixture(scope="module")
def quantizer():
    return calibrated(lively(SPECS["symmetric"]), noise(SPECS["symmetric"], 20, 1))


def logits_of(content, tmp_path, images):
    (tmp_path / "net.tflite").write_bytes(content)
    return load_litert(tmp_path / "net.tflite", 1).forward(images)


def output_types(content):
    """The element type of every operation's first output, in order."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    return [graph.Tensors(graph.Operators(k).Outputs(0)).Type() for k in range(graph.OperatorsLength())]


@pytest.mark.parametrize(("name", "limit"), [("litert", 1e-5), ("saved_model", 1e-5), ("litert_fp16", 2e-2)])
def test_logits_are_the_source_networks(files, name, limit):
    backend, spec, paths = files
    images = noise(spec, 5)
    expected = backend.source(images)
    assert expected.std() > 0.05
    found = backend.load(KERAS_FORMATS[name], paths[name]).forward(images)
    np.testing.assert_allclose(found, expected, atol=limit)


def test_int8_is_near_the_source_and_not_it(files):
    backend, spec, paths = files
    images = noise(spec, 50, 2)
    expected = backend.source(images)
    found = backend.load(KERAS_FORMATS["litert_int8"], paths["litert_int8"]).forward(images)
    assert np.abs(found - expected).max() > 1e-4
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.2 * expected.std()


def test_metadata_travels_inside(files):
    _, _, paths = files
    for name in ("litert", "litert_fp16", "litert_int8"):
        assert litert_metadata(paths[name]) == '{"only": "text"}'
    assert (paths["saved_model"] / EXTRA_ASSETS / METADATA_NAME).read_text() == '{"only": "text"}'


def test_a_litert_file_takes_one_image_and_folds_batch_normalization(files):
    model = schema.Model.GetRootAs(files[2]["litert"].read_bytes(), 0)
    graph = model.Subgraphs(0)
    assert graph.Tensors(graph.Inputs(0)).ShapeAsNumpy().tolist() == [1, *files[1].preprocessing.hwc]
    codes = schema.BuiltinOperator
    allowed = {codes.PAD, codes.CONV_2D, codes.DEPTHWISE_CONV_2D, codes.ADD, codes.MEAN, codes.FULLY_CONNECTED}
    assert {model.OperatorCodes(k).BuiltinCode() for k in range(model.OperatorCodesLength())} <= allowed


def test_which_layers_stay_float(quantizer):
    whole = output_types(quantized(quantizer))
    assert whole[-1] == FLOAT  # the logits
    assert set(whole[:-1]) == {INT8}
    kept = output_types(quantized(quantizer, float_names=["first_conv", "blocks.0"]))
    changes = [k for k in range(1, len(kept)) if kept[k] != kept[k - 1]]
    # the stem (14 pixels are padded first) and block 0 (depthwise, project), one quantize, int8 up to the logits
    assert changes == [4, len(kept) - 1]
    assert kept[0] == FLOAT
    last = output_types(quantized(quantizer, float_names=["classifier"]))
    assert last[-2:].count(FLOAT) == 2


def test_float_layers_of_a_spec():
    assert float_layers(SPECS["same"], 0) == ()
    three = float_layers(SPECS["same"], 3)  # block 2 vanished
    assert {name.partition(".mobile")[0] for name in three} == {"first_conv", "blocks.0", "blocks.1"}
    assert "blocks.3" in {name.partition(".mobile")[0] for name in float_layers(SPECS["same"], 99)}


def plan_of(spec, *kept):
    """W8A8 but for the layers ``kept``."""
    formats = {layer.name: FLOAT32 if layer.name in kept else W8A8 for layer in bit_layers(spec)}
    ranges = {name: Range(6.0) for name, each in formats.items() if each == W8A8}
    return BitPlan(network=spec.name, formats=formats, ranges=ranges)


def test_a_plan_decides_layer_by_layer(quantizer):
    spec, kept = SPECS["symmetric"], "blocks.1.mobile_inverted_conv.depth_conv"
    types = output_types(quantized(quantizer, float_names=float_names(spec, plan_of(spec, kept).formats)))
    first = types.index(FLOAT)  # the dequantize in front of it, its padding, itself, and the quantize behind it
    assert types[first : first + 3] == [FLOAT, FLOAT, FLOAT] and set(types[:first] + types[first + 3 : -1]) == {INT8}
    joined = "blocks.3.mobile_inverted_conv.inverted_bottleneck"
    assert float_names(spec, plan_of(spec, joined).formats) == (joined, "blocks.3+")
    quantized(quantizer, float_names=(joined, "blocks.3+"))  # the sum is there by this name


def test_a_mixed_file_has_the_formats_of_its_plan(tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    spec = SPECS["symmetric"]
    stored = {"classifier.linear": Format(4, None), "feature_mix_layer": Format(8, None), "first_conv": FLOAT32}
    backend = KerasBackend(lively(spec), plan=plan_of(spec).with_formats(stored))
    made = backend.write(KERAS_FORMATS["litert_mixed"], tmp_path / "a.tflite", "text of ours", noise(spec, 8))
    assert made["float_layers"] == ["first_conv"]
    assert litert_metadata(tmp_path / "a.tflite") == "text of ours"
    content = (tmp_path / "a.tflite").read_bytes()
    types = output_types(content)
    assert types[0] == FLOAT and INT8 in types and types[-1] == FLOAT
    close = logits_of(content, tmp_path, noise(spec, 20, 2)) - backend.source(noise(spec, 20, 2))
    assert np.sqrt((close**2).mean()) < 0.5
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    kinds = {graph.Tensors(index).Type() for index in range(graph.TensorsLength())}
    assert schema.TensorType.INT4 in kinds


def test_an_integer_file_has_no_float_layers(tmp_path):
    spec = SPECS["symmetric"]
    backend = KerasBackend(lively(spec), plan=plan_of(spec, "first_conv"), integer_io=True)
    with refused("layers.first_conv"):
        backend.write(KERAS_FORMATS["litert_int8"], tmp_path / "a.tflite", "{}", noise(spec, 2))
    backend = KerasBackend(lively(spec), plan=plan_of(spec), integer_io=True)
    made = backend.write(KERAS_FORMATS["litert_int8"], tmp_path / "a.tflite", "{}", noise(spec, 4))
    assert (made["images_and_logits"], made["float_layers"]) == ("int8", [])
    assert set(output_types((tmp_path / "a.tflite").read_bytes())) == {INT8}


def test_a_layer_that_is_not_there(quantizer):
    with pytest.raises(ValueError, match=r"got blocks\.2$"):
        quantized(quantizer, float_names=["blocks.1", "blocks.2"])


def test_more_float_blocks_come_closer(quantizer, tmp_path):
    spec = SPECS["symmetric"]
    images, net = noise(spec, 50, 2), lively(spec)
    expected = KerasBackend(net).source(images)
    errors = [
        np.sqrt(((logits_of(content, tmp_path, images) - expected) ** 2).mean())
        for content in (quantized(quantizer), quantized(quantizer, float_names=float_layers(spec, 4)))
    ]
    assert errors[1] < errors[0]


def test_integer_images_and_logits(quantizer, tmp_path):
    spec = SPECS["symmetric"]
    images = noise(spec, 20, 2)
    content = quantized(quantizer, integer_io=True)
    assert set(output_types(content)) == {INT8}
    found = logits_of(content, tmp_path, images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits_of(quantized(quantizer), tmp_path, images), atol=0.5)


def test_int16_activations_come_closer_than_int8(quantizer, tmp_path):
    spec = SPECS["symmetric"]
    images, net = noise(spec, 20, 2), lively(spec)
    expected = KerasBackend(net).source(images)
    wide = logits_of(to_int16x8(net, noise(spec, 20, 1)), tmp_path, images)
    assert np.abs(wide - expected).mean() < np.abs(logits_of(quantized(quantizer), tmp_path, images) - expected).mean()


@pytest.mark.slow
def test_the_converter_keeps_quiet(capfd):
    to_int8(lively(SPECS["symmetric"]), noise(SPECS["symmetric"], 2), first_blocks_float(SPECS["symmetric"], 1))
    assert capfd.readouterr() == ("", "")


def test_bad_litert_files(tmp_path):
    with refused("", "no such file", source=tmp_path / "missing.tflite"):
        litert_metadata(tmp_path / "missing.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"no flatbuffer")
    with refused("", "LiteRT", source=tmp_path / "bad.tflite"):
        litert_metadata(tmp_path / "bad.tflite")
    content = to_litert(lively(SPECS["symmetric"]))
    (tmp_path / "cut.tflite").write_bytes(content[: len(content) // 2])
    with refused("", "LiteRT", "interpreter", source=tmp_path / "cut.tflite"):
        litert_metadata(tmp_path / "cut.tflite")
    (tmp_path / "plain.tflite").write_bytes(content)
    assert litert_metadata(tmp_path / "plain.tflite") is None
    with refused("", "cannot run it", source=tmp_path / "plain.tflite"):
        load_litert(tmp_path / "plain.tflite", 1).forward(np.ones((1, 2, 3), np.float32))
    odd = with_metadata(content, "A" * 64).replace(b"A" * 64, b"\xff\xfe" * 32)
    (tmp_path / "odd.tflite").write_bytes(odd)
    with refused("", "metadata", source=tmp_path / "odd.tflite"):
        litert_metadata(tmp_path / "odd.tflite")


@pytest.mark.slow
def test_metadata_changes_nothing_else(tmp_path):
    spec = SPECS["symmetric"]
    content, images = to_litert(lively(spec)), noise(spec, 3)
    described = with_metadata(content, "é" * 1000)
    np.testing.assert_array_equal(logits_of(described, tmp_path, images), logits_of(content, tmp_path, images))
    (tmp_path / "described.tflite").write_bytes(described)
    assert litert_metadata(tmp_path / "described.tflite") == "é" * 1000
