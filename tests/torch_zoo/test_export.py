"""ONNX and torch.export files: the same numbers as the source network, and what they say about themselves."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from proxyless_arch.arch.codec import spec_to_dict
from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.spec import Block, Preprocessing, with_channels
from proxyless_arch.base.errors import InputError
from proxyless_arch.exports.export_formats import TORCH_FORMATS, missing
from proxyless_arch.exports.exported_file import METADATA_NAME, metadata_in, metadata_text, read_metadata
from proxyless_arch.exports.litert import litert_metadata
from proxyless_arch.exports.onnx_file import onnx_metadata
from proxyless_nas import build
from proxyless_nas.export import (
    INPUT,
    TorchBackend,
    load_executorch,
    load_onnx,
    on_tensors,
    write_torch_export,
)
from proxyless_nas.inference import fold_bn
from proxyless_nas.steps import recalibrate_bn
from tests.errors import refused
from tests.proxyless_arch.exports.test_exporting import network
from tests.proxyless_arch.nets import three_blocks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

BASE = three_blocks()
# a vanished block, an odd size, grey images higher than wide, and each padding: "same" at an even size pads the bottom
# and the right only
SPECS = {
    padding: replace(
        with_channels(BASE, channels),
        padding=padding,
        blocks=(*BASE.blocks, Block(op=Zero(channels=6), skip=True)),
        preprocessing=Preprocessing(resolution=size, resize=size, mean=(0.4,) * channels, std=(0.3,) * channels),
    )
    for padding, size, channels in (("symmetric", 11, 3), ("same", (16, 12), 1))
}


FLOAT = {name: format for name, format in TORCH_FORMATS.items() if not format.quantized}  # of int8: test_onnx_int8.py
INSTALLED = {name: format for name, format in FLOAT.items() if missing(format) is None}
FORMATS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in INSTALLED, reason=f"{name} {missing(format)}"))
    for name, format in FLOAT.items()
]


def lively(spec):
    net = build(spec, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    recalibrate_bn(net, [(torch.randn(16, spec.preprocessing.channels, 24, 24, generator=generator), torch.zeros(16))])
    return net


@pytest.fixture(scope="module", params=SPECS)
def files(request, tmp_path_factory):
    """(backend, spec, {format name: file}) of one network."""
    spec, folder = SPECS[request.param], tmp_path_factory.mktemp("exported")
    backend = TorchBackend(lively(spec))
    for name, format in INSTALLED.items():
        backend.write(format, folder / name, metadata_text(network(spec)), None)
    return backend, spec, {name: folder / name for name in INSTALLED}


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_the_source_networks_at_any_batch(files, name):
    backend, spec, paths = files
    loaded = backend.load(TORCH_FORMATS[name], paths[name])
    for batch in (1, 2, 5):
        images = np.random.default_rng(batch).standard_normal((batch, *spec.preprocessing.hwc), dtype=np.float32)
        native = backend.native(images)
        expected = backend.source(native)
        assert expected.std() > 1e-3
        np.testing.assert_allclose(loaded.forward(native), expected, atol=1e-5)


def test_no_path_of_this_machine_is_in_the_files(files):
    root = str(Path(__file__).resolve().parents[2]).encode()
    for path in files[2].values():
        assert root not in path.read_bytes()


def test_metadata_travels_inside(files):
    _, spec, paths = files
    extra = {METADATA_NAME: ""}
    torch.export.load(paths["torch_export"], extra_files=extra)
    for text in (onnx_metadata(paths["onnx"]), extra[METADATA_NAME]):
        assert read_metadata(text, "file")[0] == spec
    if "litert_torch" in paths:
        assert read_metadata(litert_metadata(paths["litert_torch"]), "litert_torch")[0] == spec
    if "executorch" in paths:
        assert metadata_in(paths["executorch"].read_bytes())["spec"] == spec_to_dict(spec)


def test_executorch_delegates_the_whole_network(tmp_path):
    pytest.importorskip("executorch")
    backend = TorchBackend(lively(SPECS["same"]))
    made = backend.write(TORCH_FORMATS["executorch"], tmp_path / "net.pte", "{}", None)
    assert (made["delegate"], made["not_delegated"]) == ("XNNPACK", [])


def test_executorch_runs_images_that_are_not_in_nchw_memory(files):
    backend, spec, paths = files
    if "executorch" not in paths:
        pytest.skip(f"executorch {missing(TORCH_FORMATS['executorch'])}")
    images = np.random.default_rng(0).standard_normal((2, *spec.preprocessing.hwc), dtype=np.float32)
    found = backend.load(TORCH_FORMATS["executorch"], paths["executorch"]).forward(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found, backend.source(backend.native(images)), atol=1e-5)


def test_bad_executorch_files(tmp_path):
    pytest.importorskip("executorch")
    with refused("", "no such file", source=tmp_path / "missing.pte"):
        load_executorch(tmp_path / "missing.pte", 1)
    (tmp_path / "bad.pte").write_bytes(b"no program" * 100)
    with refused("", "ExecuTorch", source=tmp_path / "bad.pte"):
        load_executorch(tmp_path / "bad.pte", 1)


def test_an_onnx_file_names_its_input_batch_and_output(files):
    graph = onnx.load(files[2]["onnx"]).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["images", "logits"]
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input]
    assert shapes == [["batch", *files[1].preprocessing.chw]]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_the_source_network_is_left_as_it_was(files):
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in files[0]._net.modules())


def test_an_onnx_file_as_a_function_of_tensors(files):
    backend, spec, paths = files
    images = torch.randn(2, *spec.preprocessing.chw).to(memory_format=torch.channels_last)
    found = on_tensors(load_onnx(paths["onnx"], 1))(images)
    torch.testing.assert_close(found, torch.from_numpy(backend.source(images.numpy())), atol=1e-5, rtol=0)


def test_bad_onnx_files(tmp_path):
    with refused("", "no such file", source=tmp_path / "missing.onnx"):
        onnx_metadata(tmp_path / "missing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x08no protobuf")
    with refused("", "ONNX", source=tmp_path / "bad.onnx"):
        onnx_metadata(tmp_path / "bad.onnx")


def test_somebody_elses_onnx_file(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    assert onnx_metadata(tmp_path / "other.onnx") is None
    with refused("", "says nothing", source="other.onnx"):
        read_metadata(onnx_metadata(tmp_path / "other.onnx"), "other.onnx")


def relu_file(path, name, metadata="text"):
    value, out = (onnx.helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, [1]) for one in (name, "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", [name], ["y"])], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, {METADATA_NAME: metadata})
    path.write_bytes(model.SerializeToString())
    return path


def test_what_an_onnx_file_can_do_wrong(tmp_path):
    """Another input, metadata that are no text, images that it does not take: each an error with the file's name."""
    with refused("", "one input", source=tmp_path / "other.onnx"):
        load_onnx(relu_file(tmp_path / "other.onnx", "x"), 1)
    forward = load_onnx(relu_file(tmp_path / "one.onnx", INPUT), 1).forward
    assert forward(np.ones(1, np.float32)) == 1
    for images in (np.ones((2, 3), np.float32), np.ones(1, np.int64)):
        with refused("", "cannot run it", source=tmp_path / "one.onnx"):
            forward(images)
    odd = relu_file(tmp_path / "odd.onnx", INPUT, "AAAAAAAA")
    odd.write_bytes(odd.read_bytes().replace(b"AAAAAAAA", b"\xff\xfe\xfd\xfc" * 2))
    with pytest.raises(InputError, match=r"odd.onnx"):
        onnx_metadata(odd)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_raises_oserror():
    net = fold_bn(lively(SPECS["symmetric"]))
    with pytest.raises(OSError, match="No space left"):
        write_torch_export(net, Path("/dev/full"), "{}")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.slow
def test_the_exporters_keep_quiet(tmp_path, capfd, monkeypatch, name):
    monkeypatch.setattr(sys, "stderr", os.fdopen(2, "w", closefd=False))  # as in a process without pytest
    backend = TorchBackend(lively(SPECS["symmetric"]))
    path = tmp_path / f"net{TORCH_FORMATS[name].suffix}"  # torch.export.load warns of any other name, rightly
    backend.write(TORCH_FORMATS[name], path, "{}", None)
    backend.load(TORCH_FORMATS[name], path)
    assert capfd.readouterr() == ("", "")
