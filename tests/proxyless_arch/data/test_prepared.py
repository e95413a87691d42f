"""Images prepared once: the pixels of the plain path, from whatever is kept; and what is not kept."""

import io
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.memory import resident_bytes
from proxyless_arch.data import prepared
from proxyless_arch.data.batches import Sample, read_batch
from proxyless_arch.data.datasets import digits, open_folder
from proxyless_arch.data.images import ORIENTATION, Augment
from proxyless_arch.data.prepared import LIMIT_VARIABLE, FileStore, limit_bytes
from proxyless_arch.data.shard_writing import write_shards

PREPROCESSING = Preprocessing(resolution=(16, 12), resize=(18, 14), exif=True)
GREY = replace(PREPROCESSING, mean=(0.4,), std=(0.3,))
SAMPLES = [Sample(epoch, image) for epoch in (0, 3) for image in range(6)]
PLAIN = Augment(pad_crop=3, brightness=0, saturation=0)
AUGMENTS = (
    None, Augment.small(16), PLAIN, replace(PLAIN, flip=False), replace(PLAIN, pad_crop=20), replace(PLAIN, cutout=5),
    replace(PLAIN, scaled_decoding=False),
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    return tmp_path / "cache/proxyless_nas/decoded"


def save(path, size, kind, seed=0, orientation=1):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, kind, exif=exif)


@pytest.fixture
def photos(tmp_path):
    """Photos larger and smaller than what is cut out of them, some of which are scaled while they are decoded."""
    for name in "xy":
        save(tmp_path / f"photos/{name}/0.jpg", (90, 60), "JPEG", 1)
        save(tmp_path / f"photos/{name}/1.jpg", (30, 40), "JPEG", 2, orientation=6)
        save(tmp_path / f"photos/{name}/2.png", (9, 16), "PNG", 3)
    return tmp_path / "photos"


def plainly(images, preprocessing, augment, seed=7):
    """Each image by itself, from its file."""
    return read_batch(images.read_once(), preprocessing, augment, seed, SAMPLES)


def equal(batch, other):
    np.testing.assert_array_equal(batch.images, other.images)
    np.testing.assert_array_equal(batch.labels, other.labels)
    assert batch.images.dtype == np.float32 and len(batch.images) == len(SAMPLES)


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, GREY, replace(PREPROCESSING, resolution=32, resize=32)])
@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_pixels_are_those_of_the_plain_path(photos, preprocessing, augment):
    images = open_folder(photos)
    assert images.prepared(preprocessing, augment) is not None
    expected = plainly(images, preprocessing, augment)
    for _ in range(2):  # decoded, then kept
        equal(read_batch(images, preprocessing, augment, 7, SAMPLES), expected)
    assert augment is None or not np.array_equal(expected.images[:6], expected.images[6:])


def test_digits_are_kept_in_memory(cache):
    images, preprocessing = digits()[0], replace(PREPROCESSING, exif=None, resolution=32, resize=32)
    for augment in (None, Augment.digits(32)):
        expected = plainly(images, preprocessing, augment)
        for _ in range(2):
            equal(read_batch(images, preprocessing, augment, 7, SAMPLES), expected)
    assert not cache.exists()


class Gone:
    """A source whose images are not read any more."""

    def __init__(self, source):
        self.source = source

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read(self, name):
        raise AssertionError(name)


def later(path, monkeypatch):
    """The images as a later process finds them, which may read none of the files."""
    images = open_folder(path)
    gone = Gone(images.source)
    return replace(images, source=gone, _whole=replace(images._whole, source=gone))


@pytest.mark.parametrize("kind", ["folder", "zip", "shards"])
def test_a_later_process_decodes_nothing(photos, kind, tmp_path, monkeypatch):
    path = photos
    if kind == "zip":
        path = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    if kind == "shards":
        write_shards(str(photos), path := tmp_path / "shards", 2000)
    expected = read_batch(open_folder(path), PREPROCESSING, None, 0, SAMPLES)
    monkeypatch.setattr(prepared, "HasState", object)
    equal(read_batch(later(path, monkeypatch), PREPROCESSING, None, 0, SAMPLES), expected)
    equal(read_batch(pickle.loads(pickle.dumps(open_folder(path))), PREPROCESSING, None, 0, SAMPLES), expected)


def test_parts_of_a_set_share_what_is_kept(photos, cache, monkeypatch):
    images = open_folder(photos)
    odd, chosen = images.subset([1, 3, 5]), images.subset([5, 0, 1, 3]).subset([2, 0])
    read_batch(odd, PREPROCESSING, None, 0, [Sample(0, number) for number in range(3)])
    expected = read_batch(images.read_once(), PREPROCESSING, None, 0, [Sample(0, 1), Sample(0, 5)])
    pixels = chosen.prepared(PREPROCESSING, None)
    monkeypatch.setattr(type(images), "_opened", None)
    found = read_batch(chosen, PREPROCESSING, None, 0, [Sample(0, 0), Sample(0, 1)])
    np.testing.assert_array_equal(found.images, expected.images)
    assert pixels is not None and len(list(cache.iterdir())) == 1


def test_an_image_that_changes_is_decoded_again(photos):
    before = read_batch(open_folder(photos), PREPROCESSING, None, 0, SAMPLES)
    place = photos / "x/2.png"
    state = place.stat()
    pixels = bytearray(place.read_bytes())
    save(place, (9, 16), "PNG", 4)
    assert place.stat().st_size == len(pixels)
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))  # as old as the one before
    after = read_batch(open_folder(photos), PREPROCESSING, None, 0, SAMPLES)
    equal(after, plainly(open_folder(photos), PREPROCESSING, None))
    assert not np.array_equal(before.images, after.images)


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "emptied"])
def test_what_is_damaged_is_decoded_again(photos, cache, damage):
    expected = read_batch(open_folder(photos), PREPROCESSING, None, 0, SAMPLES)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    row = len(content) // 6
    content[2 * row + 7] ^= 1
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes({"cut": content[: 4 * row + 9], "changed": content, "emptied": b""}[damage])
    equal(read_batch(open_folder(photos), PREPROCESSING, None, 0, SAMPLES), expected)
    if damage != "removed":
        assert file.read_bytes() != bytes(content)  # mended


def test_a_full_disk_ends_the_keeping_alone(photos, monkeypatch):
    images = open_folder(photos)
    monkeypatch.setattr(os, "pwrite", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    expected = plainly(images, PREPROCESSING, None)
    equal(read_batch(images, PREPROCESSING, None, 0, SAMPLES), expected)
    assert images.prepared(PREPROCESSING, None) is None
    equal(read_batch(images, PREPROCESSING, None, 0, SAMPLES), expected)


def test_what_is_not_kept(photos, cache, monkeypatch):
    images = open_folder(photos)
    for augment in (
        Augment.imagenet(),
        Augment(min_scale=0.5, brightness=0, saturation=0),
        replace(PLAIN, contrast=0.1),
    ):
        assert images.prepared(PREPROCESSING, augment) is None
    assert images.read_once().prepared(PREPROCESSING, None) is None
    assert images.read_once().subset([1]).prepared(PREPROCESSING, None) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10))
    assert open_folder(photos).prepared(PREPROCESSING, None) is None
    monkeypatch.undo()
    for limit in ("0", "1e-6", "much"):
        monkeypatch.setenv(LIMIT_VARIABLE, limit)
        assert open_folder(photos).prepared(PREPROCESSING, None) is None
    assert not cache.exists() or not any(cache.iterdir())


def test_a_damaged_image_is_told_of_every_time(photos):
    (photos / "x/1.jpg").write_bytes(b"text")
    images = open_folder(photos)
    for _ in range(2):
        batch = read_batch(images, PREPROCESSING, None, 0, SAMPLES)
        assert len(batch.images) == 10 and [error.source for error in batch.errors] == [str(photos / "x/1.jpg")] * 2


def test_files_that_were_used_longest_ago_go(photos, cache, monkeypatch):
    kinds = [replace(PREPROCESSING, resolution=64 + number, resize=128) for number in range(4)]
    each = 6 * 3 * 64 * 64
    monkeypatch.setenv(LIMIT_VARIABLE, str(1.3 * each / 1e9))
    assert limit_bytes() == pytest.approx(1.3 * each)
    names = []
    for number, preprocessing in enumerate(kinds):
        read_batch(open_folder(photos), preprocessing, None, 0, SAMPLES)
        (name,) = {path.name for path in cache.iterdir()} - set(names)
        names.append(name)
        os.utime(cache / name, (number, number))
        if number == 1:
            os.utime(cache / names[0], (9, 9))  # used since
    assert {path.name for path in cache.iterdir()} == {names[0], names[3]}


def test_rows_are_those_of_their_number(tmp_path):
    store = FileStore(tmp_path / "rows", (2, 2, 1))
    rows = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    assert store.open() and store.get(2) is None
    for number in (2, 0):
        store.put(number, rows[number])
    np.testing.assert_array_equal(store.get(2), rows[2])
    assert store.get(1) is None and not FileStore(tmp_path / "none/rows", (1,)).open()


def test_a_training_with_readers_keeps_them(photos, cache):
    from proxyless_nas.data import train_batches

    images = open_folder(photos)
    plain = [read_batch(images.read_once(), PREPROCESSING, PLAIN, 3, [Sample(0, number)]) for number in range(6)]
    found = list(train_batches(images, PREPROCESSING, PLAIN, batch_size=6, seed=3, n_steps=2, n_workers=1))
    assert len(found) == 2
    for pixels, label in zip(found[0][0].permute(0, 2, 3, 1).numpy(), found[0][1].tolist(), strict=True):
        assert any(np.array_equal(pixels, batch.images[0]) and label == batch.labels[0] for batch in plain)
    buffer = io.BytesIO(next(cache.iterdir()).read_bytes())
    assert len(buffer.getvalue()) == 6 * (16 * 12 * 3 + 8)


def test_memory_does_not_grow_with_epochs(photos):
    images, held = open_folder(photos), []
    for epoch in range(300):
        read_batch(images, PREPROCESSING, PLAIN, 0, [Sample(epoch, number) for number in range(6)])
        if epoch in (50, 299):
            held.append(resident_bytes())
    assert held[0] is None or held[1] - held[0] < 2**20
    assert not images._cache.pixels
