"""The image pipeline against an independent resampler, hand-worked geometry, and every kind of bad file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.images import (
    MAX_PIXELS,
    Augment,
    as_image,
    decode,
    eval_transform,
    normalize,
    random_crop_box,
    train_transform,
)
from tests.errors import named

RECIPE = Preprocessing(resolution=24, resize=27)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
NO_COLOUR = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def bytes_of(values: np.ndarray) -> np.ndarray:
    """uint8 pixels of an array made with mean 0 and std 1."""
    return np.rint(values * 255).astype(np.uint8)


def resample_rows(pixels: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear along axis 0, as Pillow defines it: a triangle filter in 22-bit fixed point."""
    length = pixels.shape[0]
    scale = length / size
    support = max(scale, 1.0)
    rows = []
    for out in range(size):
        centre = (out + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), length)
        weights = [max(0.0, 1 - abs((x + 0.5 - centre) / support)) for x in range(first, last)]
        fixed = [int(0.5 + weight / sum(weights) * (1 << 22)) for weight in weights]
        total = sum(w * pixels[first + k].astype(np.int64) for k, w in enumerate(fixed)) + (1 << 21)
        rows.append(np.clip(total >> 22, 0, 255).astype(np.uint8))
    return np.stack(rows)


def resample(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    columns_done = resample_rows(pixels.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return resample_rows(columns_done, height)


@pytest.mark.parametrize(
    ("size", "resized", "offset"),
    [
        # (width, height) -> resized (width, height), crop (left, top); short side 27, crop 24, worked by hand.
        ((50, 37), (36, 27), (6, 2)),  # 27 * 50 / 37 = 36.49; (36-24)/2 = 6; (27-24)/2 = 1.5 -> 2 (even)
        ((37, 50), (27, 36), (2, 6)),
        ((31, 61), (27, 53), (2, 14)),  # 53.13; 14.5 -> 14 (even)
        ((46, 41), (30, 27), (3, 2)),  # 30.29
        ((40, 39), (27, 27), (2, 2)),  # 27.69 is cut to 27, not rounded to 28
        ((20, 9), (60, 27), (18, 2)),  # enlarged
        ((27, 27), (27, 27), (2, 2)),
    ],
)
def test_eval_transform_equals_a_hand_written_reference(size, resized, offset):
    image = noise(*size)
    expected = resample(np.asarray(image), *resized)
    left, top = offset
    result = eval_transform(image, Preprocessing(resolution=24, resize=27, **PLAIN))
    assert result.dtype == np.float32 and result.shape == (24, 24, 3)
    np.testing.assert_array_equal(bytes_of(result), expected[top : top + 24, left : left + 24])


def test_bicubic_is_another_filter():
    image = noise(50, 37)
    bilinear = eval_transform(image, Preprocessing(resolution=24, resize=27, **PLAIN))
    bicubic = eval_transform(image, Preprocessing(resolution=24, resize=27, interpolation="bicubic", **PLAIN))
    expected = np.asarray(image.resize((36, 27), Image.Resampling.BICUBIC))[2:26, 6:30]
    np.testing.assert_array_equal(bytes_of(bicubic), expected)
    assert np.abs(bicubic - bilinear).max() > 0.02


def test_normalize_by_hand():
    pixels = np.array([[[0, 255, 51]]], dtype=np.uint8)
    result = normalize(pixels, (0.5, 0.25, 0.2), (0.5, 0.25, 0.1))
    np.testing.assert_allclose(result, [[[-1, 3, 0]]], atol=1e-7)
    assert result.dtype == np.float32


def test_an_image_too_elongated_to_resize_is_refused():
    with pytest.raises(InputError, match="from 2 x 300000"):
        eval_transform(Image.new("RGB", (2, 300_000)), Preprocessing())


def test_train_transform_is_a_function_of_the_generator():
    image = noise(61, 47)

    def run(seed):
        return train_transform(image, RECIPE, np.random.default_rng(seed), Augment.imagenet())

    np.testing.assert_array_equal(run(5), run(5))
    assert run(5).shape == (24, 24, 3) and run(5).dtype == np.float32
    assert not np.array_equal(run(5), run(6))


def test_pad_crop_gives_every_shift_and_only_shifts():
    image = noise(8, 8)
    recipe = Preprocessing(resolution=8, resize=8, **PLAIN)
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)))
    shifts = {padded[y : y + 8, x : x + 8].tobytes(): (x, y) for x in range(3) for y in range(3)}
    augment = Augment(pad_crop=1, flip=False, **NO_COLOUR)
    seen = set()
    for seed in range(120):
        seen.add(shifts[bytes_of(train_transform(image, recipe, np.random.default_rng(seed), augment)).tobytes()])
    assert seen == set(shifts.values())


def test_flip_mirrors_half_of_the_images():
    image = noise(16, 16)
    recipe = Preprocessing(resolution=16, resize=16, **PLAIN)
    augment = Augment(min_scale=1.0, **NO_COLOUR)
    never = Augment(min_scale=1.0, flip=False, **NO_COLOUR)
    mirrored = 0
    for seed in range(200):
        cut = train_transform(image, recipe, np.random.default_rng(seed), never)
        result = train_transform(image, recipe, np.random.default_rng(seed), augment)
        is_mirrored = np.array_equal(result, cut[:, ::-1])
        assert is_mirrored or np.array_equal(result, cut)
        mirrored += is_mirrored
    assert 70 < mirrored < 130


def test_presets():
    assert (Augment.small(32).pad_crop, Augment.small(64).pad_crop, Augment.small(16).pad_crop) == (4, 8, 4)
    assert not Augment.digits(32).flip and Augment.digits(32).pad_crop == 2
    assert Augment.imagenet() == Augment(
        min_scale=0.08, flip=True, brightness=32 / 255, saturation=0.5, contrast=0, pad_crop=0
    )


@pytest.mark.parametrize(
    "wrong", [{"min_scale": 0}, {"min_scale": 1.5}, {"pad_crop": -1}, {"contrast": -0.1}, {"saturation": float("nan")}]
)
def test_augment_refuses_impossible_values(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Augment(**wrong)


@pytest.mark.parametrize("size", [(100, 80), (33, 200), (500, 10), (1, 1), (1, 1000), (1000, 1)])
def test_random_crops_lie_inside_and_keep_their_ratio(size):
    width, height = size
    areas = []
    for seed in range(300):
        left, top, w, h = random_crop_box(width, height, np.random.default_rng(seed), 0.08)
        assert 0 <= left <= left + w <= width and 0 <= top <= top + h <= height and w > 0 and h > 0
        if min(w, h) > 8:
            assert 0.75 - 0.1 < w / h < 4 / 3 + 0.15
        areas.append(w * h / (width * height))
    if size == (100, 80):
        assert 0.07 < min(areas) < 0.12 and max(areas) > 0.8


def test_fallback_crop_is_the_largest_centred_one():
    # No crop of at least half the area with ratio 3/4..4/3 fits in 10 x 200, so all ten tries fail.
    assert random_crop_box(10, 200, np.random.default_rng(0), 0.5) == (0, 93, 10, 13)
    assert random_crop_box(200, 10, np.random.default_rng(0), 0.5) == (93, 0, 13, 10)


def test_jitter_scales_brightness_and_leaves_grey_unsaturated():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    recipe = Preprocessing(resolution=8, resize=8, **PLAIN)
    factors = []
    for seed in range(100):
        result = train_transform(grey, recipe, np.random.default_rng(seed), Augment(brightness=0.2, saturation=0.5))
        assert np.ptp(result) == 0
        factors.append(result[0, 0, 0] * 255 / 100)
    assert 0.79 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.21
    red = Image.new("RGB", (8, 8), (200, 50, 50))
    spread = [
        np.ptp(train_transform(red, recipe, np.random.default_rng(seed), Augment(brightness=0.0, saturation=0.5)))
        for seed in range(50)
    ]
    assert min(spread) < 0.45 < 150 / 255 < 0.75 < max(spread)


def test_colours_follow_plain_conversion():
    rgb = noise(9, 7)
    np.testing.assert_array_equal(np.asarray(decode(encoded(rgb, "PNG"), "p")), np.asarray(rgb))

    grey = rgb.convert("L")
    np.testing.assert_array_equal(np.asarray(decode(encoded(grey, "PNG"), "p")), np.stack([np.asarray(grey)] * 3, -1))

    palette = rgb.quantize(16)
    np.testing.assert_array_equal(np.asarray(decode(encoded(palette, "PNG"), "p")), np.asarray(palette.convert("RGB")))

    black_white = rgb.convert("1")
    assert set(np.unique(np.asarray(decode(encoded(black_white, "PNG"), "p")))) == {0, 255}

    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = np.asarray(decode(encoded(cmyk, "JPEG", quality=95), "p"))
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 3


def test_alpha_is_dropped_not_composited(recwarn):
    rgba = np.dstack([np.asarray(noise(6, 5)), np.zeros((5, 6), dtype=np.uint8)])
    result = decode(encoded(Image.fromarray(rgba), "PNG"), "p")
    np.testing.assert_array_equal(np.asarray(result), rgba[..., :3])
    palette = Image.fromarray(rgba[..., :3]).quantize(8)
    result = decode(encoded(palette, "PNG", transparency=bytes([0, 10, 255])), "p")
    np.testing.assert_array_equal(np.asarray(result), np.asarray(palette.convert("RGB")))
    assert not recwarn.list


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257], [32768, 65535, 65279, 1000]], dtype=np.uint16)
    expected = np.array([[0, 0, 1, 1], [128, 255, 254, 4]])  # the nearest to v / 257
    for file_format in ("PNG", "TIFF"):
        result = np.asarray(decode(encoded(Image.fromarray(values), file_format), "p"))
        np.testing.assert_array_equal(result, np.stack([expected] * 3, -1))
    pgm = b"P5 4 2 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(np.asarray(decode(pgm, "p"))[..., 0], expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_more_than_sixteen_bits_is_refused(dtype):
    data = encoded(Image.fromarray(np.full((4, 4), 70_000, dtype=dtype)), "TIFF")
    with pytest.raises(InputError, match=r"expected 8 or 16 bits.*\(in a\.tif\)"):
        decode(data, "a.tif")


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(noise(20, 10), "JPEG", exif=exif), "p").size == (20, 10)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_truncated_files_are_errors_naming_the_place(file_format):
    data = encoded(noise(31, 23), file_format)
    for kept in (0, 1, 5, len(data) // 4, len(data) // 2, len(data) - 40):
        with pytest.raises(InputError, match=r"\(in set\.zip:cat/a\.jpg\)"):
            decode(data[:kept], "set.zip:cat/a.jpg")


def test_not_an_image_and_not_an_allowed_format():
    for data in (b"hello, I am a text file", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b"\x00" * 4096):
        with pytest.raises(InputError, match=r"expected an image \(JPEG.*\(in notes\.jpg\)"):
            decode(data, "notes.jpg")


@pytest.mark.filterwarnings("ignore:Image size")
def test_random_damage_gives_an_image_or_an_input_error():
    rng = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "BMP", "GIF", "PPM"):
        data = encoded(noise(31, 23), file_format)
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(3):
                damaged[rng.integers(0, min(len(data), 300))] = rng.integers(0, 256)
            try:
                assert decode(bytes(damaged), "p").mode == "RGB"
            except InputError as error:
                assert "(in p)" in str(error)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [9_500, 40_000])
def test_decompression_bombs_are_refused_before_decoding(side):
    assert side * side > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" * 1000)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(InputError, match=r"pixels.*\(in bomb\.png\)"):
        decode(data, "bomb.png")


def test_as_image_takes_files_pixels_and_pillow(tmp_path):
    """The same RGB pixels from each; a gray or transparent image becomes RGB as decode makes it."""
    image = noise(7, 5)
    image.save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(image), image):
        found = as_image(given)
        assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(image))
    gray = image.convert("L")
    assert np.array_equal(np.asarray(as_image(gray)), np.repeat(np.asarray(gray)[:, :, None], 3, 2))
    assert gray.mode == "L"


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        b"bytes",
        None,
    ],
    ids=lambda given: f"{getattr(given, 'dtype', type(given).__name__)} {getattr(given, 'shape', '')}",
)
def test_as_image_refuses_what_it_would_misread(given):
    with pytest.raises(InputError) as caught:
        as_image(given)
    assert caught.value.place == "image"


def test_as_image_names_the_file_it_cannot_read(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in ("bad.png", "missing.png"):
        with pytest.raises(InputError) as caught:
            as_image(tmp_path / name)
        assert caught.value.source == str(tmp_path / name)


def test_random_changes_in_words():
    named(Augment.digits(16).in_words(), "shifted", "1 px")
    crops, mirrored, brightness, saturation = Augment.imagenet().in_words().split(", ")
    named(crops, "crops", "8 %")
    named(mirrored, "half", "mirrored")
    named(brightness, "brightness", "13 %")
    named(saturation, "saturation", "50 %")


def progressive():
    """A progressive JPEG: all before its last scan, the last scan, its end."""
    file = io.BytesIO()
    noise(40, 30).save(file, "JPEG", progressive=True)
    last = file.getvalue().rindex(b"\xff\xda")
    return file.getvalue()[:last], file.getvalue()[last:-2], b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused():
    head, scan, end = progressive()
    assert decode(head + scan + end, "a.jpg").size == (40, 30)
    with pytest.raises(InputError, match="scans") as caught:
        decode(head + 1000 * scan + end, "a.jpg")
    assert caught.value.source == "a.jpg"


def test_what_lies_beside_the_scans_of_a_jpeg_is_none():
    head, scan, end = progressive()
    inside = b"\xff\xe5" + struct.pack(">H", 2002) + 1000 * b"\xff\xda"
    for data in (head + scan + end + 1000 * b"\xff\xda", head[:2] + inside + head[2:] + scan + end):
        assert decode(data, "a.jpg").size == (40, 30)


def test_an_image_that_memory_does_not_hold_is_unreadable(monkeypatch):
    def load(image):
        raise MemoryError

    file = io.BytesIO()
    noise(8, 8).save(file, "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(InputError) as caught:
        decode(file.getvalue(), "wide.png")
    assert caught.value.source == "wide.png"
