"""The part of the evaluation scripts that needs no framework: flags, which network on which images, the record."""

import dataclasses
import itertools
import json
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from proxyless_arch.apps import evaluation
from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.spec import Preprocessing, with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import ArraySource, ImageDataset
from proxyless_arch.weights.files import git_blob_sha1, save_h5, save_safetensors
from tests.demo_net import NAME, needs_demo
from tests.errors import named, refused
from tests.proxyless_arch.nets import assert_equal, random_tensors, three_blocks

ROOT = Path(__file__).resolve().parents[3]
SPEC = replace(three_blocks(), class_names=("ant", "bee", "cat", "dog", "elk"))


@pytest.fixture
def run_folder(tmp_path):
    """What a search leaves."""
    folder = tmp_path / "run"
    write_spec(folder / "spec.json", SPEC)
    save_h5(folder / "weights.h5", SPEC, random_tensors(SPEC), {})
    return folder


@pytest.fixture(autouse=True)
def no_imagenet(monkeypatch):
    monkeypatch.delenv(evaluation.IMAGENET_DIR, raising=False)


def parse(*argv):
    return evaluation.parse([str(word) for word in argv], "eval.py", None)


def images_of(class_names) -> ImageDataset:
    labels = np.arange(len(class_names), dtype=np.int64)
    names = tuple(map(str, labels.tolist()))
    return ImageDataset(ArraySource("blank", np.zeros((len(labels), 2, 2), np.uint8)), names, labels, class_names)


# ------------------------------------------------------------------------------------------------------- the flags


def test_flags_of_the_release_and_defaults(monkeypatch):
    short = parse("-a", "proxyless_gpu", "-p", "val", "-g", "1", "-b", "8", "-j", "0")
    assert (short.arch, short.data_path, short.device, short.batch_size, short.workers) == (
        "proxyless_gpu",
        "val",
        "cuda:1",
        8,
        0,
    )
    assert parse("-a", "x", "-g", "all").device == parse("-a", "x").device == "auto"
    assert parse("-a", "x").data_path is None
    monkeypatch.setenv(evaluation.IMAGENET_DIR, "/imagenet")
    assert parse("-a", "x").data_path == "/imagenet" and parse("-a", "x", "-p", "val").data_path == "val"


@pytest.mark.parametrize(
    ("argv", "place", "values"),
    [
        (["--batch_size", "0"], "--batch_size", ["integer", "1 or more", 0]),
        (["--batch_size", "many"], "--batch_size", ["integer", "'many'"]),
        (["--workers", "-1"], "--workers", ["integer", "0 or more", -1]),
        (["--limit", "0"], "--limit", ["integer", "1 or more", 0]),
        (["--mean", "0.5", "nan", "0.5"], "--mean", ["number", "nan"]),
        (["--precision", "fp8"], "--precision", ["'fp32'", "'bf16'", "'fp8'"]),
        (["--gpu", "-1"], "--gpu", ["integer", "0 or more", -1]),
        (["--gpu", "0", "--device", "cpu"], "--gpu", ["--device"]),
        (["--batch-sise", "4"], "--batch-sise", ["'--batch_size'"]),
    ],
)
def test_bad_flags(argv, place, values):
    with refused(place, *values):
        parse("--arch", "proxyless_gpu", *argv)


def test_the_record_must_be_writable_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert parse("-a", "x", "--save_json", tmp_path / "new" / "deep" / "r.json").save_json.name == "r.json"
    assert not (tmp_path / "new").exists()
    for value in (tmp_path, tmp_path / "file" / "r.json", ""):
        with refused("--save_json", "file", repr(str(Path(value)))):
            parse("-a", "x", "--save_json", value)
    monkeypatch.setattr("os.access", lambda place, mode: False)
    with pytest.raises(InputError, match=f"{tmp_path} does not take it"):
        parse("-a", "x", "--save_json", tmp_path / "new" / "r.json")


def test_an_empty_path_is_a_mistake_and_not_imagenet(monkeypatch):
    monkeypatch.setenv(evaluation.IMAGENET_DIR, "/imagenet")
    with refused("--data_path", "folder", ".zip", "''"):
        parse("-a", "x", "--path", "")


def test_arch_is_required():
    with pytest.raises(InputError, match="--arch: expected a network"):
        parse()


# ----------------------------------------------------------------------------------------------------- the network


def test_a_run_folder_finds_its_weights(run_folder):
    network = evaluation.load_network(parse("--arch", run_folder))
    assert network.spec == SPEC and not network.changed and network.published is None
    assert_equal(network.tensors, random_tensors(SPEC))
    assert network.weights == str(run_folder / "weights.h5")
    assert network.weights_blob_sha1 == git_blob_sha1(run_folder / "weights.h5")


@pytest.mark.parametrize("save", [save_h5, save_safetensors])
def test_a_weight_file_that_holds_its_network(tmp_path, save):
    path = tmp_path / ("net.h5" if save is save_h5 else "net.safetensors")
    save(path, SPEC, random_tensors(SPEC), {})
    network = evaluation.load_network(parse("--arch", path))
    assert network.spec == SPEC and network.weights == str(path)


def test_the_recipe_of_the_weights_wins_over_the_spec_files(tmp_path, run_folder):
    plain = replace(SPEC, preprocessing=Preprocessing(resolution=32, resize=36), class_names=())
    write_spec(tmp_path / "net.json", plain)
    network = evaluation.load_network(parse("--arch", tmp_path / "net.json", "--weights", run_folder / "weights.h5"))
    assert network.spec == replace(SPEC, name=plain.name)


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        ([], {}),
        (["--image_size", "22"], {"resolution": 22, "resize": 26}),
        (["--image_size", "22", "--resize", "22"], {"resolution": 22, "resize": 22}),
        (["--resize", "40", "--interpolation", "bilinear"], {"resize": 40, "interpolation": "bilinear"}),
        (["--mean", "0", "0", "0", "--std", "1", "1", ".5"], {"mean": (0, 0, 0), "std": (1, 1, 0.5)}),
        (["--mean", "0.5", "--std", ".5,.5,1"], {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 1)}),
    ],
)
def test_each_part_of_the_recipe_can_be_overridden(run_folder, argv, changes):
    network = evaluation.load_network(parse("--arch", run_folder, *argv))
    assert network.spec.preprocessing == replace(SPEC.preprocessing, **changes)
    assert network.changed == bool(changes)


def test_imagenet_resizes_stay_imagenets(monkeypatch, run_folder):
    for size, resize in ((160, 182), (176, 201), (192, 219), (224, 256)):
        assert evaluation.resize_for(size, Preprocessing()) == resize
        assert evaluation.resize_for(size, Preprocessing(resolution=176, resize=201)) == resize


@pytest.mark.parametrize(
    ("argv", "place", "values"),
    [
        (["--image_size", "20", "--resize", "10"], "--resize", ["integer", 20, 10]),
        (["--std", "1", "0", "1"], "--std", ["above 0"]),
        (["--mean", "0.5", "0.5"], "--mean", ["one number", 3, 2]),
        (["--image_size", "10000"], "--resolution", ["integer", "1..8192", 10000]),
    ],
)
def test_an_impossible_recipe_names_its_flag(run_folder, argv, place, values):
    with refused(place, *values):
        evaluation.load_network(parse("--arch", run_folder, *argv))


def test_an_unknown_arch_suggests_the_nearest():
    with refused("--arch", "'proxyles_gpu'", "'proxyless_gpu'"):
        evaluation.load_network(parse("--arch", "proxyles_gpu"))


def test_bad_networks(tmp_path, run_folder):
    (tmp_path / "empty").mkdir()
    write_spec(tmp_path / "bare" / "spec.json", SPEC)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    other = with_classes(SPEC, 7)
    save_h5(tmp_path / "other.h5", other, random_tensors(other), {})
    for argv, message in (
        ([tmp_path / "empty"], "there is no spec.json in it"),
        ([tmp_path / "bare"], "holds no weights: add --weights FILE"),
        ([run_folder / "spec.json"], "holds no weights: add --weights FILE"),
        ([run_folder, "--weights", tmp_path / "other.h5"], "classifier.linear.bias: expected 5, got 7"),
        ([run_folder, "--weights", tmp_path / "none.pth"], "no such file"),
        ([run_folder, "--weights", tmp_path / "net.onnx"], "an exported network"),
    ):
        with pytest.raises(InputError) as caught:
            evaluation.load_network(parse("--arch", *argv))
        assert message in str(caught.value), argv


def test_published_weights_that_are_not_here_say_what_to_put_where(tmp_path, monkeypatch):
    def no_network(*arguments, **settings):
        raise OSError("no network in tests")

    monkeypatch.setattr("socket.create_connection", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PROXYLESSNAS_HOME", raising=False)
    with pytest.raises(InputError) as caught:
        evaluation.load_network(parse("--arch", "proxyless_cpu"))
    assert "Put proxyless_cpu.pth" in str(caught.value) and str(tmp_path) in str(caught.value)


# ------------------------------------------------------------------------------------------------------ the images


def test_imagenet_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000 and list(classes) == sorted(classes)
    assert next(iter(classes)) == "n01440764" and classes["n01440764"] == "tench"
    assert list(classes.values())[-1] == "toilet tissue"


def test_class_folders_must_be_the_networks():
    unnamed, thousand = replace(SPEC, class_names=()), catalog.load("proxyless_gpu")
    wnids = tuple(imagenet_classes())
    evaluation.check_classes(SPEC.class_names, SPEC, "x")
    evaluation.check_classes(("v", "w", "x", "y", "z"), unnamed, "x")
    evaluation.check_classes(wnids, thousand, "x")
    own = replace(thousand, name="my own thousand classes")
    numbered = tuple(f"{k:04d}" for k in range(1000))
    evaluation.check_classes(numbered, own, "x")
    for found, spec, message in (
        (("ant",), SPEC, "found 1 class folder, but the network 'three' has 5 classes"),
        (("ant", "bee", "cat"), SPEC, "found 3 class folders, but the network 'three' has 5 classes"),
        (("ant", "bee", "cat"), thousand, "found 3 class folders, but the network 'proxyless_gpu' has 1000 classes"),
        (("ant", "bee", "cow", "dog", "elk"), SPEC, "(other names): number 2, in sorted order, is 'cow', expected"),
        (("ant", "bee", "cat", "elk", "dog"), SPEC, "(the same names in another order): number 3"),
        (numbered, thousand, "number 0, in sorted order, is '0000', expected 'n01440764'"),
        (("n00000000", *wnids[1:]), own, "number 0, in sorted order, is 'n00000000'"),
    ):
        with pytest.raises(InputError) as caught:
            evaluation.check_classes(found, spec, "x")
        assert message in str(caught.value)


def test_digits_are_a_path():
    spec = with_classes(SPEC, 10)
    assert len(evaluation.open_images("digits", spec)) == 360
    with refused("--data_path", "10 class folders", "'three'", 5, source="digits"):
        evaluation.open_images("digits", SPEC)


def test_workers(monkeypatch):
    monkeypatch.setattr(evaluation, "usable_cores", lambda: 8)
    images = images_of(tuple(f"{k:03d}" for k in range(900)))

    def workers(*argv, on_cpu=True):
        return evaluation.n_workers(parse("-a", "x", "-p", "val", *argv), images, on_cpu)

    assert (workers(), workers(on_cpu=False), workers("-j", "3"), workers("--limit", "5")) == (2, 8, 3, 1)
    assert evaluation.n_workers(parse("-a", "x", "-p", "digits"), images, True) == 0
    assert (workers("-j", "500", "-b", "15"), workers("-j", "500", "-b", "15", "--limit", "31")) == (60, 3)


# ------------------------------------------------------------------------------------------------------- the record


SETUP = evaluation.Setup(
    framework="none", framework_version="1", device="cpu", precision="fp32", batch_size=32, workers=0
)


class Unreadable:
    places: tuple[str, ...] = ()


def test_the_time_of_a_pass_holds_the_waits(monkeypatch):
    """A clock that ticks a second each time it is asked: waits of the batches and the work on them are of one pass."""
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)
    progress = evaluation.Progress([(None, [0]), (None, [0])], 2)
    list(progress)
    assert 0 < progress.waited_s < progress.seconds


def report(arguments, network, images, result, unreadable=Unreadable):
    progress = evaluation.Progress([], 0)
    return evaluation.report(arguments, ["eval.py"], network, SETUP, images, result, progress, unreadable)


def test_the_record(run_folder, tmp_path, capsys):
    arguments = parse("--arch", run_folder, "-p", "val", "--save_json", tmp_path / "new" / "record.json")
    network = evaluation.load_network(arguments)
    record = report(arguments, network, images_of(SPEC.class_names), EvalResult(2, 3, 4, 6.0))
    assert json.loads((tmp_path / "new" / "record.json").read_text()) == json.loads(json.dumps(record))
    assert (record["top1_percent"], record["top5_percent"], record["top1_hits"], record["loss"]) == (50, 75, 2, 1.5)
    assert record["preprocessing"]["resolution"] == 11 and record["published"] is None and record["unreadable"] == []
    printed = capsys.readouterr().out
    assert "50.0 % (2 of 4 images)" in printed and "published" not in printed


def test_published_accuracy_is_shown_beside_imagenet_only(tmp_path, monkeypatch, capsys):
    """It is comparable only for the published file, on the whole validation set, prepared by the published recipe."""
    cpu = catalog.load("proxyless_cpu")
    save_h5(tmp_path / "net.h5", cpu, random_tensors(cpu), {})
    imagenet = images_of(tuple(imagenet_classes()))
    whole = EvalResult(37650, 46200, 50000, 1.0)

    def published(arguments, images=imagenet, result=whole):
        capsys.readouterr()
        return report(arguments, evaluation.load_network(arguments), images, result)["published"]

    given = ("--arch", "proxyless_cpu", "-p", "val", "--weights", tmp_path / "net.h5")
    other = "the weights are not the published file"
    assert published(parse(*given))["not_comparable"] == [other]
    assert f"not comparable: {other}" in capsys.readouterr().out

    release = replace(catalog.release("proxyless_cpu"), blob_sha1={"p.pth": git_blob_sha1(tmp_path / "net.h5")})
    monkeypatch.setattr(catalog, "RELEASES", {**catalog.RELEASES, "proxyless_cpu": release})
    record = published(parse(*given))
    assert (record["top1_percent"], record["top5_percent"], record["not_comparable"]) == (75.3, 92.4, [])
    printed = capsys.readouterr().out
    assert "75.3 / 92.4 %" in printed and "not comparable" not in printed
    assert published(parse(*given, "--resize", "240"))["not_comparable"] == ["the preprocessing is another"]
    (few,) = published(parse(*given), result=EvalResult(7, 9, 10, 1.0))["not_comparable"]
    named(few, "10 images", 50000)
    # a recipe that a weight file or spec file brings is another one too, without any flag
    save_h5(tmp_path / "net.h5", replace(cpu, preprocessing=Preprocessing(resize=224)), random_tensors(cpu), {})
    assert published(parse(*given))["not_comparable"] == [other, "the preprocessing is another"]
    numbered = images_of(tuple(f"{k:04d}" for k in range(1000)))
    assert published(parse(*given), images=numbered) is None


@needs_demo
def test_published_accuracy_beside_cifar10():
    spec, release = catalog.load("proxyless_cifar"), catalog.release("proxyless_cifar")
    network = evaluation.Network(
        spec=spec, tensors={}, weights="w", weights_blob_sha1=None, published=release, changed=False,
        published_weights=True,
    )  # fmt: skip
    images = SimpleNamespace(class_names=spec.class_names)
    record = evaluation._published_record(network, images, 10_000)
    assert (record["top1_percent"], record["top5_percent"], record["not_comparable"]) == (97.92, None, [])
    assert "CIFAR-10" in record["images"] and "2.08 %" in evaluation._published_line(record)
    assert len(evaluation._published_record(network, images, 200)["not_comparable"]) == 1
    assert evaluation._published_record(network, SimpleNamespace(class_names=tuple(imagenet_classes())), 50_000) is None


def test_the_demos_published_accuracy_used_another_pipeline():
    arguments = parse("--arch", NAME, "-p", "val")
    network = evaluation.load_network(arguments)
    imagenet = images_of(tuple(imagenet_classes()))
    published = report(arguments, network, imagenet, EvalResult(37000, 46000, 50000, 1.0))["published"]
    (caveat,) = published["not_comparable"]
    assert "crops before it resizes" in caveat


@needs_demo
def test_a_converted_copy_of_the_demos_weights_is_known_by_its_tensors(tmp_path):
    tensors = dict(reversed(evaluation.load_network(parse("--arch", NAME)).tensors.items()))
    given = ("--arch", NAME, "--weights", tmp_path / "copy.h5")
    save_h5(tmp_path / "copy.h5", catalog.load(NAME), tensors, {})
    assert evaluation.load_network(parse(*given)).published_weights
    bias = tensors["classifier.linear.bias"].copy()
    bias[7] = np.nextafter(bias[7], np.float32(1))
    save_h5(tmp_path / "copy.h5", catalog.load(NAME), tensors | {"classifier.linear.bias": bias}, {})
    assert not evaluation.load_network(parse(*given)).published_weights


def test_loss_that_overflows_is_null_and_no_image_is_an_error(run_folder, tmp_path):
    arguments = parse("--arch", run_folder, "-p", "val", "--save_json", tmp_path / "r.json")
    network = evaluation.load_network(arguments)
    images = images_of(SPEC.class_names)
    assert report(arguments, network, images, EvalResult(0, 0, 1, float("nan")))["loss"] is None
    with refused("--data_path", "2 images", source="val"):
        unreadable = Unreadable()
        unreadable.places = ("a", "b")
        report(arguments, network, images, EvalResult(), unreadable)
    arguments = dataclasses.replace(arguments, save_json=tmp_path)
    with refused("--save_json", "cannot be written", source=tmp_path):
        report(arguments, network, images, EvalResult(1, 1, 1, 1.0))


def test_demonstration_names_the_most_likely_classes(run_folder, capsys):
    arguments = parse("--arch", run_folder)
    network = evaluation.load_network(arguments)
    logits = np.array([[0, 5, 1, 2, 3], [9, 0, 0, 0, 0]], np.float32)
    record = evaluation.demonstrate(arguments, ["eval.py"], network, SETUP, logits)
    assert [top["name"] for top in record["predictions"][0]["top"]] == ["bee", "elk", "dog", "cat", "ant"]
    assert sum(top["percent"] for top in record["predictions"][0]["top"]) == pytest.approx(100, abs=0.01)
    assert "china.jpg" in capsys.readouterr().out
    assert evaluation.photos(network.spec.preprocessing).shape == (2, 11, 11, 3)


def test_without_scikit_learn_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for read in (
        lambda: evaluation.photos(Preprocessing()),
        lambda: evaluation.open_images("digits", with_classes(SPEC, 10)),
    ):
        with pytest.raises(InputError, match="pip install scikit-learn"):
            read()


@pytest.mark.parametrize("extra", ["torch", "tf"])
def test_each_zoos_extra_brings_the_photos(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(need.startswith("scikit-learn") for need in project["optional-dependencies"][extra])
