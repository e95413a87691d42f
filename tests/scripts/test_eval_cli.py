"""eval.py and eval_tf.py: one behaviour, one record, and a plain answer to bad input."""

import contextlib
import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

# In one process torch goes first: the reverse can crash.
with contextlib.suppress(ModuleNotFoundError):
    import torch

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.released import to_released
from proxyless_arch.arch.spec import Preprocessing, with_classes
from proxyless_arch.weights.files import save_h5
from tests.errors import error_line, line_of, named
from tests.proxyless_arch.nets import random_tensors, three_blocks

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("ant", "bee", "cat", "dog", "elk")
SPEC = replace(three_blocks(), class_names=CLASSES)
SCRIPTS = ("eval", "eval_tf")
EQUAL_PARTS = (
    "top1_hits",
    "top5_hits",
    "top1_percent",
    "top5_percent",
    "n_images",
    "unreadable",
    "preprocessing",
    "weights",
)


def tame_tensors(spec):
    """Random weights whose activations stay finite: variances must be positive."""
    return {
        name: np.abs(tensor) + 0.5 if name.endswith("running_var") else tensor
        for name, tensor in random_tensors(spec).items()
    }


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    write_spec(folder / "spec.json", SPEC)
    save_h5(folder / "weights.h5", SPEC, tame_tensors(SPEC), {})
    return folder


@pytest.fixture
def photos(tmp_path):
    """val/<class>/<k>.jpg: 5 classes of 6 images of noise."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        for k in range(6):
            pixels = generator.integers(0, 256, (20, 26, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "val" / name / f"{k}.jpg")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """No ImageNet of the machine's, and the number of threads restored."""
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def main(script, *argv):
    return importlib.import_module(script).main([str(word) for word in argv])


def record_of(script, tmp_path, *argv):
    path = tmp_path / f"{script}.json"
    assert main(script, *argv, "--save_json", path) == 0
    return json.loads(path.read_text())


# ----------------------------------------------------------------------------------------------------- good input


def test_both_scripts_give_one_record(run_folder, photos, tmp_path, capsys):
    ours, theirs = (record_of(s, tmp_path, "-a", run_folder, "-p", photos, "-b", 7, "-j", 1) for s in SCRIPTS)
    assert ours.keys() == theirs.keys()
    assert {key: ours[key] for key in EQUAL_PARTS} == {key: theirs[key] for key in EQUAL_PARTS}
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["n_images"] == 30 and 0 < ours["top5_hits"] <= 30 and ours["top5_percent"] == 100
    assert (ours["framework"], theirs["framework"]) == ("torch", "tensorflow")
    printed = capsys.readouterr().out
    assert printed.count(f"top-1      {ours['top1_percent']:.1f} % ({ours['top1_hits']} of 30 images)") == 2
    seen = [line for line in printed.splitlines() if "short side" in line]
    assert len(seen) == 2
    for line in seen:
        named(line, 13, "bicubic", "11 x 11", "mean 0.5 0.5 0.5", "std 0.5 0.25 1")


@pytest.mark.parametrize("script", SCRIPTS)
def test_root_val_folder_limit_and_batches_change_no_hit(script, run_folder, photos, tmp_path):
    whole = record_of(script, tmp_path, "-a", run_folder, "-p", photos, "-b", 32, "-j", 0)
    val = record_of(script, tmp_path, "-a", run_folder, "-p", photos / "val", "-b", 4, "-j", 2)
    assert (whole["top1_hits"], whole["n_images"]) == (val["top1_hits"], val["n_images"])
    assert record_of(script, tmp_path, "-a", run_folder, "-p", photos, "--limit", 11)["n_images"] == 11


def test_both_scripts_score_by_class_alike(run_folder, photos, tmp_path, capsys):
    """What the scores are of: the same classes, mistakes and images; the counts add up to the record's."""
    (photos / "val" / "ant" / "0.jpg").write_text("not a picture")
    found = []
    for script in SCRIPTS:
        folder = tmp_path / script
        record = record_of(script, tmp_path, "-a", run_folder, "-p", photos, "-b", 4, "--per_class", folder)
        assert sorted(path.name for path in folder.iterdir()) == ["per_class.json", "per_class.svg", "worst.png"]
        by_class = json.loads((folder / "per_class.json").read_text())
        assert [entry["n_images"] for entry in by_class["classes"]] == [5, 6, 6, 6, 6]
        for key in ("top1_hits", "top5_hits"):
            assert sum(entry[key] for entry in by_class["classes"]) == record[key]
        mistakes = sum(count for *_, count in by_class["confusions"])
        assert mistakes == 29 - record["top1_hits"] == len(by_class["worst"])
        assert f"by class   {folder}: per_class.json" in capsys.readouterr().out
        for entry in by_class["worst"]:
            assert f"/{entry['name']}/" in entry["image"] and entry["name"] != entry["predicted_name"]
        found.append(by_class)
    for part in ("worst", "samples"):
        for entry, twin in zip(found[0].pop(part), found[1].pop(part), strict=True):
            for key in entry.keys() & {"percent", "predicted_percent"}:
                assert entry.pop(key) == pytest.approx(twin.pop(key), abs=2e-2)
            assert entry == twin
    assert found[0] == found[1]
    (tmp_path / "file").touch()
    message = fails(capsys, "eval", "-a", run_folder, "-p", photos, "--per_class", tmp_path / "file" / "x")
    assert "--per_class: " in message


@pytest.mark.parametrize("script", SCRIPTS)
def test_images_of_some_classes_are_scored_as_those_classes(script, run_folder, photos, tmp_path, capsys):
    """Two of five classes: what they scored among all, whatever the folders are called."""
    for name in ("ant", "bee", "cat"):
        shutil.rmtree(photos / "val" / name)
    record = record_of(script, tmp_path, "-a", run_folder, "-p", photos)
    assert record["n_images"] == 12 and record["label_map"] == {"by": "class name", "classes": {"dog": 3, "elk": 4}}
    named(line_of(capsys.readouterr().out, "classes"), "2 of 5", "class name")
    (photos / "val" / "dog").rename(photos / "val" / "z")
    (tmp_path / "map.json").write_text('{"z": "DOG", "elk": 4, "other": 0}')
    by_hand = record_of(script, tmp_path, "-a", run_folder, "-p", photos, "--label_map", tmp_path / "map.json")
    assert by_hand["label_map"]["classes"] == {"z": 3, "elk": 4}
    assert {key: by_hand[key] for key in EQUAL_PARTS} == {key: record[key] for key in EQUAL_PARTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_net_for_digits_is_scored_at_once(script, tmp_path):
    spec = replace(
        with_classes(SPEC, 10, tuple("0123456789")),
        preprocessing=Preprocessing(resolution=16, resize=16, mean=(0, 0, 0)),
    )
    write_spec(tmp_path / "run" / "spec.json", spec)
    save_h5(tmp_path / "run" / "weights.h5", spec, tame_tensors(spec), {})
    record = record_of(script, tmp_path, "--arch", tmp_path / "run", "--path", "digits")
    assert record["n_images"] == 360 and record["preprocessing"]["resolution"] == 16


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_images_it_shows_predictions(script, run_folder, tmp_path, capsys):
    record = record_of(script, tmp_path, "--arch", run_folder)
    assert [photo["image"] for photo in record["predictions"]] == ["china.jpg", "flower.jpg"]
    assert {top["name"] for top in record["predictions"][0]["top"]} == set(CLASSES)
    assert "what it sees" in capsys.readouterr().out


def test_a_released_config_and_a_state_dict(photos, tmp_path):
    spec = replace(SPEC, preprocessing=Preprocessing(), class_names=(), padding="symmetric")
    (tmp_path / "net.config").write_text(json.dumps(to_released(spec)))
    tensors = {name: torch.from_numpy(array) for name, array in tame_tensors(spec).items()}
    torch.save({"state_dict": tensors}, tmp_path / "net.pth")
    argv = ("-a", tmp_path / "net.config", "--weights", tmp_path / "net.pth", "-p", photos, "--image_size", 32)
    ours, theirs = (record_of(script, tmp_path, *argv) for script in SCRIPTS)
    assert ours["preprocessing"] == theirs["preprocessing"] and ours["preprocessing"]["resize"] == 36
    assert {key: ours[key] for key in EQUAL_PARTS} == {key: theirs[key] for key in EQUAL_PARTS}


def test_keras_weights_in_both(run_folder, photos, tmp_path):
    from proxyless_nas_tensorflow.network import build
    from proxyless_nas_tensorflow.weights import load_named, save_keras_weights

    model = build(SPEC)
    load_named(model, SPEC, tame_tensors(SPEC))
    save_keras_weights(tmp_path / "net.weights.h5", model)
    argv = ("-a", run_folder / "spec.json", "--weights", tmp_path / "net.weights.h5", "-p", photos)
    own = record_of("eval_tf", tmp_path, "-a", run_folder, "-p", photos)
    for script in SCRIPTS:
        assert record_of(script, tmp_path, *argv)["top1_hits"] == own["top1_hits"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bf16(script, run_folder, photos, tmp_path, capsys):
    argv = ("-a", run_folder, "-p", photos)
    if script == "eval_tf" and os.environ.get("ONEDNN_MAX_CPU_ISA") and main(script, *argv, "--precision", "bf16") == 2:
        # another CPU is played to oneDNN, but TensorFlow knows this one
        error_line(capsys.readouterr().err, "precision", "TensorFlow", "bf16")
        return
    exact, half = record_of(script, tmp_path, *argv), record_of(script, tmp_path, *argv, "--precision", "bf16")
    assert half["precision"] == "bf16" and half["n_images"] == 30
    assert half["loss"] != exact["loss"] and half["loss"] == pytest.approx(exact["loss"], rel=0.1)


# ------------------------------------------------------------------------------------------------------ bad input


def fails(capsys, script, *argv):
    """The one line that a bad input gets on standard error."""
    capsys.readouterr()
    assert main(script, *argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_input(script, run_folder, photos, tmp_path, capsys):
    three, empty = tmp_path / "three", tmp_path / "empty"
    for name in CLASSES[:3]:
        (three / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(three / name / "0.png")
    for name in CLASSES:
        (empty / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(empty / name / "0.png")
    (empty / "cat" / "0.png").unlink()
    thousand = with_classes(SPEC, 1000)
    save_h5(tmp_path / "thousand.h5", thousand, tame_tensors(thousand), {})
    other = with_classes(SPEC, 4)
    save_h5(tmp_path / "other.h5", other, tame_tensors(other), {})
    run = ("--arch", run_folder)
    for argv, message in (
        ((*run, "--path", tmp_path / "nowhere"), "no such folder or .zip"),
        ((*run, "--path", empty), "cat: no images in this class folder"),
        (
            (*run, "--path", three, "--label_map", "none"),
            "found 3 class folders, but the network 'three' has 5 classes",
        ),
        (("--arch", tmp_path / "thousand.h5", "--path", three), "1 of 3 class folders are not certain: 'cat' is none"),
        ((*run, "--path", three, "--label_map", tmp_path / "no.json"), "no such file"),
        ((*run, "--weights", tmp_path / "other.h5"), "classifier.linear.bias: expected 5, got 4"),
        ((*run, "--path", photos, "--batch_size", "0"), "expected an integer, 1 or more, got 0"),
        (("--arch", "proxyles_gpu"), "did you mean 'proxyless_gpu'?"),
        ((*run, "--path", photos, "--device", "tpu"), "--device: expected auto, cpu"),
        ((*run, "--pth", photos), "--pth: unknown argument; did you mean '--path'?"),
    ):
        assert message in fails(capsys, script, *argv), argv


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("n_workers", [0, 1])
def test_unreadable_images(script, n_workers, run_folder, photos, tmp_path, capsys):
    (photos / "val" / "ant" / "0.jpg").write_text("not a picture")
    cut = photos / "val" / "elk" / "5.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    argv = ("-a", run_folder, "-p", photos, "-b", 4, "-j", n_workers)
    record = record_of(script, tmp_path, *argv)
    assert record["n_images"] == 28
    assert [place.rsplit("/", 1)[0][-3:] for place in record["unreadable"]] == ["ant", "elk"]
    printed = capsys.readouterr()
    assert printed.err.count("warning: image left out: ") == 2 and "2 unreadable images" in printed.out
    assert "ant/0.jpg" in fails(capsys, script, *argv, "--strict_data")


class Payload:
    """What an attacker would put into a weight file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("extension", [".pth", ".tfinit"])
def test_a_pickle_that_runs_code_is_refused(script, extension, run_folder, tmp_path, capsys):
    marker, path = tmp_path / "ran", tmp_path / f"evil{extension}"
    content = {"state_dict": Payload(marker)}
    if extension == ".pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    message = fails(capsys, script, "--arch", run_folder, "--weights", path)
    assert not marker.exists() and "mkdir" in message, message


# --------------------------------------------------------------------------------------------------- as a process


def start(script, *argv, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, argv)], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize(("script", "other"), [("eval", "tensorflow"), ("eval_tf", "torch")])
def test_a_script_never_imports_the_other_framework(script, other, run_folder, photos):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {script} as script\n"
        f"code = script.main(['-a', {str(run_folder)!r}, '-p', {str(photos)!r}, '-j', '1'])\n"
        f"assert code == 0 and {other!r} not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


THREADS = """
import sys
sys.path.insert(0, {root!r})
import proxyless_arch.base.machine as machine
machine.usable_cores = lambda: 4
import {script} as script
code = script.main(["-a", {run!r}, "-p", {photos!r}, "-j", "1", "--save_json", {record!r}])
if {script!r} == "eval":
    import torch
    threads = torch.get_num_threads()
else:
    import tensorflow as tf
    threads = tf.config.threading.get_intra_op_parallelism_threads()
print("threads", threads)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("eval", "2"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("eval", None), ("eval_tf", None), ("eval_tf", "2"))
        ),
    ],
)
def test_threads_are_as_the_environment_says_and_as_the_record_says(script, given, run_folder, photos, tmp_path):
    """Without a word from the environment, one core of four is left to the reading process."""
    code = THREADS.format(
        root=str(ROOT), script=script, run=str(run_folder), photos=str(photos), record=str(tmp_path / "record.json")
    )
    variable = "OMP_NUM_THREADS" if script == "eval" else "TF_NUM_INTRAOP_THREADS"
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {} if given is None else {variable: given}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    threads = given or "3"
    assert f"threads {threads}\n" in done.stdout
    assert json.loads((tmp_path / "record.json").read_text())["device"] == f"cpu, {threads} threads"


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("by", ["wnid", "class name", "number"])
def test_forty_photos_of_forty_classes(by, shared_data, tmp_path):
    """The same hits whatever the folders are called, and right ones: the network knows most of these photos."""
    wnids = imagenet_classes()
    folders = {"wnid": wnids, "class name": wnids.values(), "number": range(1000)}[by]
    with zipfile.ZipFile(shared_data / "imagenet_sample.zip") as archive:
        for number, (folder, name) in enumerate(zip(folders, sorted(archive.namelist()), strict=True)):
            if number % 25 == 7:
                (tmp_path / "data" / str(folder)).mkdir(parents=True)
                (tmp_path / "data" / str(folder) / "photo.jpg").write_bytes(archive.read(name))
    net = shared_data / "official" / "proxyless-w0.3-r176_imagenet"
    half = (".5", ".5", ".5")
    argv = ("--arch", f"{net}.json", "--weights", f"{net}.pth", "-p", tmp_path / "data", "-j", 0)
    record = record_of("eval", tmp_path, *argv, "--mean", *half, "--std", *half)
    assert (record["n_images"], record["label_map"]["by"]) == (40, by)
    assert list(record["label_map"]["classes"].values()) == list(range(7, 1000, 25)) or by != "wnid"
    assert (record["top1_hits"], record["top5_hits"]) == (28, 33)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("limit", "top1", "top5"), [(100, 62, 86), pytest.param(1000, 634, 841, marks=pytest.mark.slow)]
)
def test_the_small_released_net_scores_what_it_should(limit, top1, top5, shared_data, tmp_path, capsys):
    """Top-1 63.4 and top-5 84.1 on the whole sample, image for image the same in both frameworks.

    Its config names no preprocessing: what its dialect tells is assumed, and said.
    """
    net = shared_data / "official" / "proxyless-w0.3-r176_imagenet"
    records = []
    for script in SCRIPTS:
        argv = ("--arch", f"{net}.json", "--weights", f"{net}.pth", "--path", shared_data / "imagenet_sample.zip")
        records.append(record_of(script, tmp_path, *argv, "--limit", limit))
        assert "assumed" in capsys.readouterr().out
        assert (records[-1]["top1_hits"], records[-1]["top5_hits"]) == (top1, top5)
    assert {key: records[0][key] for key in EQUAL_PARTS} == {key: records[1][key] for key in EQUAL_PARTS}
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], abs=1e-5)
