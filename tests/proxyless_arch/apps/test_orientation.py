"""Whose photos are turned upright: by the flag, by what the weights were trained on, by the data set."""

from dataclasses import replace

import numpy as np
import pytest

from proxyless_arch.apps import evaluation, train_settings
from proxyless_arch.apps.label_map import LabelMap
from proxyless_arch.apps.orientation import like_imagenet, turns_upright
from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.arch import catalog, codec
from proxyless_arch.arch.released_tree import CIFAR10_CLASSES
from proxyless_arch.base.settings import with_settings
from proxyless_arch.data.datasets import ArraySource, ImageDataset
from proxyless_arch.data.sources import FolderSource

WNIDS = tuple(imagenet_classes())
PETS = ("cat", "dog")


def images_of(class_names, source=None):
    labels = np.arange(len(class_names), dtype=np.int64)
    return ImageDataset(source or FolderSource("photos"), tuple(map(str, labels)), labels, tuple(class_names))


def test_what_is_like_imagenet():
    assert like_imagenet(WNIDS) and like_imagenet(WNIDS[5:9])
    assert not like_imagenet(()) and not like_imagenet(PETS) and not like_imagenet((*WNIDS[:3], "cat"))


@pytest.mark.parametrize(
    ("choice", "folders", "released", "trained", "expected"),
    [
        ("yes", WNIDS, True, False, True),
        ("no", PETS, False, True, False),
        ("auto", PETS, False, None, True),
        ("auto", PETS, True, None, True),
        ("auto", WNIDS, False, None, True),
        ("auto", WNIDS, True, None, False),
        ("auto", PETS, False, False, False),
        ("auto", WNIDS, True, True, True),
        ("auto", CIFAR10_CLASSES, True, None, False),
        ("auto", CIFAR10_CLASSES, False, None, True),
    ],
)
def test_the_rule(choice, folders, released, trained, expected):
    assert turns_upright(choice, folders, released, trained) is expected


def network_of(exif=None, published=False, **provenance):
    spec = catalog.load("proxyless_mobile")
    spec = replace(spec, preprocessing=replace(spec.preprocessing, exif=exif))
    return evaluation.Network(
        spec=spec,
        tensors={},
        weights="weights.pth",
        weights_blob_sha1=None,
        published=catalog.RELEASES["proxyless_mobile"] if published else None,
        changed=False,
        provenance=provenance,
    )


def exif_of(network, images, *flags, labels=None):
    arguments = evaluation.parse(["-a", "proxyless_mobile", *flags], "eval.py", None)
    return evaluation.oriented(network, arguments, images, labels).spec.preprocessing.exif


def test_released_weights_on_imagenet_are_prepared_as_their_accuracy_was_measured():
    network = network_of(published=True)
    assert exif_of(network, images_of(WNIDS)) is None
    assert exif_of(network, images_of(WNIDS[:40])) is None
    assert exif_of(network, images_of(PETS)) is True
    mapped = LabelMap({"tabby cat": 281, "pug": 254}, "class name")  # the images have wnids by then
    assert exif_of(network, images_of(WNIDS), labels=mapped) is True
    assert exif_of(network_of(), images_of(())) is True  # predict.py


def test_a_run_is_scored_on_what_it_was_trained_on():
    for exif in (True, False):
        assert exif_of(network_of(exif, run="mine"), images_of(PETS)) is exif
    older = network_of(None, run="mine", command="train")
    assert exif_of(older, images_of(PETS)) is None
    exported = network_of(None, weight_file_says={"run": "mine"})
    assert exif_of(exported, images_of(PETS)) is None
    assert exif_of(network_of(), images_of(PETS)) is True


def test_images_in_memory_have_no_exif():
    digits = images_of(PETS, ArraySource("digits", np.zeros((2, 4, 4), np.uint8)))
    assert exif_of(network_of(), digits) is None


@pytest.mark.parametrize(("flag", "expected"), [("yes", True), ("no", False)])
def test_the_flag_is_part_of_the_preprocessing(flag, expected):
    config = evaluation.NetworkConfig(exif=flag)
    spec = catalog.load("proxyless_mobile")
    assert evaluation._preprocessing(spec.preprocessing, config) == replace(spec.preprocessing, exif=expected)


@pytest.mark.parametrize(
    ("given", "folders", "trained", "expected"),
    [
        ({"weights": "scratch"}, PETS, None, True),
        ({"weights": "scratch"}, WNIDS, None, True),
        ({"weights": "pretrained"}, PETS, None, True),
        ({"weights": "pretrained"}, WNIDS[:40], None, False),
        ({"weights": "pretrained", "exif": "yes"}, WNIDS[:40], None, True),
        ({"weights": "inherit"}, PETS, False, False),
        ({"weights": "scratch", "exif": "no"}, PETS, None, False),
        ({"weights": "scratch", "data_edition": 1}, PETS, None, None),
        ({"weights": "scratch", "dataset": "digits"}, PETS, None, None),
    ],
)
def test_training_writes_it_into_the_preprocessing(given, folders, trained, expected):
    config = with_settings(train_settings.TrainConfig(), {"dataset": "imagefolder", **given})
    spec = network_of(trained).spec
    assert train_settings._turns_upright(config, spec, images_of(folders)) is expected


def test_a_spec_says_it_only_where_somebody_did():
    for exif in (None, True, False):
        spec = network_of(exif).spec
        written = codec.spec_to_json(spec)
        assert ("exif" in written) is (exif is not None)
        assert codec.parse_spec(written, "a.json") == spec
    assert "EXIF" not in evaluation.describe_preprocessing(network_of().spec.preprocessing)
    assert "EXIF orientation applied" in evaluation.describe_preprocessing(network_of(True).spec.preprocessing)
