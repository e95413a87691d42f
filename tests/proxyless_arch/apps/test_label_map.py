"""Class folders as classes of a network: what is certain is taken, the rest refused by name."""

import json
from dataclasses import replace

import pytest

from proxyless_arch.apps import evaluation
from proxyless_arch.apps.label_map import LabelMap, auto_map, class_key, read_map, wnids_of
from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import ImageDataset
from tests.errors import refused
from tests.proxyless_arch.apps.test_evaluation import images_of
from tests.proxyless_arch.nets import three_blocks

IMAGENET = catalog.load("proxyless_gpu")
PETS = replace(three_blocks(), class_names=("C++", "c", "Grand piano", "Ärmel", "dog"))
WNIDS = tuple(imagenet_classes())


@pytest.mark.parametrize(
    ("folders", "classes", "by"),
    [
        (["n01440764", "n01443537"], [0, 1], "wnid"),
        (["n01443537-goldfish", "n01440764_tench"], [1, 0], "wnid"),
        (["tench", "Great White-shark", "jack-o'-lantern"], [0, 2, 607], "class name"),
        (["tench, Tinca tinca", "goldfish"], [0, 1], "class name"),
        (["n01440764", "goldfish"], [0, 1], "wnid and class name"),
        (["0", "10", "2", "999"], [0, 10, 2, 999], "number"),
        (["000", "007"], [0, 7], "number"),
        (["N01443537", "N01440764_Tench"], [1, 0], "wnid"),
        (["001.goldfish", "12_great_white_shark", "7-tench"], [1, 2, 0], "class name"),
    ],
)
def test_folders_of_imagenets_classes(folders, classes, by):
    assert auto_map(folders, IMAGENET) == LabelMap(dict(zip(folders, classes, strict=True)), by)


@pytest.mark.parametrize(
    ("folder", "label"), [("C++", 0), ("c", 1), ("grand_piano", 2), ("A\u0308rmel", 3), ("DOG", 4)]
)
def test_folders_of_a_network_of_its_own_classes(folder, label):
    """The name as it is wins over names that differ from it in signs; composed and decomposed letters are one."""
    assert auto_map([folder], PETS).classes == {folder: label}


@pytest.mark.parametrize(
    ("folders", "spec", "words"),
    [
        (["tench", "crane"], IMAGENET, ("1 of 2", "'crane' may be n02012849 or n03126707")),
        (["tenhc"], IMAGENET, ("'tenhc' is none of", "did you mean 'tench'?")),
        (["n00000001"], IMAGENET, ("'n00000001'",)),
        (["n014407641"], IMAGENET, ("'n014407641'",)),
        (["1", "1000"], IMAGENET, ("numbered 0 to 999, got 1 to 1000",)),
        (["0", "tench"], IMAGENET, ("1 of 2", "'0'")),
        (["1", "3", "2"], IMAGENET, ("1 to 3", "counted from 1")),
        (["1.crane", "2.tench"], IMAGENET, ("1 of 2", "n02012849 or n03126707")),
        (["0", "1"], PETS, ("2 of 2", "'0'", "'1'")),
        (["C"], PETS, ("'C'", "class 0 or class 1")),
        (["!!!", "?"], PETS, ("2 of 2",)),
        ([f"x{k}" for k in range(7)], IMAGENET, ("7 of 7", "'x2'", "and 4 more", "--label_map FILE.json")),
    ],
)
def test_what_is_not_certain_is_refused_by_name(folders, spec, words):
    with pytest.raises(InputError) as caught:
        auto_map(folders, spec)
    assert [word for word in words if word not in str(caught.value)] == []


def test_every_name_and_wnid_of_imagenet_maps_to_itself():
    names = list(imagenet_classes().values())
    unique = {name: number for number, name in enumerate(names) if names.count(name) == 1}
    assert len(unique) == 996 and auto_map(list(unique), IMAGENET).classes == unique
    assert list(auto_map(WNIDS, IMAGENET).classes.values()) == list(range(1000))
    assert len({class_key(name) for name in names}) == 997  # a Cardigan is a dog, a cardigan is worn


def test_a_network_trained_on_folders_named_by_wnid_knows_their_words_too():
    few = replace(PETS, class_names=("n01440764", "n01443537", "n02012849", "n03126707", "n02113186"))
    folders = ["goldfish", "n01440764", "Cardigan"]
    assert list(auto_map(folders, few).classes.values()) == [1, 0, 4]
    with refused("", "1 of 1", "'crane'", "class 2", "class 3"):
        auto_map(["crane"], few)
    assert wnids_of(replace(IMAGENET, class_names=WNIDS)) == WNIDS


def test_a_map_by_hand(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"fish": "n01440764", "two": 2, "gold": "Goldfish", "unused": "?"}))
    assert read_map(path, ["fish", "two", "gold"], IMAGENET).classes == {"fish": 0, "two": 2, "gold": 1}
    for content, folders, place in (
        ({"fish": 0}, ["fihs"], "fihs"),
        ({"fish": 1000}, ["fish"], "fish"),
        ({"fish": "crane"}, ["fish"], "fish"),
        ({"fish": True}, ["fish"], "fish"),
        ([0], ["fish"], ""),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError) as caught:
            read_map(path, folders, IMAGENET)
        assert (caught.value.place, caught.value.source) == (place, str(path))


def opened(folders, spec, monkeypatch, how="auto") -> tuple[ImageDataset, LabelMap | None]:
    monkeypatch.setattr(evaluation, "open_folder", lambda path, split: images_of(tuple(folders)))
    return evaluation.open_labelled("photos", spec, how)


@pytest.mark.parametrize(
    ("folders", "spec", "labels"),
    [
        (WNIDS, IMAGENET, None),
        (("v", "w", "x", "y", "z"), replace(PETS, class_names=()), None),
        (("0", "1", "10", "2"), replace(with_classes(PETS, 11), class_names=()), [0, 1, 10, 2]),
        (tuple(sorted(map(str, range(1000)))), IMAGENET, sorted(range(1000), key=str)),
        (("Grand piano", "dog"), PETS, [2, 4]),
        (tuple(sorted(PETS.class_names)), PETS, [0, 2, 1, 4, 3]),
    ],
    ids=["imagenet", "no names", "numbers without names", "a thousand numbers", "a subset", "another order"],
)
def test_labels_become_the_networks(folders, spec, labels, monkeypatch):
    images, found = opened(folders, spec, monkeypatch)
    assert images.labels.tolist() == (list(range(len(folders))) if labels is None else labels)
    assert (found is None) == (labels is None)
    if found is not None:
        assert images.class_names == (wnids_of(spec) or spec.class_names or tuple(f"class {k}" for k in range(11)))


def test_none_is_strict(monkeypatch):
    for folders in (("n01440764",), WNIDS[::-1]):
        with pytest.raises(InputError) as caught:
            opened(folders, IMAGENET, monkeypatch, "none")
        assert caught.value.place == "--data_path"


def test_digits_are_never_imagenets_first_ten_classes():
    with pytest.raises(InputError) as caught:
        evaluation.open_labelled("digits", IMAGENET)
    assert caught.value.source == "digits"
