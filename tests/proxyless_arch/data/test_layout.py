"""Which folders are splits and which are classes, in the ways that people lay images out."""

from pathlib import Path

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_arch.data.layout import Role, find_layout, look, role_of
from proxyless_arch.data.sources import Listing
from tests.errors import named, refused


def lister_of(files):
    """What lies in each folder, from the names of all files; a name that ends with a slash is an empty folder."""
    folders, images, others = {"": set()}, {}, {}
    for file in files:
        *parents, name = file.split("/")
        place = ""
        for parent in parents:
            below = f"{place}/{parent}" if place else parent
            folders[place].add(parent)
            folders.setdefault(below, set())
            place = below
        if name:
            (images if name.endswith(".png") else others).setdefault(place, set()).add(name)

    def listing(folder):
        found = (folders[folder], images.get(folder, ()), others.get(folder, ()))
        return Listing(*(tuple(sorted(names)) for names in found))

    return listing


def layout_of(files, edition=2, texts=None):
    return find_layout(lister_of(files), lambda name: (texts or {})[name].encode(), "photos", edition)


def found_in(files, **more):
    """``{split: {class: folder}}``."""
    return {split: dict(part.classes) for split, part in layout_of(files, **more).parts.items()}


def split_by(*folders, classes=("cat", "dog")):
    return [f"{folder}/{name}/{k}.png" for folder in folders for name in classes for k in range(2)]


def folder_of(split, folder, classes=("cat", "dog")):
    return {split: {name: f"{folder}/{name}" for name in classes}}


# Splits by their names


@pytest.mark.parametrize(
    ("train", "held_out", "split"),
    [
        ("train", "val", "val"),
        ("Train", "Val", "val"),
        ("TRAIN", "TEST", "test"),
        ("Training", "Test", "test"),
        ("training", "testing", "test"),
        ("train_images", "val_images", "val"),
        ("seg_train", "seg_test", "test"),
        ("training_set", "test_set", "test"),
        ("train-set", "valid.set", "val"),
        ("traindata", "testdata", "test"),
        ("imgs train", "imgs test", "test"),
        ("train2017", "val2017", "val"),
        ("allenamento", "prova", "test"),
        ("Trening", "Validering", "val"),
        ("Eğitim", "sınama", "test"),
        ("تدريب", "اختبار", "test"),
        ("訓練集", "測試集", "test"),
        ("학습", "시험", "test"),
        ("TrainImages", "TestImages", "test"),
        ("my train (1)", "my dev (1)", "val"),
        ("flowers_train", "flowers_validation", "val"),
        ("train", "Evaluation", "val"),
        ("trn", "tst", "test"),
        ("trains", "tests", "test"),
        ("Entrenamiento", "Prueba", "test"),
        ("训练", "测试", "test"),
        ("ｔｒａｉｎ", "ｈｏｌｄ-ｏｕｔ", "val"),
        ("train+val", "unseen", "test"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "archive/", "my/deep/folder/"])
def test_folders_named_as_splits(wrapper, train, held_out, split):
    files = split_by(wrapper + train, wrapper + held_out)
    assert found_in(files) == folder_of("train", wrapper + train) | folder_of(split, wrapper + held_out)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", Role("train", "")),
        ("cat_train", Role("train", "cat")),
        ("Test Images 2", Role("test", "")),
        ("trainer", None),
        ("contest", None),
        ("device", None),
        ("latest", None),
        ("invalid", None),
        ("train_test", None),
        ("train_val", Role("train", "")),
        ("Train and Valid", Role("train", "")),
        ("Hold Out 2", Role("val", "")),
        ("PublicTest", Role("test", "")),
        ("n01440764", None),
        ("data", None),
    ],
)
def test_what_a_name_says(name, role):
    assert role_of(name) == role


def test_a_split_within_a_split_of_its_name():
    files = [*split_by("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred/1.png"]
    layout = layout_of(files)
    assert layout.parts["train"].classes == folder_of("train", "seg_train/seg_train")["train"]
    assert layout.parts["test"].classes == folder_of("test", "seg_test/seg_test")["test"]
    assert layout.unused == ("seg_pred/ (1 image)",)


def test_splits_within_a_split():
    within = split_by("train_val/train", "train_val/val")
    parts = folder_of("train", "train_val/train") | folder_of("val", "train_val/val")
    assert found_in(within) == parts
    assert found_in([*within, *split_by("test")]) == parts | folder_of("test", "test")
    with refused("", "val/", "train_val/val/", source="photos"):
        layout_of([*within, *split_by("val")])


@pytest.mark.parametrize("name", ["unlabeled", "Unsorted images", "to_predict"])
def test_images_that_nobody_sorted_beside_a_folder_of_classes(name):
    unused = (f"{name}/ (1 image)",)
    layout = layout_of([*split_by("labeled"), f"{name}/1.png"])
    assert {split: dict(part.classes) for split, part in layout.parts.items()} == folder_of("", "labeled")
    assert layout.unused == unused
    layout = layout_of([*split_by("labeled/train", "labeled/val"), f"{name}/1.png"])
    assert set(layout.parts) == {"train", "val"} and layout.unused == unused
    layout = layout_of([*split_by("train"), f"{name}/1.png"])
    assert set(layout.parts) == {"train"} and layout.unused == unused


def test_two_folders_of_one_split_are_refused():
    with refused("", "train", "Train/", "training/", source="photos"):
        layout_of(split_by("Train", "training", "test"))


def test_a_class_may_be_called_train_or_valid():
    for classes in (("bus", "train"), ("invalid", "valid"), ("control", "test"), ("dev", "ops", "prod")):
        files = [f"{name}/{k}.png" for name in classes for k in range(2)]
        assert found_in(files) == {"": {name: name for name in classes}}


def test_the_classes_of_a_test_set_that_lies_among_them():
    files = [*split_by("test"), "cat/1.png", "dog/1.png", "dog/2.png"]
    assert found_in(files) == {"train": {"cat": "cat", "dog": "dog"}} | folder_of("test", "test")


# What is not used, and what is refused for it


@pytest.mark.parametrize("name", ["val", "Validation", "dev", "valid_images"])
def test_a_flat_or_empty_validation_folder_is_named(name):
    layout = layout_of([*split_by("train"), f"{name}/1.png", f"{name}/2.png"])
    assert set(layout.parts) == {"train"} and layout.unused == (f"{name}/ (2 images, no class folders)",)
    layout = layout_of([*split_by("train"), f"{name}/"])
    assert set(layout.parts) == {"train"} and layout.unused == (f"{name}/ (no images)",)
    assert layout.unlabeled_test is None


@pytest.mark.parametrize("name", ["test", "Testing", "test_set"])
def test_a_flat_or_empty_test_folder_is_refused_where_nothing_else_is_scored(name):
    for files in ([f"{name}/1.png"], [f"{name}/images/1.png"], [f"{name}/"]):
        layout = layout_of([*split_by("train"), *files])
        assert layout.unlabeled_test.problem.startswith(f"{name}/ holds no class folders")
        with pytest.raises(InputError, match=f"{name}/ holds no class folders"):
            layout.choose("eval", "photos")
        assert layout_of([*split_by("train", "val"), *files]).unlabeled_test is None


def test_splits_without_class_folders_are_no_classes():
    with refused("", "test/ and train/", source="photos"):
        layout_of(["train/1.png", "test/2.png", "train.csv"])


def test_a_test_folder_among_classes_is_refused():
    for name in ("test", "Validation", "valid", "test_images"):
        with refused("", f"all/{name}/", "lies among class folders", source="photos"):
            layout_of(["all/cat/1.png", "all/dog/1.png", f"all/{name}/1.png"])
    assert len(found_in(["a/1.png", "invalid/1.png", "valid/1.png"])[""]) == 3


@pytest.mark.parametrize(
    "name",
    (
        *("hold-out", "held_out_images", "dev", "dev_set", "val2", "test1", "PublicTest", "trainval", "training"),
        *("unlabeled", "images to predict", "submission"),
    ),
)
def test_a_folder_that_is_no_class_by_its_name(name):
    with refused("", f"{name}/", "lies among class folders", source="photos"):
        layout_of(["cat/1.png", "dog/1.png", f"{name}/1.png"])
    assert found_in(["cat/1.png", f"{name}/1.png"]) == {"": {"cat": "cat", name: name}}


def test_a_name_beside_its_counterpart_says_nothing_of_others():
    with refused("", "test/", "lies among class folders", source="photos"):
        layout_of(["invalid/1.png", "valid/1.png", "test/1.png"])


def test_class_folders_that_may_be_the_test_images_are_refused():
    layout = layout_of(split_by("train", "kaggle_test"))
    named(layout.unlabeled_test.problem, "kaggle_test/", "test/")
    assert layout_of(split_by("train", "val", "kaggle_test")).unused == ("kaggle_test/ (4 images)",)


def test_training_images_by_another_name_are_pointed_to():
    with refused("split", "expected train/, found test/", "base/ (4 images)", source="photos"):
        layout_of([*split_by("base", classes=("cat", "cow")), *split_by("test")]).choose("train", "photos")


def test_other_folders_and_loose_images_are_named():
    layout = layout_of([*split_by("train", "test"), "extra/cat/1.png", "labels/a.xml", "1.png", "train/2.png"])
    assert layout.unused == ("extra/ (1 image)",) and layout.loose == 2


# Splits inside of classes


def test_classes_that_hold_the_splits():
    files = [f"{name}/{split}/{k}.png" for name in ("cat", "dog") for split in ("Train", "test") for k in range(2)]
    expected = {
        "train": {"cat": "cat/Train", "dog": "dog/Train"},
        "test": {"cat": "cat/test", "dog": "dog/test"},
    }
    assert found_in(files) == expected
    assert found_in([f"set/{file}" for file in files])["test"] == {"cat": "set/cat/test", "dog": "set/dog/test"}


def test_classes_of_which_some_hold_a_test_set_are_refused():
    for files in (["cat/1.png", "cat/test/2.png", "dog/1.png"], ["cat/train/1.png", "cat/test/2.png", "dog/1.png"]):
        with refused("cat/test", "cat/test/", source="photos"):
            layout_of(files)


def test_folders_of_a_class_that_are_no_splits():
    files = ["vehicles/train/1.png", "vehicles/bus/1.png", "animals/cat/1.png", "animals/1.png"]
    assert found_in(files) == {"": {"vehicles": "vehicles", "animals": "animals"}}
    assert found_in(["cat/images/1.png", "dog/images/1.png"]) == {"": {"cat": "cat", "dog": "dog"}}


def test_names_of_class_and_split():
    files = [f"{name}_{split}/1.png" for name in ("cat", "dog") for split in ("train", "test")]
    expected = {
        "train": {"cat": "cat_train", "dog": "dog_train"},
        "test": {"cat": "cat_test", "dog": "dog_test"},
    }
    assert found_in(files) == expected


def test_groups_that_lack_a_class_are_refused_and_hierarchies_are_not():
    for files in (split_by("laering", classes=("a", "b", "c")) + split_by("proeve", classes=("a", "b")),):
        with refused("", "only the same folders", "(a, b)", source="photos"):
            layout_of(files)
    files = split_by("animals", classes=("cat", "dog", "other")) + split_by("vehicles", classes=("bus", "car", "other"))
    assert set(found_in(files)[""]) == {"animals", "vehicles"}


@pytest.mark.parametrize("groups", [("a", "b"), ("fold0", "fold1", "fold2"), ("2019", "2020"), ("set/a", "set/b")])
def test_folders_that_hold_only_the_same_folders_are_refused(groups):
    place = "/".join(groups[0].split("/")[:-1])
    with refused(place, *(f"{Path(group).name}/" for group in groups[:2]), "(cat, dog)", source="photos"):
        layout_of(split_by(*groups))
    with pytest.raises(InputError, match="only the same folders"):
        layout_of(split_by(*(f"train/{group}" for group in groups)) + split_by("val/a", "val/b"))


# Wrappers


def test_folders_that_hold_one_folder_are_passed_through():
    for wrapper in ("", "a/", "a/b/c/"):
        assert found_in([f"{wrapper}cat/1.png", f"{wrapper}dog/1.png", "README.md"]) == {
            "": {name: f"{wrapper}{name}" for name in ("cat", "dog")}
        }
    assert found_in(["photos/cat/1.png"]) == {"": {"cat": "photos/cat"}}
    assert found_in(["photos/train/cat/1.png", "photos/train/dog/1.png"]) == folder_of("train", "photos/train")


def test_tiny_imagenet():
    files = [f"t/train/{wnid}/images/{k}.png" for wnid in ("n1", "n2") for k in range(2)]
    files += ["t/val/images/val_0.png", "t/val/images/val_1.png", "t/val/val_annotations.txt", "t/test/images/1.png"]
    text = "val_1.png\tn1\t0\t0\t62\t62\nval_0.png\tn2\t0\t0\t1\t1\nval_9.png\tn3\t0\t0\t1\t1\n"
    layout = layout_of(files, texts={"t/val/val_annotations.txt": text})
    assert layout.parts["train"].classes == {"n1": "t/train/n1", "n2": "t/train/n2"}
    assert layout.parts["val"].classes == {"n1": ("t/val/images/val_1.png",), "n2": ("t/val/images/val_0.png",)}
    assert layout.unused == ("t/test/ (1 image, no class folders)",)


def test_an_archive_in_the_folder_is_pointed_to():
    with refused("", "photos.zip", source="photos"):
        layout_of(["photos.zip"])
    with refused("", "2 .tfrecord", source="photos"):
        layout_of(["a.tfrecord", "b.tfrecord"])


# Names that look alike


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("café", "cafe\u0301", True),
        ("cat", "cat ", True),
        ("a b", "a\u00a0b", True),
        ("cat", "c\u200bat", True),
        ("a", "A", False),
        ("cat", "cats", False),
    ],
)
def test_what_looks_alike(one, other, same):
    assert (look(one) == look(other)) is same


# Runs of before


def test_the_first_edition_reads_as_it_did():
    assert found_in(split_by("Train", "Test"), edition=1) == {"": {"Test": "Test", "Train": "Train"}}
    assert found_in(split_by("train", "test"), edition=1) == folder_of("train", "train") | folder_of("test", "test")
    assert found_in(split_by("a", "b"), edition=1) == {"": {"a": "a", "b": "b"}}
    files = ["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"]
    assert found_in(files, edition=1) == {"": {"cat": "cat", "dog": "dog"}}


# Images beside what was marked in them


@pytest.mark.parametrize(
    "folders",
    [
        ("images", "masks"),
        ("images", "labels"),
        ("JPEGImages", "Annotations", "SegmentationClass"),
        ("imgs", "gt"),
        ("train/images", "train/masks", "val/images", "val/masks"),
        ("images/train", "images/val", "labels/train", "labels/val"),
    ],
)
def test_annotations_are_no_classes(folders):
    with pytest.raises(InputError) as caught:
        layout_of([f"{folder}/{k}.png" for folder in folders for k in range(2)])
    assert "annotations" in caught.value.problem
    assert caught.value.source == "photos"


def test_a_class_may_be_called_as_annotations_are():
    assert found_in(split_by("train", classes=("images", "masks", "hats"))) == folder_of(
        "train", "train", ("hats", "images", "masks")
    )
