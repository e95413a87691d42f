"""The part of the export scripts that needs no framework: formats, images, the check, and what is left behind."""

import errno
import json
import os
import shlex
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.apps.evaluation import Network
from proxyless_arch.arch.codec import spec_to_dict
from proxyless_arch.arch.ops import Conv, Linear, MBConv
from proxyless_arch.arch.spec import Block, Preprocessing, with_classes
from proxyless_arch.base import timing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import digits
from proxyless_arch.data.images import normalize
from proxyless_arch.exports import export_formats, exported_file, exporting
from proxyless_arch.exports.export_formats import KERAS_FORMATS, TORCH_FORMATS
from proxyless_arch.exports.exported_file import Loaded
from tests.errors import named, refused
from tests.proxyless_arch.nets import random_tensors, three_blocks

SPEC = replace(
    with_classes(three_blocks(), 10, digits()[0].class_names), preprocessing=Preprocessing(resolution=8, resize=8)
)


def network(spec=SPEC):
    return Network(
        spec=spec,
        tensors=random_tensors(spec),
        weights="somewhere/net.h5",
        weights_blob_sha1="0" * 40,
        published=None,
        changed=False,
        provenance={"trained": "on digits"},
    )


def parsed(tmp_path, *argv, known=KERAS_FORMATS, formats="litert"):
    words = ["--arch", "x", "--format", formats, "--output", tmp_path / "out", *argv]
    return exporting.parse([str(word) for word in words], "export.py", "", known)


@pytest.fixture
def loose_photos(tmp_path):
    """Twelve images of noise in a folder, without class folders."""
    folder = tmp_path / "loose"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(generator.integers(0, 256, (9, 10, 3), np.uint8)).save(folder / f"{index:02}.png")
    return folder


class FakeBackend:
    """Files are the format's name; the source multiplies pixels by fixed weights, an export is ``off`` by so much."""

    framework, versions, threads, channels = "fake 1.0", {"fake": "1.0"}, 1, -1

    def __init__(self, off=0.0, write_error=None):
        self.off, self.write_error, self.given, self.loaded = off, write_error, {}, []

    def native(self, pixels):
        return pixels

    def source(self, images):
        return images.reshape(len(images), -1)[:, :10]

    def write(self, format, path, metadata, calibration):
        self.given[format.name] = (metadata, calibration)
        path.write_text(format.name + metadata)
        if self.write_error:
            raise self.write_error
        return {"by": "fake"}

    def load(self, format, path):
        assert path.read_text().startswith(format.name)
        self.loaded.append(format.name)

        def forward(images):
            if images.dtype == np.uint8:
                images = normalize(images, SPEC.preprocessing.mean, SPEC.preprocessing.std)
            return self.source(images) + self.off

        return Loaded(forward, "fakert", "2.0")


def exported(tmp_path, backend, *argv, known=KERAS_FORMATS, formats="litert", net=None):
    arguments = parsed(tmp_path, "--rounds", 2, *argv, known=known, formats=formats)
    return exporting.export(arguments, ["export.py"], net or network(), backend, "export.json")


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("onx", ["onnx", "torch_export", "executorch", "litert_torch", "'onx'", "'onnx'"]),
        ("onnx,onnx", ["every format once"]),
        ("pt2,torch_export", ["every format once"]),
        (" , ", ["separated by commas"]),
    ],
)
def test_unknown_formats(text, values):
    with refused("--format", *values):
        export_formats.choose_formats(text, TORCH_FORMATS)


@pytest.mark.parametrize(
    ("known", "formats", "meant"),
    [
        (TORCH_FORMATS, "tflite", "export_tf.py"),
        (TORCH_FORMATS, "onnx,litert_int8", "export_tf.py"),
        (TORCH_FORMATS, "savedmodel", "export_tf.py"),
        (KERAS_FORMATS, "ONNX", None),
        (KERAS_FORMATS, "litert,onnx", "export.py"),
    ],
)
def test_formats_of_the_other_script_come_with_its_command(tmp_path, known, formats, meant):
    with pytest.raises(InputError, match="--format") as caught:
        parsed(tmp_path, known=known, formats=formats)
    found = caught.value.problem.partition("python ")[2]
    if meant is None:
        assert not found
        return
    script, *words = shlex.split(found)
    assert script == meant
    other = KERAS_FORMATS if known is TORCH_FORMATS else TORCH_FORMATS
    arguments = exporting.parse(words, script, "", other)
    assert (arguments.arch, arguments.output) == ("x", tmp_path / "out")


def test_formats_go_by_the_names_of_others_too(tmp_path):
    found = parsed(tmp_path, formats="tflite,SavedModel").formats
    assert [format.name for format in found] == ["litert", "saved_model"]


def test_several_formats_keep_their_order():
    chosen = export_formats.choose_formats("saved_model, litert", KERAS_FORMATS)
    assert [format.name for format in chosen] == ["saved_model", "litert"]


@pytest.mark.parametrize(
    ("module", "table", "name", "package"),
    [
        ("onnxruntime", TORCH_FORMATS, "onnx", "onnxruntime"),
        ("ai_edge_litert", KERAS_FORMATS, "litert", "ai-edge-litert"),
    ],
)
@pytest.mark.parametrize("others", [(), ("torch_export",)])
def test_a_missing_runtime_says_what_to_install(monkeypatch, module, table, name, package, others):
    monkeypatch.setitem(sys.modules, module, None)
    with refused("--format", name, package, "pip install -e '.[export]'"):
        export_formats.check_runtimes([table[name], *(TORCH_FORMATS[other] for other in others)])


@pytest.fixture
def without_extras(monkeypatch):
    """Neither of the optional packages, installed or not."""
    for module in ("executorch", "litert_torch"):
        monkeypatch.setitem(sys.modules, module, None)


def test_an_optional_format_that_is_not_installed_is_skipped_beside_others(without_extras):
    formats = [TORCH_FORMATS[name] for name in ("executorch", "torch_export", "litert_torch")]
    ready, skipped = export_formats.check_runtimes(formats)
    assert ready == (TORCH_FORMATS["torch_export"],)
    assert [format.name for format, _ in skipped] == ["executorch", "litert_torch"]
    for (_, reason), extra in zip(skipped, ("executorch", "litert-torch"), strict=True):
        named(reason, f"needs {extra}", f"pip install -e '.[{extra}]'")


@pytest.mark.parametrize("names", [("executorch",), ("litert_torch",), ("litert_torch", "executorch")])
def test_optional_formats_alone_are_an_error_when_not_installed(without_extras, names):
    with pytest.raises(InputError, match="--format: ") as caught:
        export_formats.check_runtimes([TORCH_FORMATS[name] for name in names])
    for name in names:
        extra = name.replace("_", "-")
        named(caught.value.problem, name, f"needs {extra}", f"pip install -e '.[{extra}]'")


def test_the_extras_exist():
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
    for format in (*TORCH_FORMATS.values(), *KERAS_FORMATS.values()):
        assert format.extra in project["optional-dependencies"]


def test_an_operation_that_a_format_does_not_know():
    fewer = replace(KERAS_FORMATS["litert"], operations=(Conv, Linear))
    with refused("blocks.0", "litert", "Conv", "Linear", "MBConv"):
        export_formats.check_holds(SPEC, fewer)


def test_a_padding_that_a_format_does_not_know():
    only_same = replace(KERAS_FORMATS["litert"], paddings=("same",))
    with pytest.raises(InputError, match="padding: litert holds 'same', got 'symmetric'"):
        export_formats.check_holds(SPEC, only_same)


def test_a_network_larger_than_the_format():
    huge = replace(
        SPEC,
        blocks=(),
        stem=Conv(in_channels=3, out_channels=32768, kernel_size=1),
        feature_mix=Conv(in_channels=32768, out_channels=32768, kernel_size=1),
        classifier=replace(SPEC.classifier, in_features=32768),
    )
    with refused("--format", "onnx", "2.15 GB", "4.30 GB"):
        export_formats.check_holds(huge, TORCH_FORMATS["onnx"])
    export_formats.check_holds(huge, TORCH_FORMATS["torch_export"])


def test_calibration_needs_a_quantized_format(tmp_path):
    with refused("--calibration", "litert_int8", "--format litert"):
        parsed(tmp_path, "--calibration", "photos")
    with refused("--calibration", "onnx_int8", "--format onnx"):
        parsed(tmp_path, "--calibration", "photos", known=TORCH_FORMATS, formats="onnx")


@pytest.mark.parametrize(("blocks", "floating"), [(0, 0), (1, 1), (4, 1), (5, 2), (22, 6)])
def test_a_quarter_of_the_blocks_stays_float(blocks, floating):
    keeps = Block(op=MBConv(in_channels=6, out_channels=6, kernel_size=3, expand_ratio=2), skip=True)
    stem = replace(SPEC.stem, out_channels=6)
    assert export_formats.default_float_blocks(replace(SPEC, stem=stem, blocks=(keeps,) * blocks)) == floating


# ---------------------------------------------------------------------------------------------------------- images


def test_the_check_uses_digits_by_default_and_knows_their_labels(tmp_path):
    checked, calibration = exporting.pick_images(parsed(tmp_path, "--check_images", 7), SPEC)
    assert checked.pixels.shape == (7, 8, 8, 3)
    assert len(checked.labels) == 7
    assert calibration is None
    assert exporting.pick_images(parsed(tmp_path), replace(SPEC, class_names=()))[0].labels is None


def test_any_folder_will_do_and_calibration_never_sees_the_check(tmp_path, loose_photos):
    arguments = parsed(
        tmp_path, "--check", loose_photos, "--check_images", 5, "--calibration", loose_photos, formats="litert_int8"
    )
    checked, calibration = exporting.pick_images(arguments, SPEC)
    assert checked.labels is None
    assert (len(checked.pixels), len(calibration.pixels)) == (5, 7)
    both = np.concatenate([checked.pixels, calibration.pixels]).reshape(12, -1)
    assert len(np.unique(both, axis=0)) == 12


def test_folders_of_some_classes_give_the_networks_labels(tmp_path, loose_photos):
    for name, images in (("7", "00.png 01.png"), ("3", "02.png")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for image in images.split():
            (loose_photos / image).rename(tmp_path / "data" / name / image)
    checked, _ = exporting.pick_images(parsed(tmp_path, "--check", tmp_path / "data"), SPEC)
    assert checked.labels.tolist() == [3, 7, 7]


def test_the_seed_decides_which_images(tmp_path, loose_photos):
    def pick(seed):
        return exporting.pick_images(
            parsed(tmp_path, "--check", loose_photos, "--check_images", 3, "--seed", seed), SPEC
        )[0].pixels

    np.testing.assert_array_equal(pick(1), pick(1))
    assert not np.array_equal(pick(1), pick(2))


def test_an_empty_calibration_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused("", "no images", source=tmp_path / "empty"):
        exporting.pick_images(parsed(tmp_path, "--calibration", tmp_path / "empty", formats="litert_int8"), SPEC)


def test_calibration_images_that_the_check_uses_up(tmp_path, loose_photos):
    arguments = parsed(tmp_path, "--check", loose_photos, "--calibration", loose_photos, formats="litert_int8")
    with refused("--calibration", "12 images", "--check_images"):
        exporting.pick_images(arguments, SPEC)


def test_int8_of_other_networks_than_digits_needs_calibration_images(tmp_path):
    arguments = parsed(tmp_path, formats="litert_int8")
    assert exporting.pick_images(arguments, SPEC)[1].source == "the embedded digits"
    with pytest.raises(InputError, match="--calibration: int8 needs images like those"):
        exporting.pick_images(arguments, replace(SPEC, class_names=()))


def test_a_folder_of_unreadable_images(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no image")
    with refused("--check", "1 images", "JPEG"):
        exporting.pick_images(parsed(tmp_path, "--check", tmp_path / "bad"), SPEC)


# ------------------------------------------------------------------------------------------------------- the check


def test_comparison_against_hand_computed_numbers():
    source = np.array([[1.0, 2.0], [5.0, 3.0]], np.float32)
    found = exporting.compare(source, np.array([[1.5, 2.0], [1.0, 3.0]], np.float32), np.array([1, 0]))
    assert found.max_logit_difference == 4
    assert found.rms_logit_difference == pytest.approx(np.sqrt((0.25 + 16) / 4))
    assert (found.top1_agreement_percent, found.source_top1_percent, found.top1_percent) == (50, 100, 50)


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_what_passes_grows_with_the_logits(spread):
    source = spread * np.array([[-1.0, 1.0], [1.0, -1.0]])
    allowed = 1e-4 * max(1, spread)
    exporting.require_within(KERAS_FORMATS["litert"], exporting.compare(source, source + 0.99 * allowed, None))
    with refused("litert"):
        exporting.require_within(KERAS_FORMATS["litert"], exporting.compare(source, source + 1.01 * allowed, None))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_export_that_is_not_finite_never_passes(value):
    source = np.zeros((1, 2), np.float32)
    found = exporting.compare(source, np.array([[0, value]], np.float32), None)
    for name in ("litert", "litert_fp16"):
        with refused(name, "up to inf"):
            exporting.require_within(KERAS_FORMATS[name], found)


def test_a_source_that_is_not_finite_is_no_reference():
    with refused("--weights", "source network", "finite"):
        exporting.compare(np.array([[np.nan]]), np.zeros((1, 1)), None)


def test_files_are_timed_beside_the_source():
    found = exporting.time_beside(lambda: None, {"a": lambda: None, "b": lambda: None}, 4)
    assert set(found.ms) == {"source", "a", "b"}
    for ms in found.ms.values():
        assert 0 <= ms.low <= ms.median <= ms.high
    assert found.drift >= 0 and 0 <= found.repeated <= 4


def test_what_a_network_costs_behind_another_one_is_no_part_of_its_time(monkeypatch):
    """A machine on which the first run behind another network's takes 5 ms more, as where caches are cold."""
    clock, latest = [0.0], [""]

    def network(name, ms):
        def run():
            clock[0] += (ms + 5 * (latest[0] != name)) / 1000
            latest[0] = name

        return run

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    found = exporting.time_beside(network("source", 4), {"short": network("short", 1), "long": network("long", 20)}, 5)
    medians = {name: ms.median for name, ms in found.ms.items()}
    assert medians == pytest.approx({"source": 4, "short": 1, "long": 25})


@pytest.mark.parametrize("channels", [1, -1])
def test_pixels_come_back_exactly(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    images = normalize(pixels, SPEC.preprocessing.mean, SPEC.preprocessing.std)
    if channels == 1:
        images, pixels = images.transpose(0, 3, 1, 2), pixels.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(exported_file.as_uint8(images, SPEC.preprocessing, channels), pixels)


@pytest.mark.parametrize(
    ("words", "can"),
    [(["--opset", 18], ["onnx"]), (["--bake_preprocessing"], ["litert", "litert_fp16"])],
)
def test_what_a_format_cannot(tmp_path, words, can):
    with refused(words[0], *can):
        parsed(tmp_path, *words, formats="litert,saved_model")


# -------------------------------------------------------------------------------------------------- what is left


def test_files_and_record(tmp_path, capsys):
    backend = FakeBackend(off=5e-5)
    record = exported(tmp_path, backend, "--check_images", 4, formats="litert,litert_int8")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "export.json", "three.tflite", "three_int8.tflite", "three_labels.txt",
    ]  # fmt: skip
    assert (tmp_path / "out" / "three_labels.txt").read_text().splitlines() == list(SPEC.class_names)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == json.loads(json.dumps(record))
    assert [file["tolerance"] for file in record["files"]] == [pytest.approx(1.2e-4, rel=0.1), None]  # logits spread
    assert record["files"][0]["max_logit_difference"] == pytest.approx(5e-5, rel=0.01)
    assert record["files"][0]["size_bytes"] == (tmp_path / "out" / "three.tflite").stat().st_size
    assert record["files"][0]["top1_percent"] == record["source"]["top1_percent"]
    assert record["calibration"]["n_images"] == 200
    assert record["skipped"] == []
    assert backend.given["litert"][1] is None
    assert len(backend.given["litert_int8"][1]) == 200
    printed = capsys.readouterr().out
    assert "three_int8.tflite" in printed
    assert "threads: 1" in printed
    assert max(map(len, printed.splitlines()[:4])) < 140


def test_a_skipped_format_is_in_the_table_and_the_record(tmp_path, without_extras, capsys):
    record = exported(tmp_path, FakeBackend(), known=TORCH_FORMATS, formats="executorch,torch_export")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "export.json", "three.pt2", "three_labels.txt",
    ]  # fmt: skip
    assert [file["format"] for file in record["files"]] == ["torch_export"]
    reason = "needs executorch, not installed: pip install -e '.[executorch]'"
    assert json.loads((tmp_path / "out" / "export.json").read_text())["skipped"] == [
        {"format": "executorch", "reason": reason}
    ]
    assert f"executorch  skipped: {reason}\n" in capsys.readouterr().out


def test_metadata_describes_the_network(tmp_path):
    backend = FakeBackend()
    exported(tmp_path, backend)
    text = backend.given["litert"][0]
    spec, provenance = exported_file.read_metadata(text, "net.tflite")
    assert spec == SPEC
    assert provenance["weights"] == "net.h5"
    assert provenance["weight_file_says"] == {"trained": "on digits"}
    assert json.loads(text)["class_names"] == list(SPEC.class_names)
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "says nothing"),
        ("{", "not JSON"),
        ("{}", "format: missing"),
        (json.dumps({"format": "other", "version": 1, "spec": {}}), "format: expected 'proxyless-arch/export'"),
        (
            json.dumps({"format": exported_file.FORMAT, "version": 1, "spec": spec_to_dict(SPEC) | {"blocks": 3}}),
            "spec.blocks: expected a list",
        ),
    ],
)
def test_bad_metadata(text, message):
    with pytest.raises(InputError, match=r"\(in net.onnx\)") as caught:
        exported_file.read_metadata(text, "net.onnx")
    assert message in str(caught.value)


def test_a_missed_tolerance_leaves_nothing(tmp_path):
    with refused("litert", 0.001):
        exported(tmp_path, FakeBackend(off=1e-3))
    assert not (tmp_path / "out").exists()


def test_a_missed_tolerance_keeps_the_earlier_export(tmp_path):
    exported(tmp_path, FakeBackend())
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match="differ"):
        exported(tmp_path, FakeBackend(off=1e-3), formats="litert_fp16,litert")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def other_network(**changes):
    return replace(network(), **changes)


@pytest.mark.parametrize(
    "other",
    [
        other_network(weights="elsewhere/best.h5"),
        other_network(weights_blob_sha1="1" * 40),
        other_network(spec=replace(SPEC, preprocessing=Preprocessing(resolution=8, resize=9))),
    ],
)
def test_another_network_of_the_same_name_is_not_overwritten(tmp_path, other):
    exported(tmp_path, FakeBackend())
    exported(tmp_path, FakeBackend(off=5e-5))  # the same one again may
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match=r"--output: holds another network, .*three.tflite\)"):
        exported(tmp_path, FakeBackend(), net=other)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    record = exported(tmp_path, FakeBackend(), "--name", "other", net=other)
    assert [file["file"] for file in record["files"]] == ["other.tflite"]
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name: found[name] for name in before} == before
    assert found.keys() - before.keys() == {"other.tflite", "other_labels.txt", "other_export.json"}


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "three.tflite").write_bytes(b"TFL3 something")
    with refused("--output", "no network of ours", source=tmp_path / "out" / "three.tflite"):
        exported(tmp_path, FakeBackend())


@pytest.mark.parametrize(
    "value", [b"", b'{"format": "proxyless-arch/export", ', b'{"format": "proxyless-arch/export"}']
)
def test_metadata_are_found_in_the_bytes_or_not(value):
    found = exported_file.metadata_in(b"\xff\x00junk" + value + b"\x80more {")
    assert found == ({"format": exported_file.FORMAT} if value.endswith(b"}") else None)


def test_int8_is_held_against_its_float_twin_which_leaves_nothing(tmp_path, capsys):
    backend = FakeBackend()
    record = exported(tmp_path, backend, formats="litert_int8")
    assert backend.loaded == ["litert_int8", "litert"]
    assert record["files"][0]["float_latency_ms"] > 0
    assert "three.tflite" not in {path.name for path in (tmp_path / "out").iterdir()}
    file = record["files"][0] | {"float_latency_ms": 1.0, "latency_ms": {"median": 3, "quartile1": 2, "quartile3": 4}}
    capsys.readouterr()
    text = exporting.table(record | {"files": [file]})
    (slower,) = (line for line in text.splitlines() if "slower" in line)
    named(slower, "three_int8.tflite", "(3 against 1 ms)")
    faster = file | {"float_latency_ms": 2.5}
    assert "slower" not in exporting.table(record | {"files": [faster]})


def test_baked_preprocessing_is_checked_against_the_float_path(tmp_path):
    record = exported(tmp_path, FakeBackend(), "--bake_preprocessing")
    assert record["files"][0]["max_logit_difference"] < 1e-4
    backend = FakeBackend()
    exported(tmp_path / "again", backend, "--bake_preprocessing")
    assert json.loads(backend.given["litert"][0])["provenance"]["input"] == exported_file.BAKED


def test_reported_formats_have_no_tolerance(tmp_path):
    record = exported(tmp_path, FakeBackend(off=2.0), formats="litert_fp16")
    assert record["files"][0]["max_logit_difference"] == pytest.approx(2)


def test_a_full_disk_leaves_nothing(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with refused("--output", os.strerror(errno.ENOSPC), source=tmp_path / "out"):
        exported(tmp_path, FakeBackend(write_error=full))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_with_the_record_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, value):
        path.write_text("half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "write_json", fail)
    with refused("--output", os.strerror(errno.ENOSPC), source=tmp_path / "out"):
        exported(tmp_path, FakeBackend())
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with refused("--output", os.strerror(errno.EEXIST), source=tmp_path / "out"):
        exported(tmp_path, FakeBackend())
    assert (tmp_path / "out").read_text() == "mine"


def test_an_output_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(**settings):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(exporting.tempfile, "mkdtemp", refuse)
    with refused("--output", os.strerror(errno.EACCES), source=tmp_path / "out"):
        exported(tmp_path, FakeBackend())


def test_ctrl_c_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path, FakeBackend(write_error=KeyboardInterrupt()))
    assert not (tmp_path / "out").exists()


def test_what_a_killed_export_left_goes_with_the_next(tmp_path):
    (tmp_path / ".export-abcd1234" / "twins").mkdir(parents=True)
    with exporting.staging(tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        with exporting.staging(tmp_path) as folder:
            (folder / "model").mkdir()
            (folder / "model" / content).write_text(content)
            exporting._publish(folder / "model", tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]
    assert exporting.size_of(tmp_path / "model") == 3


@pytest.mark.parametrize(("name", "stem"), [("a/b c", "a_b_c"), ("réseau-1.0", "réseau-1.0"), ("..", "network")])
def test_names_of_files(name, stem):
    assert exporting.file_stem(name) == stem
