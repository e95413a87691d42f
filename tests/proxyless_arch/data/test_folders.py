"""What a folder of a person's photos holds beside plain images: other formats, junk, names of any kind."""

import io
import os
import tarfile
import unicodedata

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data import images
from proxyless_arch.data.batches import Sample, read_batch
from proxyless_arch.data.datasets import load_for_search, open_folder
from proxyless_arch.data.unlabelled import images_at
from tests.errors import named, refused
from tests.proxyless_arch.data.test_datasets import photos, png, write, write_folder, write_zip

__all__ = ["write"]  # the fixture: as a folder and as a zip


def encoded(file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (200, 10, 30)).save(buffer, file_format)
    return buffer.getvalue()


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(16)

# What is an image


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("a.gif", "GIF"),
        ("a.jfif", "JPEG"),
        ("a.JPE", "JPEG"),
        ("a.pgm", "PPM"),
        ("a.pnm", "PPM"),
        ("a.dib", "BMP"),
        ("IMG_0001", "JPEG"),
        ("a.jpg_large", "JPEG"),
        ("a.001", "PNG"),
        ("no ending", "WEBP"),
        ("b", "BMP"),
        ("c", "GIF"),
        ("d", "TIFF"),
        ("e", "PPM"),
        ("wrong.png", "JPEG"),
    ],
)
def test_what_decodes_is_an_image(write, name, file_format):
    found = open_folder(write(photos() | {f"cat/{name}": encoded(file_format)}))
    assert f"cat/{name}" in found.names and not found.left_out.lines()
    assert np.asarray(found.read(found.names.index(f"cat/{name}")))[2, 3, 0] > 190


def test_other_files_are_counted_by_their_endings(write):
    junk = {f"cat/{k}.heic": HEIC for k in range(10)} | {f"dog/{k}.TXT": b"BMW P5x" for k in range(3)}
    junk |= {"dog/a.jpg.part": b"\xff\xd8\xff\xe0", "dog/readme": b"RIFF or text", "dog/empty": b"", "1.png": png(1)}
    system = ["@eaDir/x.jpg/thumb.jpg", "cat/@eaDir/0.png", "cat/Thumbs.db", "desktop.ini", "cat/.DS_Store"]
    system += [
        ".ipynb_checkpoints/0.png",
        "dog/.ipynb_checkpoints/0.png",
        "__MACOSX/cat/._0.png",
        "$RECYCLE.BIN/a/0.png",
    ]
    found = open_folder(write(photos() | junk | dict.fromkeys(system, png(0))))
    assert found.class_names == ("cat", "dog") and len(found) == 6
    if "HEIF" in images.decoders().formats:
        pytest.skip("pillow-heif is installed: .heic files are images")
    assert dict(found.left_out.files) == {".heic": 10, ".txt": 3, "": 2, ".part": 1}
    assert found.left_out.to_json()["loose_images"] == 1
    files, loose = found.left_out.lines()
    named(files, "16 other files", "10 .heic: pip install pillow-heif", "3 .txt", "2 without ending", "1 .part")
    named(loose, "1 image")


def test_photos_of_phones_alone_say_what_reads_them(write):
    if "HEIF" in images.decoders().formats:
        pytest.skip("pillow-heif is installed")
    path = write({"cat/0.png": png(0), "dog/0.heic": HEIC})
    with refused("dog", "no images", "1 .heic", "pip install pillow-heif", source=path):
        open_folder(path)
    found = open_folder(write(photos() | {"cat/0.png": HEIC}))
    with refused("", "HEIC", "pip install pillow-heif", source=found.item(0).place):
        found.read(0)


def test_files_with_a_usual_ending_are_not_opened(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "set", photos(each=20) | {"cat/notes.txt": b"", "cat/raw.nef": b"II*\0"})
    opened = []
    monkeypatch.setattr("builtins.open", lambda path, *_, **__: opened.append(path))
    assert len(open_folder(root)) == 40 and not opened


def test_a_pipe_is_not_waited_for(tmp_path):
    root = write_folder(tmp_path / "set", photos())
    os.mkfifo(root / "cat" / "pipe")
    assert dict(open_folder(root).left_out.files) == {"": 1}


def test_an_archive_of_another_kind_says_what_unpacks_it(tmp_path):
    for name in ("photos.tar.gz", "photos.tgz", "photos.tar"):
        with tarfile.open(tmp_path / name, "w:gz"):
            pass
        for opened in (open_folder, lambda path: images_at([str(path)])):  # with classes, and to predict on
            with refused("", f"(tar -xf {name})", source=tmp_path / name):
                opened(tmp_path / name)


# Names


def test_names_that_are_no_text_are_read_and_named(tmp_path):
    strange, bad = os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff.jpg")
    files = photos(classes=(strange, "two\nlines")) | {f"{strange}/{bad}": b"no image"}
    root = write_folder(tmp_path / "set", files)
    found = open_folder(root)
    assert found.class_names == (r"caf\xe9", r"two\nlines")
    "".join(found.class_names).encode()
    batch = read_batch(found, Preprocessing(resolution=4, resize=4), None, 0, [Sample(0, k) for k in range(len(found))])
    assert len(batch.labels) == 6 and len(batch.errors) == 1
    assert str(batch.errors[0]).endswith(r"caf\xe9/\xff.jpg)")
    load_for_search("imagefolder", root, 2, seed=0).fingerprint()


def test_one_name_in_two_normal_forms_is_one_class_in_two_sets(write):
    composed = "café"
    files = photos("train/", (composed, "zebra")) | photos("test/", (unicodedata.normalize("NFD", composed), "zebra"))
    path = write(files)
    for split in ("train", "test"):
        found = open_folder(path, split)
        assert found.class_names == (composed, "zebra") and len(found) == 6
        found.read(0)


def test_two_classes_that_look_alike_are_refused(write):
    for twin in ("cafe\u0301", "café ", "ca\u200bfé"):
        with pytest.raises(InputError, match="two classes look alike"):
            open_folder(write(photos(classes=("café", twin))))


# Splits on a disk


@pytest.mark.parametrize("wrapper", ["", "zip of one folder/"])
def test_splits_in_capitals(write, wrapper):
    path = write(photos(f"{wrapper}Train/", each=10) | photos(f"{wrapper}Val/"))
    data = load_for_search("imagefolder", path, 4, seed=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (16, 4, 6)
    assert data.class_names == ("cat", "dog")


def test_what_is_not_used_is_named(write):
    files = photos("train/", each=10)
    data = load_for_search("imagefolder", write(files | {"Validation/1.png": png(1)}), 4, seed=0)
    (unused,) = data.left_out.lines()
    named(unused, "not used", "Validation/", "1 image", "no class folders")
    assert (len(data.train), len(data.test)) == (12, 4)


def test_a_validation_set_beside_a_test_set_is_named(write):
    path = write(photos("train/", each=10) | photos("val/") | photos("test/", each=2))
    data = load_for_search("imagefolder", path, 4, seed=0)
    assert len(data.test) == 4 and data.left_out.to_json()["folders"] == ["val/ (6 images)"]


def test_a_test_set_without_labels_is_refused(write):
    path = write(photos("train/", each=10) | {"test/1.png": png(1)})
    with refused("", "test/", "no class folders", source=path):
        load_for_search("imagefolder", path, 4, seed=0)


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
def test_images_are_the_same_in_a_folder_of_their_own(tmp_path, splits):
    """As the zip of a folder has them, or what was unpacked; other names, labels or folders are other images."""
    files = {name: data for split in splits for name, data in photos(split, each=10).items()}
    plain = write_folder(tmp_path / "pets", files)
    zipped = write_zip(tmp_path / "any.zip", {f"a/pets/{name}": data for name, data in files.items()})
    folder, archive = (load_for_search("imagefolder", path, 4, seed=0) for path in (plain, zipped))
    inner = load_for_search(
        "imagefolder", write_zip(tmp_path / "pets.zip", {f"pets/{n}": d for n, d in files.items()}), 4, 0
    )
    assert folder.fingerprint() != archive.fingerprint()
    assert archive.fingerprint(folder.fingerprint()) == folder.fingerprint()
    for told, now in ((inner, folder), (inner, archive), (folder, inner)):
        assert now.fingerprint(told.fingerprint()) == told.fingerprint()
    renamed = {name.replace("cat/", "cow/"): data for name, data in files.items()}
    for other in (renamed, dict(list(files.items())[:-1])):
        data = load_for_search(
            "imagefolder", write_zip(tmp_path / "o.zip", {f"pets/{n}": d for n, d in other.items()}), 4, 0
        )
        assert data.fingerprint(folder.fingerprint()) == data.fingerprint()


# Runs of before


def test_the_first_edition_finds_what_it_found(write):
    path = write(photos(each=10) | {"cat/a.gif": encoded("GIF"), "cat/b.heic": HEIC, "dog/c": encoded("JPEG")})
    before = load_for_search("imagefolder", path, 4, seed=0, edition=1)
    plain = write_zip(path.parent / "plain.zip", photos(each=10))
    assert before.fingerprint() == load_for_search("imagefolder", plain, 4, seed=0).fingerprint()
    assert not before.left_out.lines()
    now = load_for_search("imagefolder", path, 4, seed=0)
    assert len(now.train) == len(before.train) + 2
