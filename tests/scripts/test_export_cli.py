"""export.py and export_tf.py as a person types them, and their files in eval.py and eval_tf.py."""

import contextlib
import errno
import importlib
import json
import os
import sys
from dataclasses import replace

# In one process torch goes first: the reverse can crash.
with contextlib.suppress(ModuleNotFoundError):
    import torch

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.spec import Preprocessing, with_classes
from proxyless_arch.data.datasets import digits
from proxyless_arch.weights.files import save_h5
from tests.errors import error_line, named
from tests.proxyless_arch.nets import three_blocks
from tests.scripts.test_eval_cli import tame_tensors

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

SPEC = replace(
    with_classes(three_blocks(), 10, digits()[0].class_names), preprocessing=Preprocessing(resolution=11, resize=12)
)
SCRIPTS = {"export": "onnx", "export_tf": "litert"}


def save_run(folder, variance):
    """A network of digits with calm random weights: logits of about 1."""
    folder.mkdir(exist_ok=True)
    tensors = tame_tensors(SPEC)
    for name in tensors:
        if name.endswith("running_var"):
            tensors[name] += variance
    write_spec(folder / "spec.json", SPEC)
    save_h5(folder / "weights.h5", SPEC, tensors, {"trained": "never"})
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), variance=3)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def main(script, *argv):
    return importlib.import_module(script).main([str(word) for word in argv])


def export(script, run_folder, output, *argv, formats=None):
    words = ("--arch", run_folder, "--format", formats or SCRIPTS[script], "--output", output, "--rounds", 3)
    return main(script, *words, *argv)


def error_of(capsys, script, *argv):
    assert main(script, *argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def scores(script, tmp_path, *argv):
    path = tmp_path / "scores.json"
    assert main(script, *argv, "--path", "digits", "--limit", 60, "--device", "cpu", "--save_json", path) == 0
    return json.loads(path.read_text())


def seen(script, tmp_path, arch):
    """What a script says of one photo: names, and percentages."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert main(script, tmp_path / "photo.png", "--arch", arch, "--json", tmp_path / "seen.json") == 0
    (entry,) = json.loads((tmp_path / "seen.json").read_text())["images"]
    return [top["name"] for top in entry["top"]], [top["percent"] for top in entry["top"]]


def test_torch_files_and_eval_of_the_onnx_file(tmp_path, run_folder, capsys):
    output = tmp_path / "exported"
    assert export("export", run_folder, output, formats="onnx,torch_export") == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "export.json",
        "three.onnx",
        "three.pt2",
        "three_labels.txt",
    ]
    record = json.loads((output / "export.json").read_text())
    for file in record["files"]:
        assert file["max_logit_difference"] < 1e-4
        assert file["top1_agreement_percent"] == 100
        assert file["top1_percent"] == record["source"]["top1_percent"]
        assert file["size_bytes"] == (output / file["file"]).stat().st_size
        assert file["latency_ms"]["quartile1"] <= file["latency_ms"]["median"] <= file["latency_ms"]["quartile3"]
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "three.onnx" in captured.out
    source = scores("eval", tmp_path, "--arch", run_folder)
    found = scores("eval", tmp_path, "--onnx", output / "three.onnx")
    for key in ("top1_hits", "top5_hits", "n_images", "preprocessing", "arch", "num_classes"):
        assert found[key] == source[key]
    assert found["loss"] == pytest.approx(source["loss"], rel=1e-4)
    assert found.keys() == source.keys()
    assert found["framework"] == "onnxruntime"
    check_that_any_onnxruntime_reads(output / "three.onnx")
    other = save_run(tmp_path / "other", variance=4)
    words = ("--arch", other, "--format", "torch_export", "--output", output)
    assert "three.pt2" in (error := error_of(capsys, "export", *words)) and "holds another network" in error
    assert scores("eval", tmp_path, "--arch", output / "three.onnx")["top1_hits"] == source["top1_hits"]
    names, percentages = seen("predict", tmp_path, run_folder)
    assert seen("predict", tmp_path, output / "three.onnx") == (names, pytest.approx(percentages, abs=2e-3))
    assert "without _tf" in error_of(capsys, "predict_tf", tmp_path / "photo.png", "--arch", output / "three.onnx")


@pytest.mark.slow
def test_pixels_in_and_an_older_operator_set(tmp_path, run_folder, capsys):
    output = tmp_path / "exported"
    assert export("export", run_folder, output, "--bake-preprocessing", "--opset", 19) == 0
    (file,) = json.loads((output / "export.json").read_text())["files"]
    assert file["max_logit_difference"] < 1e-4
    assert (file["made"]["opset"], file["made"]["ir_version"]) == (19, 9)
    session = onnxruntime.InferenceSession(output / "three.onnx")
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 11, 11])
    source, found = (
        scores("eval", tmp_path, *words) for words in (("--arch", run_folder), ("--onnx", output / "three.onnx"))
    )
    assert found["top1_hits"] == source["top1_hits"]
    assert found["loss"] == pytest.approx(source["loss"], rel=1e-4)
    names, percentages = seen("predict", tmp_path, run_folder)
    assert seen("predict", tmp_path, output / "three.onnx") == (names, pytest.approx(percentages, abs=2e-3))


def check_that_any_onnxruntime_reads(file):
    """Operator set 18 and IR version 8 are those of ONNX 1.13, which onnxruntime takes from 1.14 on."""
    model = pytest.importorskip("onnx").load(file)
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (8, [("", 18)])
    graph = model.graph
    parts = (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output)
    assert not any(part.metadata_props for part in parts)  # a field of IR version 10


def test_a_format_that_is_not_installed_is_skipped_beside_others(tmp_path, run_folder, capsys, monkeypatch):
    for module in ("executorch", "litert_torch"):
        monkeypatch.setitem(sys.modules, module, None)
    output = tmp_path / "exported"
    assert export("export", run_folder, output, formats="torch_export,executorch,litert_torch") == 0
    assert sorted(path.name for path in output.iterdir()) == ["export.json", "three.pt2", "three_labels.txt"]
    skipped = {line["format"]: line["reason"] for line in json.loads((output / "export.json").read_text())["skipped"]}
    printed = capsys.readouterr().out
    for name, extra in (("executorch", "executorch"), ("litert_torch", "litert-torch")):
        named(skipped[name], extra, f"pip install -e '.[{extra}]'")
        assert f"skipped: {skipped[name]}" in printed
        words = ("--arch", run_folder, "--format", name, "--output", tmp_path / "alone")
        error_line(error_of(capsys, "export", *words), "--format", name, skipped[name])
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize(("name", "file"), [("executorch", "three.pte"), ("litert_torch", "three_torch.tflite")])
def test_optional_torch_files(tmp_path, run_folder, capfd, monkeypatch, name, file):
    pytest.importorskip(name)
    monkeypatch.setattr(sys, "stderr", os.fdopen(2, "w", closefd=False))  # as in a process without pytest
    output = tmp_path / "exported"
    assert export("export", run_folder, output, formats=name) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(["export.json", file, "three_labels.txt"])
    found = json.loads((output / "export.json").read_text())["files"][0]
    assert found["max_logit_difference"] < 1e-4
    assert found["top1_agreement_percent"] == 100
    assert found["size_bytes"] == (output / file).stat().st_size
    captured = capfd.readouterr()
    assert file in captured.out
    assert captured.err == ""


@pytest.mark.slow
def test_pixels_in_litert(tmp_path, run_folder):
    output = tmp_path / "exported"
    assert export("export_tf", run_folder, output, "--bake_preprocessing") == 0
    (file,) = json.loads((output / "export_tf.json").read_text())["files"]
    assert file["max_logit_difference"] < 1e-4
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(output / "three.tflite"))
    (given,) = interpreter.get_input_details()
    assert given["dtype"].__name__ == "uint8" and given["shape"].tolist() == [1, 11, 11, 3]
    found = scores("eval_tf", tmp_path, "--tflite", output / "three.tflite")
    assert found["loss"] == pytest.approx(scores("eval_tf", tmp_path, "--arch", run_folder)["loss"], rel=1e-4)
    names, percentages = seen("predict_tf", tmp_path, run_folder)
    assert seen("predict_tf", tmp_path, output / "three.tflite") == (names, pytest.approx(percentages, abs=2e-3))


def test_keras_files_and_eval_of_the_litert_files(tmp_path, run_folder, capsys):
    output = tmp_path / "exported"
    assert export("export_tf", run_folder, output, formats="litert,litert_int8,saved_model") == 0
    names = ["export_tf.json", "three.tflite", "three_int8.tflite", "three_labels.txt", "three_saved_model"]
    assert sorted(path.name for path in output.iterdir()) == names
    record = json.loads((output / "export_tf.json").read_text())
    by_format = {file["format"]: file for file in record["files"]}
    assert by_format["litert"]["max_logit_difference"] < 1e-4
    assert by_format["saved_model"]["max_logit_difference"] < 1e-4
    assert by_format["litert_int8"]["tolerance"] is None
    assert by_format["litert_int8"]["made"]["float_blocks"] == 1
    assert record["calibration"]["data"] == "the embedded digits"
    assert capsys.readouterr().err == ""
    source = scores("eval_tf", tmp_path, "--arch", run_folder)
    found = scores("eval_tf", tmp_path, "--tflite", output / "three.tflite")
    assert found["top1_hits"] == source["top1_hits"]
    assert found["loss"] == pytest.approx(source["loss"], rel=1e-4)
    assert found["framework"] == "LiteRT"
    names, percentages = seen("predict_tf", tmp_path, run_folder)
    for script in ("predict", "predict_tf"):
        assert seen(script, tmp_path, output / "three.tflite") == (names, pytest.approx(percentages, abs=2e-3))
    assert found.keys() == source.keys()
    int8 = scores("eval_tf", tmp_path, "--tflite", output / "three_int8.tflite")
    assert int8["loss"] != source["loss"]
    assert int8["loss"] == pytest.approx(source["loss"], rel=0.2)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_command_lines(script, run_folder, tmp_path, capsys):
    common = ("--arch", run_folder, "--output", tmp_path / "out")
    wrong = SCRIPTS[script] + "x"
    assert f"did you mean '{SCRIPTS[script]}'?" in error_of(capsys, script, *common, "--format", wrong)
    error = error_of(capsys, script, *common, "--format", SCRIPTS[script], "--check", tmp_path / "nothing")
    assert "no such folder or .zip" in error
    assert "--format" in error_of(capsys, script, "--arch", run_folder, "--output", tmp_path / "out")
    error = error_of(capsys, script, "--arch", "proxyless_mobil", "--format", SCRIPTS[script], "--output", tmp_path)
    assert "did you mean 'proxyless_mobile'?" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_output_below_a_file(script, run_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ("--arch", run_folder, "--format", SCRIPTS[script], "--output", tmp_path / "file" / "out")
    error_line(error_of(capsys, script, *words), "--output", os.strerror(errno.ENOTDIR))


def test_an_empty_calibration_folder(run_folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    words = ("--arch", run_folder, "--format", "litert_int8", "--output", tmp_path / "out")
    assert "no images in it" in error_of(capsys, "export_tf", *words, "--calibration", tmp_path / "empty")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("script", "flag"), [("eval", "--onnx"), ("eval_tf", "--tflite")])
def test_exported_files_that_cannot_be_evaluated(script, flag, run_folder, tmp_path, capsys):
    assert "no such file" in error_of(capsys, script, flag, tmp_path / "missing")
    (tmp_path / "bad").write_bytes(b"nothing of the kind")
    assert "expected a" in error_of(capsys, script, flag, tmp_path / "bad")
    assert "--arch: not together with" in error_of(capsys, script, flag, tmp_path / "bad", "--arch", run_folder)
    assert "--resolution: not together" in error_of(capsys, script, flag, tmp_path / "bad", "--image_size", 12)
    assert "--precision: not together" in error_of(capsys, script, flag, tmp_path / "bad", "--precision", "bf16")
    assert "--device" in error_of(capsys, script, flag, tmp_path / "bad", "--device", "cuda")
    assert f"expected one of --arch and {flag}" in error_of(capsys, script)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("script", "formats"),
    [
        pytest.param("export", "onnx", marks=pytest.mark.slow),
        pytest.param("export", "torch_export", marks=pytest.mark.slow),
        pytest.param("export_tf", "litert,litert_int8", marks=pytest.mark.slow),
    ],
)
def test_the_small_released_network_on_photos(script, formats, shared_data, tmp_path):
    stem = shared_data / "official" / "proxyless-w0.3-r176_imagenet"
    photos = shared_data / "imagenet_sample.zip"
    recipe = ("--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5)
    data = ("--check", photos, "--check_images", 25)
    if "int8" in formats:
        data += ("--calibration", photos, "--calibration_images", 20)
    words = ("--arch", f"{stem}.json", "--weights", f"{stem}.pth", *recipe, *data, "--rounds", 3)
    assert main(script, *words, "--format", formats, "--output", tmp_path) == 0
    record = json.loads((tmp_path / f"{script}.json").read_text())
    assert record["check"]["labelled"]
    assert 40 <= record["source"]["top1_percent"] <= 90
    for file in record["files"]:
        exact = file["format"] != "litert_int8"
        assert file["max_logit_difference"] < (1e-4 if exact else 3)
        assert file["top1_agreement_percent"] >= (100 if exact else 80)
