"""The EXIF orientation of photos, and decoding a JPEG at a fraction of its size."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.batches import Sample, read_batch
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.data.images import (
    ORIENTATION,
    Augment,
    as_image,
    decode,
    network_input,
    open_photo,
    random_crop_box,
    train_transform,
)


def scene(width: int, height: int) -> Image.Image:
    """Smooth, and another at each corner."""
    corners = np.random.default_rng(3).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def photo(orientation: int | None, file_format: str = "JPEG", size: tuple[int, int] = (40, 24)) -> bytes:
    """A photo as a camera stores it."""
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    scene(*size).save(buffer, file_format, exif=exif, **options)
    return buffer.getvalue()


def far(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two images in gray levels."""
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_a_photo_is_turned_as_pillow_turns_it(file_format, orientation):
    data = photo(orientation, file_format)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = open_photo(data, "a", upright=True)
    assert found.size == found.decoded().size == expected.size
    assert far(found.decoded(), expected) == 0
    plain = Image.open(io.BytesIO(data)).convert("RGB")  # which for a TIFF is turned
    assert far(decode(data, "a"), plain) == 0


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientations_that_there_are_none_of_turn_nothing(orientation):
    assert open_photo(photo(orientation), "a", upright=True).size == (40, 24)


def test_damaged_exif_turns_nothing():
    data = photo(6)
    start = data.index(b"Exif\0\0") + 6
    for cut in (2, 9, 13):
        broken = data[: start + cut] + b"\xff" * 8 + data[start + cut + 8 :]
        assert sorted(open_photo(broken, "a", upright=True).decoded().size) == [24, 40]


def test_an_image_of_a_person_is_turned_unless_the_network_wants_it_as_it_lies(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(photo(6))
    assert as_image(path).size == (40, 24) and as_image(path, upright=True).size == (24, 40)
    with Image.open(path) as opened:
        assert as_image(opened, upright=True).size == (24, 40)
    inputs = {
        exif: network_input(path, Preprocessing(resolution=16, resize=16, exif=exif)) for exif in (None, True, False)
    }
    np.testing.assert_array_equal(inputs[None], inputs[True])
    assert not np.array_equal(inputs[None], inputs[False])


def test_a_batch_is_read_as_its_preprocessing_says(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(photo(6))
    images = open_folder(tmp_path)
    for augment in (None, Augment(brightness=0, saturation=0, flip=False)):
        found = {}
        for exif in (None, False, True, True, False):  # the second time from memory
            preprocessing = Preprocessing(resolution=16, resize=16, exif=exif)
            batch = read_batch(images, preprocessing, augment, 0, [Sample(0, 0)])
            assert not batch.errors
            np.testing.assert_array_equal(found.setdefault(bool(exif), batch.images), batch.images)
        assert not np.array_equal(found[True], found[False])


# Decoding at a fraction


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_scaled_while_it_is_decoded(shrink, orientation):
    found = open_photo(photo(orientation, size=(333, 201)), "a", upright=True)
    size = (333, 201) if orientation == 1 else (201, 333)
    assert found.scales and found.size == size
    small = found.decoded(shrink)
    assert small.size == tuple(-(-length // shrink) for length in size)


def test_other_formats_are_decoded_whole():
    found = open_photo(photo(1, "PNG", (333, 201)), "a")
    assert not found.scales and found.decoded(8).size == (333, 201)


def test_a_crop_of_a_scaled_photo_is_the_same_part_of_it():
    data, preprocessing = (
        photo(6, size=(800, 600)),
        Preprocessing(resolution=32, resize=36, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    for seed in range(8):
        both = []
        for scaled in (False, True):
            augment = Augment(brightness=0, saturation=0, scaled_decoding=scaled)
            opened = open_photo(data, "a", upright=True)
            both.append(train_transform(opened, preprocessing, np.random.default_rng(seed), augment))
        assert 0 < 255 * np.abs(both[0] - both[1]).mean() < 2


def test_a_photo_is_never_scaled_below_what_its_crop_needs():
    asked = []
    data = photo(1, size=(500, 400))

    class Spy(type(open_photo(data, "a"))):
        def decoded(self, shrink=1):
            asked.append(shrink)
            return super().decoded(shrink)

    whole = open_photo(data, "a")
    for seed in range(40):
        preprocessing = Preprocessing(resolution=48, resize=54)
        spy = Spy(whole.size, True, open_photo(data, "a").decode)
        train_transform(spy, preprocessing, np.random.default_rng(seed), Augment())
        _, _, width, height = random_crop_box(500, 400, np.random.default_rng(seed), 0.08)
        side = min(width, height)
        assert side // asked[-1] >= 48 or asked[-1] == 1
        assert asked[-1] == 8 or side < 2 * asked[-1] * 48
    assert set(asked) >= {2, 4}
    spy = Spy(whole.size, True, open_photo(data, "a").decode)
    train_transform(spy, Preprocessing(resolution=32, resize=32), np.random.default_rng(0), Augment.small(32))
    assert asked[-1] == 8  # 400 of 32 pixels


def test_small_images_are_trained_on_as_before():
    data, preprocessing = photo(1, size=(47, 47)), Preprocessing(resolution=24, resize=24)
    for augment in (Augment(), Augment.small(24)):
        whole = train_transform(decode(data, "a"), preprocessing, np.random.default_rng(1), augment)
        lazy = train_transform(open_photo(data, "a"), preprocessing, np.random.default_rng(1), augment)
        np.testing.assert_array_equal(whole, lazy)


def test_what_a_batch_holds_does_not_depend_on_what_is_in_memory(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(photo(1, size=(400, 300)))
    preprocessing = Preprocessing(resolution=32, resize=36)
    samples = [Sample(epoch, 0) for epoch in range(12)]  # some scaled, some whole
    at_once = read_batch(open_folder(tmp_path), preprocessing, Augment(), 0, samples).images
    for index, sample in enumerate(samples):
        alone = read_batch(open_folder(tmp_path), preprocessing, Augment(), 0, [sample]).images[0]
        np.testing.assert_array_equal(at_once[index], alone)


def test_a_photo_that_is_cut_is_named_when_it_is_decoded():
    data = photo(6, size=(400, 300))
    opened = open_photo(data[: len(data) // 2], "a.jpg", upright=True)
    assert opened.size == (300, 400)
    for shrink in (1, 4):
        with pytest.raises(InputError, match=r"truncated or corrupt.*\(in a\.jpg\)"):
            open_photo(data[: len(data) // 2], "a.jpg").decoded(shrink)
