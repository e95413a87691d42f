"""predict.py and predict_tf.py: one behaviour on files, folders and archives, and what the zoos' own predict says."""

import contextlib
import csv
import importlib
import json
import zipfile
from dataclasses import replace

# In one process torch goes first: the reverse can crash.
with contextlib.suppress(ModuleNotFoundError):
    import torch

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.codec import write_spec
from proxyless_arch.weights.files import save_h5
from tests.proxyless_arch.nets import three_blocks
from tests.scripts.test_eval_cli import CLASSES, tame_tensors

SPEC = replace(three_blocks(), class_names=CLASSES)
SCRIPTS = {"predict": "proxyless_nas", "predict_tf": "proxyless_nas_tensorflow"}


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_folder(tmp_path):
    write_spec(tmp_path / "run" / "spec.json", SPEC)
    save_h5(tmp_path / "run" / "weights.h5", SPEC, tame_tensors(SPEC), {})
    return tmp_path / "run"


@pytest.fixture
def named(tmp_path):
    """One image without an ending, a folder with one at its top and one deeper, and a zip of two."""
    generator = np.random.default_rng(0)
    places = ("lonely", "photos/b.png", "photos/deep/a.png", "zipped/x.png", "zipped/y.png")
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 26, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / place, format="PNG")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in ("x.png", "y.png"):
            archive.write(tmp_path / "zipped" / name, name)
    return [tmp_path / "lonely", tmp_path / "photos", tmp_path / "more.zip"]


def main(script, *argv):
    return importlib.import_module(script).main([str(word) for word in argv])


@pytest.mark.parametrize("script", SCRIPTS)
def test_files_folders_and_archives(script, run_folder, named, tmp_path, capsys):
    """Every image once, in order, with what the zoo's own predict says of it."""
    argv = (*named, "--arch", run_folder, "-b", 2, "-j", 1)
    assert main(script, *argv, "--json", tmp_path / "seen.json", "--csv", tmp_path / "seen.csv") == 0
    record = json.loads((tmp_path / "seen.json").read_text())
    lonely, folder, archive = map(str, named)
    wanted = [lonely, f"{folder}/b.png", f"{folder}/deep/a.png", f"{archive}:x.png", f"{archive}:y.png"]
    assert [entry["image"] for entry in record["images"]] == wanted and record["unreadable"] == []
    zoo = importlib.import_module(SCRIPTS[script])
    net = zoo.load(run_folder)
    files = [*wanted[:3], tmp_path / "zipped/x.png", tmp_path / "zipped/y.png"]
    for entry, file in zip(record["images"], files, strict=True):
        best = zoo.predict(net, file)
        assert [top["class"] for top in entry["top"]] == [one.label for one in best]
        assert [top["percent"] for top in entry["top"]] == pytest.approx([100 * p for _, p, _ in best], abs=2e-3)
    with open(tmp_path / "seen.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == wanted
    assert [row["class_5"] for row in rows] == [entry["top"][4]["name"] for entry in record["images"]]
    printed = capsys.readouterr().out
    assert all(printed.count(f"%  {name}\n") == 5 for name in CLASSES)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unreadable_image_is_named_counted_and_in_the_exit_code(script, run_folder, named, tmp_path, capsys):
    bad = tmp_path / "photos" / "broken.jpg"
    bad.write_text("no image")
    argv = ("--arch", run_folder, "--csv", tmp_path / "seen.csv", "--sheet", tmp_path / "seen.png", "--top", 2)
    assert main(script, tmp_path / "photos", *argv) == 1
    printed = capsys.readouterr()
    assert printed.err.count(str(bad)) == 1 and f"1 unreadable image: {bad}" in printed.out
    lines = (tmp_path / "seen.csv").read_text().splitlines()
    assert lines[0] == "image,class,percent,class_2,percent_2" and lines[-1] == f"{bad},,,,"
    assert Image.open(tmp_path / "seen.png").width > 400
    assert main(script, bad, *argv) == 2
    assert str(bad) in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_input(script, run_folder, named, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    run = ("--arch", run_folder)
    for argv, message in (
        ((tmp_path / "nowhere.jpg", *run), "nowhere.jpg"),
        ((tmp_path / "empty", *run), "no images in it"),
        (run, "the following arguments are required"),
        ((named[0],), "--arch: expected a network"),
        ((named[0], *run, "--top", 0), "--top: expected an integer, 1 or more"),
        ((named[0], *run, "--sheet", tmp_path / "a.gif"), "--sheet: expected a file that ends in .png"),
        ((named[0], "--arch", tmp_path / "nowhere.tflite"), "nowhere.tflite"),
        ((named[0], "--arch", tmp_path / "nowhere.onnx"), "nowhere.onnx"),
        ((named[0], "--arch", tmp_path / "net.onnx", "--resolution", 32), "--resolution: not together with --arch"),
    ):
        assert main(script, *argv) == 2, argv
        assert message in capsys.readouterr().err, argv
