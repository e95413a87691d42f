"""Shards: the images, splits and batches of the folder they were written from; bad and foreign tars."""

import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data import shard_writing
from proxyless_arch.data.batches import BatchPlan, eval_steps, read_batch
from proxyless_arch.data.datasets import any_images, has_own_test, load_for_search, open_folder
from proxyless_arch.data.images import Augment
from proxyless_arch.data.remote_shards import cache_of
from proxyless_arch.data.shard_writing import write_shards
from proxyless_arch.data.shards import checked
from proxyless_arch.data.unlabelled import images_at
from proxyless_commands.shard import main
from tests.errors import error_line, named
from tests.proxyless_arch.weights.file_server import FileServer

PREPROCESSING = Preprocessing(resolution=8, resize=9)


def photo(seed, kind):
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Two splits of two classes: names with dots and spaces, a folder within a class, other endings and none."""
    names = ("a.jpg", "b.c.JPEG", "with space.png", "in/side.png", "bare")
    for number, place in enumerate(
        f"{split}/{name}/{file}" for split in ("train", "val") for name in "xy" for file in names
    ):
        path = tmp_path / "photos" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number, "PNG" if place.endswith("png") else "JPEG"))
    return tmp_path / "photos"


@pytest.fixture
def shards(photos, tmp_path):
    """The same in shards of at most two images or so."""
    write_shards(str(photos), tmp_path / "shards", 4000)
    return tmp_path / "shards"


def batches(images, augment):
    plan = BatchPlan(n_images=len(images), batch_size=3, seed=5)
    return [read_batch(images, PREPROCESSING, augment, 5, samples) for samples in plan.steps(2, 4)]


def same(ones, others):
    assert (ones.names, ones.class_names) == (others.names, others.class_names)
    np.testing.assert_array_equal(ones.labels, others.labels)
    for augment in (None, Augment.imagenet(), Augment.small(8)):
        for one, other in zip(batches(ones, augment), batches(others, augment), strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            assert len(one.labels) == 3 and one.errors == ()


@pytest.mark.parametrize("split", ["train", "val", "eval"])
def test_a_split_is_that_of_the_folder(photos, shards, split):
    assert len(list(shards.glob("train-*.tar"))) > 2
    same(open_folder(photos, split), open_folder(shards, split))
    assert has_own_test(shards)


def test_a_search_has_the_same_images(photos, shards):
    ones, others = (load_for_search("imagefolder", path, 4, seed=1) for path in (photos, shards))
    assert ones.fingerprint() == others.fingerprint() and len(others.valid) == 4
    same(ones.train, others.train)
    same(ones.test, others.test)


def test_class_folders_without_splits(photos, tmp_path):
    write_shards(str(photos / "train"), tmp_path / "one", 10**9)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "images-000000.json", "images-000000.tar", "index.json",
    ]  # fmt: skip
    ones, others = (load_for_search("imagefolder", path, 2, seed=1) for path in (photos / "train", tmp_path / "one"))
    assert ones.fingerprint() == others.fingerprint()
    same(open_folder(photos / "train"), open_folder(tmp_path / "one"))


def test_a_zip_and_shards_are_written_alike(photos, shards, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    write_shards(archive, tmp_path / "from_zip", 4000)
    write_shards(str(shards), tmp_path / "again", 4000)
    for folder in ("from_zip", "again"):
        for path in shards.glob("*.*"):
            assert (tmp_path / folder / path.name).read_bytes() == path.read_bytes()


def test_all_images_whatever_their_class(photos, shards):
    assert any_images(shards).names == any_images(photos).names
    assert [images_at([str(shards)]).read(index).size for index in range(20)] == [(10, 12)] * 20


def test_another_process_reads_it(shards):
    images = pickle.loads(pickle.dumps(open_folder(shards, "val")))
    same(images, open_folder(shards, "val"))


def test_what_others_read(photos, shards):
    """Files as they were, beside their labels: what WebDataset makes samples of."""
    images, found = open_folder(photos, "train"), []
    for path in sorted(shards.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        assert len(members) % 2 == 0
        for (name, content), (label_name, label) in zip(members[::2], members[1::2], strict=True):
            assert label_name == f"{name.partition('.')[0]}.cls"
            found.append((content, int(label), name.rpartition(".")[2]))
    own = [(images.source.read(name), label) for name, label in zip(images.names, images.labels.tolist(), strict=True)]
    assert sorted((content, label) for content, label, _ in found) == sorted(own)
    assert [label for _, label, _ in found] != sorted(label for _, label, _ in found)  # shuffled
    assert {ending for *_, ending in found} == {"jpg", "jpeg", "png"}


# --------------------------------------------------------------------------------------------------- writing again


def test_an_interrupted_command_goes_on(photos, tmp_path, monkeypatch):
    folder, real, done = tmp_path / "shards", shard_writing._write, []

    def interrupted(path, *rest):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(shard_writing, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shards(str(photos), folder, 2000)
    refused(folder, "index.json", str(folder))
    kept = {name: (folder / name).stat().st_mtime_ns for name in done}
    monkeypatch.setattr(shard_writing, "_write", real)
    assert write_shards(str(photos), folder, 2000).n_kept == 3
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == kept
    same(open_folder(photos, "val"), open_folder(folder, "val"))


def test_what_changed_is_written_again(photos, shards):
    first = open_folder(photos, "train").place(0)
    with open(first, "wb") as file:
        file.write(photo(99, "JPEG"))
    (shards / "val-000000.tar").write_bytes(b"damaged")
    with pytest.raises(InputError):
        open_folder(shards, "val")
    total = len(list(shards.glob("*.tar")))
    assert 0 < write_shards(str(photos), shards, 4000).n_kept < total
    same(open_folder(photos, "train"), open_folder(shards, "train"))
    same(open_folder(photos, "val"), open_folder(shards, "val"))
    assert write_shards(str(photos), shards, 4000).n_kept == total


def test_other_shards_are_not_overwritten(photos, shards, tmp_path):
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    with pytest.raises(InputError) as caught:
        write_shards(str(photos / "train"), shards, 4000)
    named(str(caught.value), "--output", str(shards))
    (shards / "index.json").unlink()
    (tmp_path / "other/z").mkdir(parents=True)
    (tmp_path / "other/w").mkdir()
    for name in "zw":
        (tmp_path / f"other/{name}/1.png").write_bytes(photo(1, "PNG"))
    (shards / "train-000000.tar").rename(shards / "images-000000.tar")
    with pytest.raises(InputError) as caught:
        write_shards(str(tmp_path / "other"), shards, 4000)
    named(str(caught.value), "--output", "images-000000.tar")
    assert {content for name, content in before.items() if name.endswith("tar")} == {
        path.read_bytes() for path in shards.glob("*.tar")
    }


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command(photos, tmp_path, capsys):
    words = ["--data_path", str(photos), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    named(capsys.readouterr().out, "train", "10 images", "1 shard", str(tmp_path / "out"))
    assert main(words) == 0
    named(capsys.readouterr().out, "2 of 2 shards")
    assert main(["--data_path", str(tmp_path / "out"), "--check"]) == 0
    content = bytearray((tmp_path / "out/val-000000.tar").read_bytes())
    content[700] ^= 1
    (tmp_path / "out/val-000000.tar").write_bytes(content)
    assert main(["--data_path", str(tmp_path / "out"), "--check"]) == 2
    named(capsys.readouterr().err, "error", "SHA-256", "val-000000.tar")
    assert main(["--data_path", str(photos)]) == 2
    error_line(capsys.readouterr().err, "--output")
    assert main(["--data_path", str(photos), "--check"]) == 2
    error_line(capsys.readouterr().err, "data_path", "index.json", source=photos)


# -------------------------------------------------------------------------------------------------------- bad shards


def refused(shards, *words):
    with pytest.raises(InputError) as caught:
        open_folder(shards, "train")
    named(str(caught.value), *words)


def test_a_shard_that_is_missing_or_cut(shards):
    path = shards / "train-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-512])
    refused(shards, "train-000001.tar", str(len(content)), str(len(content) - 512))
    path.unlink()
    refused(shards, "train-000001.tar", "missing")


def test_an_image_that_changed_is_named(shards):
    images = open_folder(shards, "train")
    number, offset, *_ = images.source.where[images.source.rows[images.names[4]]].tolist()
    with open(shards / images.source.files[number], "r+b") as file:
        file.seek(offset + 50)
        file.write(b"\0\1\2")
    with pytest.raises(InputError) as caught:
        images.read(4)
    named(str(caught.value), f"{images.source.files[number]}:{images.names[4]}")
    batch = read_batch(images, PREPROCESSING, None, 0, eval_steps(len(images), 10)[0])
    assert len(batch.labels) == 9 and [error.source for error in batch.errors] == [images.place(4)]


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_index_that_is_damaged(shards):
    index, table = shards / "index.json", shards / "train-000000.json"
    whole, rows = index.read_text(), table.read_text()
    for changes, words in (
        ({"version": 2}, ("version", "2")),
        ({"classes": []}, ("classes",)),
        ({"classes": ["x", "x"]}, ("classes",)),
        ({"parts": {}}, ("parts",)),
        ({"parts": {"trains": []}}, ("parts.trains", "'trains'")),
        ({"parts": {"train": [{"file": "../a.tar"}]}}, ("parts.train[0]",)),
        ({"more": 1}, ("more",)),
    ):
        edited(index, **changes)
        refused(shards, *words, "index.json")
        index.write_text(whole)
    index.write_text(whole[:-20])
    refused(shards, "index.json")
    index.write_text(whole)
    edited(table, labels=[0])
    refused(shards, "train-000000.json")
    table.write_text(rows)
    table.with_name("train-000001.json").unlink()
    refused(shards, "train-000001.json")


def test_tables_are_judged(shards):
    """Even where their hash is right."""
    import hashlib

    index, table = shards / "index.json", shards / "train-000000.json"
    whole, rows = json.loads(index.read_text()), table.read_text()
    n = len(json.loads(rows)["names"])
    for changes, word in (
        ({"labels": [2] * n}, "labels"),
        ({"names": [1] * n}, "names"),
        ({"offsets": [-1] * n}, "offsets"),
        ({"sizes": [10**9] * n}, "sizes"),
        ({"positions": [0] * n}, "different sets"),
        ({"crc32": [0.5] * n}, "crc32"),
    ):
        edited(table, **changes)
        whole["parts"]["train"][0]["table_sha256"] = hashlib.sha256(table.read_bytes()).hexdigest()
        index.write_text(json.dumps(whole))
        refused(shards, word)
        table.write_text(rows)


# ------------------------------------------------------------------------------------------------------ tars of others


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def members(count, said, start=0):
    found = {}
    for number in range(start, start + count):
        found[f"./im/{number:03d}.jpg"] = photo(number, "JPEG")
        found |= {f"./im/{number:03d}.{ending}": content for ending, content in said(number).items()}
    return found


@pytest.mark.parametrize(
    ("said", "classes"),
    [
        (lambda number: {"cls": str(number % 11).encode()}, tuple(f"{number:02d}" for number in range(11))),
        (lambda number: {"json": json.dumps({"label": number % 2}).encode()}, ("0", "1")),
        (lambda number: {"txt": (b"dog", b"cat")[number % 2] + b"\n", "npy": b"x"}, ("cat", "dog")),
    ],
)
def test_tars_without_an_index(tmp_path, said, classes):
    for number in range(2):
        tar(tmp_path / f"tars/shard-{number:06d}.tar", members(11, said, 11 * number))
    images = open_folder(tmp_path / "tars")
    assert images.class_names == classes and len(images) == 22 and (np.diff(images.labels) >= 0).all()
    for index in range(22):
        number = int(images.names[index].rpartition("/")[2][:3])
        assert images.source.read(images.names[index]) == photo(number, "JPEG")
        (content,) = [value for ending, value in said(number).items() if ending != "npy"]
        value = json.loads(content)["label"] if content.startswith(b"{") else content.decode().strip()
        assert images.class_names[images.labels[index]].lstrip("0") == str(value).lstrip("0")


def test_names_for_numbers_and_splits(tmp_path):
    said = lambda number: {"cls": str(number % 2).encode()}  # noqa: E731
    for split in ("imagenet-train-{}", "imagenet-validation-{}"):
        for number in range(2):
            tar(tmp_path / "tars" / f"{split.format(number)}.tar", members(4, said, 4 * number))
    (tmp_path / "tars/classes.txt").write_text("zebra\nant\n")
    data = load_for_search("imagefolder", tmp_path / "tars", 2, seed=0)
    assert data.class_names == ("ant", "zebra") and len(data.train) + len(data.valid) == 8 and len(data.test) == 8
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.names[0] == "imagenet-validation-0/im/001.jpg"
    write_shards(str(tmp_path / "tars"), tmp_path / "ours", 10**9)
    same(open_folder(tmp_path / "tars", "val"), open_folder(tmp_path / "ours", "val"))


def test_tars_that_say_too_little(tmp_path):
    def case(name, contents, *words):
        tar(tmp_path / name / "a.tar", contents)
        with pytest.raises(InputError) as caught:
            open_folder(tmp_path / name)
        named(str(caught.value), "a.tar", *words)

    case("bare", members(2, lambda number: {}), "000.jpg", ".cls", ".json", ".txt")
    case("captions", members(2, lambda number: {"txt": b"a cat on a mat " * 20}), "000.txt")
    case("keyless", members(2, lambda number: {"json": b"{}"}), "000.json")
    case("negative", members(2, lambda number: {"cls": b"-1 "}) | members(1, lambda n: {"json": b'{"cls": -1}'}), "-1")
    case("no_images", {"a.npy": b"x", "a.cls": b"1"}, ".npy")
    case("empty", {}, "no images")


def test_tars_that_are_cut_or_none(tmp_path):
    tar(tmp_path / "tars/a.tar", members(3, lambda number: {"cls": b"%d" % (number % 2)}))
    whole = (tmp_path / "tars/a.tar").read_bytes()
    with tarfile.open(tmp_path / "tars/a.tar") as archive:
        ends = [member.offset_data + -(-member.size // 512) * 512 for member in archive]
    for content in (whole[: ends[-1]], whole[: ends[1] + 600], whole[: ends[1] + 100], b"text", b"\x1f\x8b" + whole):
        (tmp_path / "tars/a.tar").write_bytes(content)
        with pytest.raises(InputError) as caught:
            open_folder(tmp_path / "tars")
        named(str(caught.value), "a.tar")


def test_splits_of_tars_have_the_same_classes(tmp_path):
    tar(tmp_path / "tars/train/a.tar", members(4, lambda number: {"cls": b"%d" % number}))
    tar(tmp_path / "tars/val/a.tar", members(3, lambda number: {"cls": b"%d" % number}))
    with pytest.raises(InputError) as caught:
        open_folder(tmp_path / "tars", "train")
    named(str(caught.value), "val", "3")
    tar(tmp_path / "tars/val/a.tar", members(4, lambda number: {"cls": b"%d" % number}))
    assert len(open_folder(tmp_path / "tars", "val")) == 4


# --------------------------------------------------------------------------------------------------------- by URL


@pytest.fixture
def served(shards, tmp_path, monkeypatch):
    """(URL of the shards, the names that were asked for)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    server = FileServer(b"")

    def answer(handler):
        path = shards / handler.path.rpartition("/")[2]
        content = path.read_bytes() if path.exists() else b""
        handler.head(200 if path.exists() else 404, Content_Length=len(content))
        handler.wfile.write(content)

    server.answers = [answer]
    yield server
    server.stop()


def test_shards_at_a_url(photos, shards, served):
    same(open_folder(photos, "val"), open_folder(served.url, "val"))
    asked = [path.rpartition("/")[2] for path in served.paths]
    assert not any(name.startswith("train") for name in asked)  # only what is read
    served.paths.clear()
    data = [load_for_search("imagefolder", path, 4, seed=1) for path in (photos, f"{served.url}index.json")]
    assert data[0].fingerprint() == data[1].fingerprint()
    assert not any("val" in path for path in served.paths)  # kept
    assert checked(served.url)
    served.paths.clear()
    served.answers = [lambda handler: handler.head(503)]
    with pytest.warns(UserWarning, match="503"):
        same(open_folder(photos, "train"), open_folder(served.url, "train"))


def test_a_shard_that_was_written_again_is_brought_again_whatever_its_length(photos, shards, served):
    same(open_folder(photos, "val"), open_folder(served.url, "val"))
    lengths = {path.name: path.stat().st_size for path in shards.glob("val-*.tar")}
    place = photos / "val" / "x" / "a.jpg"
    place.write_bytes(photo(99, "JPEG"))
    shutil.rmtree(shards)
    write_shards(str(photos), shards, 4000)
    assert lengths == {path.name: path.stat().st_size for path in shards.glob("val-*.tar")}
    same(open_folder(photos, "val"), open_folder(served.url, "val"))
    # a file from before there were notes is looked through, and not brought again
    for note in cache_of(served.url).glob("*.sha256"):
        note.unlink()
    served.paths.clear()
    same(open_folder(photos, "val"), open_folder(served.url, "val"))
    assert not any(path.endswith(".tar") for path in served.paths)


def test_a_url_with_other_shards(shards, served):
    path = shards / "val-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError) as caught:
        open_folder(served.url, "val")
    named(str(caught.value), "val-000000.tar", "SHA-256")
    path.unlink()
    with pytest.raises(InputError) as caught:
        open_folder(served.url, "val")
    named(str(caught.value), "404", f"{served.url}val-000000.tar")
    with pytest.raises(InputError) as caught:
        open_folder("http://", "val")
    named(str(caught.value), "http://")


def test_a_training_reads_them_as_a_folder(photos, shards):
    """With readers, and by either rank."""
    from proxyless_nas.data import train_batches

    for rank in (0, 1):
        ones, others = (
            train_batches(
                open_folder(path, "train"), PREPROCESSING, Augment.imagenet(), batch_size=4, seed=3, n_steps=4,
                first_step=1, n_workers=n_workers, rank=rank, world_size=2,
            )
            for path, n_workers in ((photos, 0), (shards, 2))
        )  # fmt: skip
        for (images, labels), (other_images, other_labels) in zip(ones, others, strict=True):
            assert bool((images == other_images).all()) and labels.tolist() == other_labels.tolist()
