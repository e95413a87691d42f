"""Folders, archives, the digits, splits, and the plan of batches."""

import io
import multiprocessing
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data import datasets
from proxyless_arch.data.batches import BatchPlan, Sample, eval_steps, read_batch
from proxyless_arch.data.datasets import (
    digits,
    load_for_search,
    open_folder,
    stratified_split,
)
from proxyless_arch.data.images import Augment
from tests.errors import refused


def png(shade: int, size: tuple[int, int] = (6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(buffer, "PNG")
    return buffer.getvalue()


def photos(prefix: str = "", classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> dict[str, bytes]:
    return {f"{prefix}{name}/{k}.png": png(10 * i + k) for i, name in enumerate(classes) for k in range(each)}


def write_folder(root, files: dict[str, bytes]):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(params=["folder", "zip"])
def write(request, tmp_path):
    """Writes the same files as a folder or as an archive, and gives its path."""

    def writer(files):
        if request.param == "folder":
            return write_folder(tmp_path / "set", files)
        return write_zip(tmp_path / "set.zip", files)

    return writer


# Layouts


@pytest.mark.parametrize("wrapper", ["", "my_photos/"])
def test_class_folders_at_the_top(write, wrapper):
    found = open_folder(write(photos(wrapper)))
    assert found.class_names == ("cat", "dog")
    assert len(found) == 6 and found.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.labels.dtype == np.int64
    assert found.item(4).place.endswith("dog/1.png") and found.item(4).label == 1
    assert found.read(4).getpixel((0, 0)) == (11, 0, 244)


@pytest.mark.parametrize("wrapper", ["", "my_photos/"])
@pytest.mark.parametrize("held_out", ["val", "valid", "test"])
def test_splits(write, wrapper, held_out):
    path = write(photos(f"{wrapper}train/") | photos(f"{wrapper}{held_out}/", each=1))
    assert len(open_folder(path, "train")) == 6
    assert len(open_folder(path, "eval")) == 2
    assert len(open_folder(path, "test" if held_out == "test" else "val")) == 2
    with refused("split", f"{wrapper}train/", f"{wrapper}{held_out}/", source=path):
        open_folder(path)
    absent = "val" if held_out == "test" else "test"
    with refused("split", f"expected {absent}/", f"{wrapper}{held_out}/", source=path):
        open_folder(path, absent)
    with refused("split", "'vla'"):
        open_folder(path, "vla")


def test_only_one_split_needs_no_name(write):
    assert len(open_folder(write(photos("val/")))) == 6


def test_eval_without_held_out_images_is_an_error(write):
    path = write(photos("train/"))
    with pytest.raises(InputError, match="expected test/ or val/, found train/"):
        open_folder(path, "eval")


def test_a_class_may_be_called_train(write):
    found = open_folder(write(photos(classes=("bus", "train"))))
    assert found.class_names == ("bus", "train")


def test_unlabelled_test_images_are_no_split(write):
    path = write(photos("train/") | photos("val/") | {"test/a.png": png(1), "test/b.png": png(2)})
    assert len(open_folder(path, "eval")) == 6
    with pytest.raises(InputError, match="expected test/, found train/, val/"):
        open_folder(path, "test")


def test_nested_hidden_and_foreign_files(write):
    files = photos() | {
        "cat/deep/er/x.JPEG": png(1),
        "cat/.hidden.png": png(1),
        ".git/a/b.png": png(1),
        "__MACOSX/cat/._0.png": b"junk",
        "cat/notes.txt": b"text",
        "README.md": b"text",
    }
    found = open_folder(write(files))
    assert found.class_names == ("cat", "dog")
    assert [name for name in found.names if name.startswith("cat")] == [
        "cat/0.png",
        "cat/1.png",
        "cat/2.png",
        "cat/deep/er/x.JPEG",
    ]


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "PNG", "bmp", "webp", "tif", "TIFF", "ppm"])
def test_extensions_in_either_case(write, extension):
    path = write(photos() | {f"cat/extra.{extension}": png(1)})
    assert any(name.endswith(f"extra.{extension}") for name in open_folder(path).names)


# What is refused


def test_a_missing_path(tmp_path):
    with refused("", "no such folder", ".zip", source=tmp_path / "nowhere"):
        open_folder(tmp_path / "nowhere")


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(b"not a zip")
    with refused("", ".zip", source=path):
        open_folder(path)


def test_no_class_folders(write):
    path = write({"a.png": png(1), "b.png": png(2)})
    with refused("", "2 images", "no folder", source=path):
        open_folder(path)


def test_an_empty_folder(tmp_path):
    with refused("", "no folder", "no image", source=tmp_path):
        open_folder(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    root = write_folder(tmp_path / "set", photos())
    (root / "eel").mkdir()
    with refused("eel", "no images", source=root):
        open_folder(root)
    archive = write_zip(tmp_path / "set.zip", photos() | {"fox/": b""})
    with refused("fox", "no images", source=archive):
        open_folder(archive)


def test_a_class_folder_with_no_images_is_named(write):
    path = write(photos() | {"gnu/readme.txt": b""})
    with refused("gnu", "no images", ".jpg", source=path):
        open_folder(path)


def test_different_classes_in_train_and_val(write):
    path = write(photos("train/", ("ant", "bee", "cat")) | photos("val/", ("bee", "cat", "dog", "eel")))
    for split in ("train", "val"):
        with refused("", "1 only in train", "ant", "2 only in val", "dog, eel", source=path):
            open_folder(path, split)


@pytest.mark.parametrize("name", ["../cat/a.png", "cat/../../a.png", "/cat/a.png", "C:/cat/a.png", "cat\\a.png"])
def test_archive_names_that_lead_outside(tmp_path, name):
    path = write_zip(tmp_path / "set.zip", photos())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, png(1))
    with pytest.raises(InputError, match=r"expected relative names.*set\.zip"):
        open_folder(path)


def test_a_link_that_loops(tmp_path):
    root = write_folder(tmp_path / "set", photos())
    (root / "cat" / "again").symlink_to(root / "cat")
    with pytest.raises(InputError, match="a link that loops"):
        open_folder(root)


def test_unreadable_images_are_named(write):
    files = photos() | {"cat/0.png": b"a text file", "dog/1.png": png(3)[:-30]}
    found = open_folder(write(files))
    for index, name in ((0, "cat/0.png"), (4, "dog/1.png")):
        with pytest.raises(InputError, match=rf"\(in .*set(\.zip:|/){name}\)"):
            found.read(index)


def test_a_damaged_archive_member_is_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", photos())
    found = open_folder(path)
    path.write_bytes(path.read_bytes().replace(png(0), b"\x00" * len(png(0))))
    with refused("", "CRC-32", source=f"{path}:cat/0.png"):
        found.read(0)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_any_compression_is_named(tmp_path, compression):
    path = write_zip(tmp_path / "set.zip", photos(), compression)
    found = open_folder(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        member, after = archive.getinfo("cat/0.png"), archive.getinfo("cat/1.png").header_offset
    start = member.header_offset + 30 + len(member.filename)
    for first in range(start, after - 8):  # everything from here on is lost
        path.write_bytes(whole[:first] + b"\xff" * (after - first) + whole[after:])
        with refused("", "archive", source=f"{path}:cat/0.png"):
            open_folder(path).read(0)
    path.write_bytes(whole)
    assert found.read(0).size == (6, 5)


def test_a_member_behind_a_password_is_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", photos())
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(header) + flags] |= 1
    path.write_bytes(content)
    with refused("", "archive", "password", source=f"{path}:cat/0.png"):
        open_folder(path).read(0)


@pytest.mark.parametrize(
    ("offset", "byte", "problem"), [(6, 0xFF, "zip file version 25.5"), (46, 0x8D, "'utf-8' codec can't decode")]
)
def test_a_damaged_table_of_contents_is_named(tmp_path, offset, byte, problem):
    path = write_zip(tmp_path / "set.zip", {"é/0.png": png(0)})
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + offset] = byte
    path.write_bytes(content)
    with refused("", ".zip", problem, source=path):
        open_folder(path)


def test_a_file_that_is_no_zip_is_named(tmp_path):
    whole = write_zip(tmp_path / "set.zip", photos()).read_bytes()
    for name, content in (("photo.png", png(0)), ("set.zip", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with refused("", ".zip", "cut", source=tmp_path / name):
            open_folder(tmp_path / name)


def test_a_deleted_image_is_named(tmp_path):
    found = open_folder(write_folder(tmp_path / "set", photos()))
    (tmp_path / "set/cat/0.png").unlink()
    with pytest.raises(InputError, match=r"no such file.*cat/0\.png"):
        found.read(0)


# Processes and memory


def test_pickling_leaves_handles_and_pixels_behind(write):
    found = open_folder(write(photos()))
    before = np.asarray(found.read(3))
    assert found._cache.pixels
    copy = pickle.loads(pickle.dumps(found))
    assert not copy._cache.pixels and not getattr(copy.source, "_handles", None)
    np.testing.assert_array_equal(np.asarray(copy.read(3)), before)


def _shades(found, indices, queue):
    shades = [found.read(index).getpixel((0, 0)) for index in indices]
    queue.put((shades, os.getpid() in found.source._handles))


def test_a_forked_process_opens_its_own_archive(tmp_path):
    found = open_folder(write_zip(tmp_path / "set.zip", photos(each=40)))
    expected = [found.read(index).getpixel((0, 0)) for index in range(80)]
    found._cache.pixels.clear()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_shades, args=(found, range(80), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=20) for _ in workers] == [(expected, True), (expected, True)]
    for worker in workers:
        worker.join()


def test_cached_reads_equal_fresh_ones_and_stay_within_the_budget(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "set", photos())
    found = open_folder(root)
    first = [np.asarray(found.read(index)) for index in range(6)]
    for path in root.rglob("*.png"):
        path.unlink()
    for index in range(6):
        np.testing.assert_array_equal(np.asarray(found.read(index)), first[index])

    write_folder(root, photos())
    monkeypatch.setattr(datasets, "CACHE_BYTES", 6 * 6 * 5 * 3 - 1)
    too_big = open_folder(root)
    for index in range(6):
        too_big.read(index)
    assert not too_big._cache.pixels


def test_images_for_a_single_pass_are_not_kept_in_any_process(tmp_path):
    root = write_folder(tmp_path / "set", photos())
    once = open_folder(root).read_once()
    for found in (once, pickle.loads(pickle.dumps(once))):
        assert np.asarray(found.read(0)).shape == np.asarray(open_folder(root).read(0)).shape
        assert not found._cache.pixels


# Splits


def test_stratified_split_is_exact_disjoint_and_in_proportion():
    labels = np.array([0] * 10 + [1] * 20 + [2] * 70)
    kept, held_out = stratified_split(labels, 10, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [1, 2, 7]
    assert sorted([*kept, *held_out]) == list(range(100))
    assert np.all(np.diff(kept) > 0) and np.all(np.diff(held_out) > 0)
    # Largest remainders of 0.7, 1.4, 4.9: the classes 2 and 0.
    assert np.bincount(labels[stratified_split(labels, 7, seed=3)[1]]).tolist() == [1, 1, 5]
    np.testing.assert_array_equal(stratified_split(labels, 0.1, seed=3)[1], held_out)
    assert not np.array_equal(stratified_split(labels, 10, seed=4)[1], held_out)


def test_stratified_split_is_the_same_on_every_machine():
    _, held_out = stratified_split(np.repeat([0, 1], 10), 6, seed=1)
    assert held_out.tolist() == [2, 4, 7, 11, 13, 17]


def test_stratified_split_leaves_one_of_each_class():
    labels = np.array([0, 1, 1, 1, 1, 1])
    kept, held_out = stratified_split(labels, 4, seed=0)
    assert kept[0] == 0 and np.bincount(labels[kept]).tolist() == [1, 1] and len(held_out) == 4
    with refused("size", "2 classes", 5):
        stratified_split(labels, 5, seed=0)


@pytest.mark.parametrize("size", [0, -1, 1.0, 1.5, 0.0, True, float("nan")])
def test_stratified_split_refuses(size):
    with refused("size", "number of images", size):
        stratified_split(np.repeat([0, 1], 10), size, seed=0)


def test_a_fraction_of_too_few_images_says_of_how_many():
    problem = r"size: 0\.02 of 20 images rounds to none held out: expected a number of images"
    with pytest.raises(InputError, match=problem):
        stratified_split(np.repeat([0, 1], 10), 0.02, seed=0)
    assert len(stratified_split(np.repeat([0, 1], 10), 0.03, seed=0)[1]) == 1


# The digits


def test_digits():
    train, test = digits()
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == tuple("0123456789")
    assert not set(train.names) & set(test.names)
    assert np.ptp(np.bincount(test.labels)) <= 2
    # The first digit of scikit-learn is a zero whose first row is 0 0 5 13 9 1 0 0.
    first = next(part for part in (train, test) if "0000" in part.names)
    index = first.names.index("0000")
    image = first.read(index)
    assert image.size == (8, 8) and first.labels[index] == 0
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert np.all(np.ptp(np.asarray(image), axis=2) == 0)


# The three sets of a search


def test_search_sets_of_the_digits():
    data = load_for_search("digits", None, 300, seed=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (1137, 300, 360)
    assert not set(data.train.names) & set(data.valid.names)
    again = load_for_search("digits", None, 300, seed=0)
    assert again.valid.names == data.valid.names
    assert load_for_search("digits", None, 300, seed=1).valid.names != data.valid.names
    with pytest.raises(InputError, match="data_path: digits are built in"):
        load_for_search("digits", "/somewhere", 300, seed=0)
    with pytest.raises(InputError, match="valid_size: cannot hold out 1437"):
        load_for_search("digits", None, 1437, seed=0)


def test_search_sets_with_a_test_folder(write):
    path = write(photos("train/", each=10) | photos("val/"))
    data = load_for_search("imagefolder", str(path), 0.3, seed=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (14, 6, 6)
    assert all(name.startswith("val/") for name in data.test.names)
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_search_sets_of_a_single_folder(write, prefix):
    data = load_for_search("imagenet", write(photos(prefix, each=10)), 4, seed=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (12, 4, 4)
    assert len({*data.train.names, *data.valid.names, *data.test.names}) == 20


def test_search_sets_refused(write):
    path = write(photos("val/", each=10))
    with pytest.raises(InputError, match="expected train/, found val/"):
        load_for_search("imagefolder", path, 4, seed=0)
    with pytest.raises(InputError, match="CIFAR-10 has 10 classes, found 2"):
        load_for_search("cifar10", write(photos("train/", each=10)), 4, seed=0)
    with pytest.raises(InputError, match="did you mean 'imagenet'"):
        load_for_search("imagnet", path, 4, seed=0)
    with pytest.raises(InputError, match="data_path: imagenet needs a folder"):
        load_for_search("imagenet", None, 4, seed=0)
    with refused("valid_size", 0.01, 20):
        load_for_search("imagefolder", write(photos("train/", each=10)), 0.01, seed=0)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_one_class_is_nothing_to_train_on(write, prefix):
    path = write({name: content for name, content in photos(prefix, each=10).items() if "cat" in name})
    problem = "data_path: expected 2 class folders or more to train on, found 1: 'cat'"
    with pytest.raises(InputError, match=problem) as caught:
        load_for_search("imagefolder", path, 0.01, seed=0)
    assert caught.value.source == str(path)
    assert len(open_folder(path)) == 10  # one class can be scored


# Batches


def test_every_epoch_visits_every_image_once():
    plan = BatchPlan(n_images=10, batch_size=5, seed=7)
    samples = [sample for step in plan.steps(0, 4) for sample in step]
    for epoch in (0, 1):
        assert sorted(image for e, image in samples if e == epoch) == list(range(10))
    assert samples[:10] != samples[10:]


def test_drop_last_and_short_batches():
    whole = BatchPlan(n_images=10, batch_size=4, seed=0)
    assert whole.steps_per_epoch == 2 and [len(step) for step in whole.steps(0, 4)] == [4, 4, 4, 4]
    short = BatchPlan(n_images=10, batch_size=4, seed=0, drop_last=False)
    assert short.steps_per_epoch == 3 and [len(step) for step in short.steps(0, 4)] == [4, 4, 2, 4]


def test_ranks_share_the_global_batch():
    whole = list(BatchPlan(n_images=20, batch_size=6, seed=0).steps(0, 5))
    shares = [list(BatchPlan(n_images=20, batch_size=6, seed=0, rank=r, world_size=2).steps(0, 5)) for r in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == 3 and sorted(first + second) == sorted(batch)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 11}, "batch_size"),
        ({"n_images": 0}, "dataset"),
        ({"seed": -1}, "seed"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 5, "world_size": 2}, "batch_size"),
        ({"world_size": 2, "drop_last": False}, "batch_size"),
    ],
)
def test_plans_refused(wrong, place):
    with pytest.raises(InputError, match=f"^{place}: expected"):
        BatchPlan(**({"n_images": 10, "batch_size": 4, "seed": 0} | wrong))


def test_evaluation_order_and_limit():
    assert [[s.image for s in step] for step in eval_steps(5, 2)] == [[0, 1], [2, 3], [4]]
    assert [[s.image for s in step] for step in eval_steps(10, 3, limit=4)] == [[0, 2, 5], [7]]
    assert sum(map(len, eval_steps(5, 2, limit=50))) == 5
    for wrong in ({"batch_size": 0}, {"batch_size": 2, "limit": 0}):
        with refused(next(name for name, value in wrong.items() if value == 0), "integer", "1 or more", 0):
            eval_steps(5, **wrong)


def test_augmentation_depends_on_seed_epoch_and_image_only():
    train, _ = digits()
    recipe, augment = Preprocessing(resolution=16, resize=16), Augment(pad_crop=4)

    def read(seed, *samples):
        return read_batch(train, recipe, augment, seed, samples).images

    alone = read(0, Sample(3, 7))[0]
    np.testing.assert_array_equal(read(0, Sample(1, 2), Sample(3, 7))[1], alone)
    assert not np.array_equal(read(1, Sample(3, 7))[0], alone)
    assert not np.array_equal(read(0, Sample(4, 7))[0], alone)


# The real data


@pytest.mark.shared_data
def test_cifar_archive(shared_data):
    data = load_for_search("cifar10", shared_data / "cifar10.zip", 5000, seed=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (45_000, 5_000, 10_000)
    assert np.bincount(data.valid.labels).tolist() == [500] * 10
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck"
    assert {data.test.read(index).size for index in (0, 5000, 9999)} == {(32, 32)}
    assert data.test.place(9999).endswith("cifar10.zip:test/truck/0999.jpg")


@pytest.mark.shared_data
def test_imagenet_sample(shared_data):
    found = open_folder(shared_data / "imagenet_sample.zip", "eval")
    assert len(found) == len(found.class_names) == 1000
    assert found.class_names[0] == "n01440764" and found.place(0).endswith("tench.JPEG")
    batch = read_batch(found, Preprocessing(), None, 0, [Sample(0, 0), Sample(0, 999)])
    assert batch.images.shape == (2, 224, 224, 3) and batch.labels.tolist() == [0, 999] and not batch.errors
    assert -2.2 < batch.images.min() < -1 and 1 < batch.images.max() < 2.7


@pytest.mark.parametrize(
    ("folders", "split"), [(("",), "all"), (("train/", "Val/"), "val"), (("train/", "test/"), "test")]
)
def test_images_know_which_set_they_are(folders, split, tmp_path):
    for folder in folders:
        write_folder(tmp_path, photos(folder))
    images = datasets.open_folder(tmp_path, "eval" if len(folders) > 1 else None)
    assert images.split == split


def test_has_own_test(tmp_path):
    for name in ("flat/a", "flat/b", "split/train/a", "split/train/b", "split/val/a", "split/val/b"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "0.png")
    assert not datasets.has_own_test(tmp_path / "flat")
    assert datasets.has_own_test(tmp_path / "split")
    with pytest.raises(InputError):
        datasets.has_own_test(tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_archive_and_no_image(tmp_path):
    """Nobody writes into them: reading would wait forever."""
    write_folder(tmp_path, photos("train/"))
    for name in ("photos.zip", "train/cat/pipe.png"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="pipe"):
        datasets.open_folder(tmp_path / "photos.zip")
    images = datasets.open_folder(tmp_path, "train")
    for index, name in enumerate(images.names):
        if name.endswith("pipe.png"):
            with pytest.raises(InputError, match="pipe"):
                images.read(index)
