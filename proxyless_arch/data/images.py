"""From the bytes of an image file to the network's input: the one pipeline of both frameworks (Pillow and numpy).

``eval_transform`` equals, bit for bit, the torchvision v1 transform the released accuracies were measured with:
Resize(resize), CenterCrop(resolution), ToTensor(), Normalize(mean, std), where that is a square of RGB.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from proxyless_arch.arch.spec import GREY, Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.base.sides import Sides, height_width, in_flag

if TYPE_CHECKING:
    from PIL.Image import Image

AnyImage: TypeAlias = "str | os.PathLike[str] | np.ndarray | Image"
"""A file, uint8 RGB pixels (height, width, 3), or an image of Pillow."""

MAX_PIXELS = 89_478_485
"""The largest image decoded or resized to: Pillow's own limit for a suspected decompression bomb (256 MB of RGB)."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
"""The decoders allowed to look at a file. Pillow has more; some of them start other programs (EPS: Ghostscript)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENDINGS = _words(
    ".jpg .jpeg .jpe .jfif .jfi .jif .pjpeg .pjp .mpo .png .apng .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .gif"
)
AVIF_ENDINGS, HEIF_ENDINGS = _words(".avif .avifs"), _words(".heic .heif .hif .heics .heifs")
HEIF_PACKAGE = "pillow-heif"
NO_IMAGES = _words(
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .html .htm .pdf .doc .docx .xls .xlsx .log .ini .cfg .toml "
    ".py .ipynb .m .sh .r .js .db .sqlite .lst .names .data .dat .bin .mat .npy .npz .pkl .pickle .h5 .hdf5 .pt .pth "
    ".mp4 .mov .avi .mkv .webm .m4v .3gp .mts .mp3 .wav .aae .xmp .thm .lrv .zip .tar .gz .tgz .bz2 .xz .7z .rar "
    ".svg .eps .ai .psd .xcf .raw .nef .cr2 .cr3 .arw .dng .orf .rw2 .raf .pef .srw "
    ".jpg_original .jpeg_original .png_original .part .crdownload .download .tmp .bak .swp "
    ".md5 .sha1 .sha256 .url .lnk .exe"
)
"""Endings of files that are not opened to see what they are. Raw photos hold a TIFF, but no image that Pillow reads."""

ORIENTATION = 0x0112
"""EXIF's tag of how a camera was held: 1 (upright) to 8."""
SIDEWAYS = 5
"""From this orientation on, width and height change places."""
SHRINKS = (8, 4, 2)
"""By what a JPEG can be scaled down while it is decoded, at a fraction of the time."""

CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10

MAX_SCANS = 64
"""Of a JPEG. A progressive one has some ten; each pass over a large image takes time, whatever little it is said in."""
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")

_CORRUPT = (
    MemoryError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


# ------------------------------------------------------------------------------------------------- what is an image


class Decoders(NamedTuple):
    """Which files are decoded here: Pillow's names of the formats, and their usual endings."""

    formats: tuple[str, ...]
    endings: frozenset[str]


@functools.cache
def decoders() -> Decoders:
    """FORMATS, AVIF where this Pillow has it, and the phones' HEIC where pillow-heif is installed."""
    found = Decoders(FORMATS, ENDINGS)
    with contextlib.suppress(ImportError):
        from PIL import AvifImagePlugin

        if AvifImagePlugin.SUPPORTED:
            found = Decoders((*found.formats, "AVIF"), found.endings | AVIF_ENDINGS)
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found = Decoders((*found.formats, "HEIF"), found.endings | HEIF_ENDINGS)
    return found


@functools.cache
def decoder_versions() -> tuple[str, ...]:
    """Of what decodes and resizes: another one may give other pixels."""
    import PIL
    from PIL import features

    found = [f"Pillow {PIL.__version__}", *(f"{name} {features.version(name)}" for name in ("jpg", "webp", "avif"))]
    with contextlib.suppress(ImportError):
        import pillow_heif

        found.append(f"pillow-heif {pillow_heif.__version__}")
    return tuple(found)


def names_an_image(ending: str) -> bool | None:
    """Whether files of an ending (in small letters, with its dot) are images; None where it says nothing."""
    if ending in decoders().endings:
        return True
    return False if ending in NO_IMAGES or ending in HEIF_ENDINGS or ending in AVIF_ENDINGS else None


def begins_an_image(head: bytes) -> bool:
    """Whether a file that begins with these 32 bytes or more is an image that is decoded here."""
    plain = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
    return (
        head.startswith(plain)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in tuple(b"%d" % kind for kind in range(1, 7)) and head[2:3].isspace())
        or (_is_heif(head) and "HEIF" in decoders().formats)
        or (head[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" in decoders().formats)
    )


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


# -------------------------------------------------------------------------------------------------------- decoding


@dataclass(frozen=True)
class Photo:
    """An image that is not decoded yet, or only as much of it as is needed.

    Args:
        size: (width, height) in pixels, of the image as it is seen.
        scales: whether it can be scaled down while it is decoded (JPEG).
        decode: gives the RGB image, scaled down by 1, 2, 4 or 8.
    """

    size: tuple[int, int]
    scales: bool
    decode: Callable[[int], Image]

    @classmethod
    def of(cls, image: Image) -> Photo:
        """An image that is decoded already."""
        return cls(image.size, False, lambda _: image)

    def decoded(self, shrink: int = 1) -> Image:
        """The RGB image, of ``size``; where it scales, of that divided by ``shrink`` and rounded up."""
        return self.decode(shrink if self.scales else 1)


def open_photo(data: bytes, place: str, *, upright: bool = False) -> Photo:
    """An image file whose header is read.

    As in the released pipeline, colours go through Pillow's plain ``convert("RGB")`` (alpha is dropped, not
    composited). Only the first frame is read.
    ``Deviation:`` 16-bit grayscale is scaled to 8 bits (65535 becomes 255); a plain ``convert`` would clip at 255.

    Args:
        data: the bytes of the file.
        place: where the bytes came from, for the error: a path or ``archive.zip:member``.
        upright: turn the photo as its EXIF orientation says (the released pipeline does not; Pillow turns every TIFF).

    Raises:
        InputError: not an image of a format in ``decoders()``, truncated or corrupt, more than ``MAX_PIXELS`` pixels
            (or than there is memory for), a JPEG of more than ``MAX_SCANS`` scans, or more than 16 bits per channel;
            that and truncation are found when it is decoded.
    """
    from PIL import Image

    with _judged(data, place):
        image = Image.open(io.BytesIO(data), formats=decoders().formats)
        if not 0 < image.width * image.height <= MAX_PIXELS:
            raise InputError(
                f"expected an image of 1 to {MAX_PIXELS} pixels, got {image.width} x {image.height}", source=place
            )
        if image.format in ("JPEG", "MPO"):
            _check_scans(data, place)
        orientation = _orientation(image) if upright else 1
        width, height = image.size

    def decode_at(shrink: int) -> Image.Image:
        with _judged(data, place):
            if shrink > 1:
                image.draft(None, (width // shrink, height // shrink))
            image.load()
            return _turned(_to_rgb(image, place), orientation)

    size = (height, width) if orientation >= SIDEWAYS else (width, height)
    return Photo(size, image.format in ("JPEG", "MPO"), decode_at)


def decode(data: bytes, place: str, *, upright: bool = False) -> Image:
    """Decode an image file to 8-bit RGB; see open_photo."""
    return open_photo(data, place, upright=upright).decoded()


@contextlib.contextmanager
def _judged(data: bytes, place: str) -> Iterator[None]:
    """What Pillow raises for a bad file becomes an InputError."""
    from PIL import Image

    try:
        yield
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        what = "bytes that none of these decoders accepts" if data else "an empty file"
        if _is_heif(data[:12]) and "HEIF" not in decoders().formats:
            what = f"a HEIC photo: pip install {HEIF_PACKAGE} reads it"
        raise InputError(f"expected an image ({', '.join(decoders().formats)}), got {what}", source=place) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"too many pixels: {error}", source=place) from None
    except _CORRUPT as error:
        raise InputError(f"the image is truncated or corrupt: {error}", source=place) from None


def _check_scans(data: bytes, place: str) -> None:
    """Raises InputError for a JPEG whose first image has more than MAX_SCANS scans."""
    if data.count(_SCAN) <= MAX_SCANS:  # what lies between and behind the scans may look like one
        return
    position, n_scans = 2, 0
    while (found := _MARKER.search(data, position)) is not None:
        kind, position = found[1], found.end()
        if kind == b"\xd9":
            return
        n_scans += kind == b"\xda"
        if n_scans > MAX_SCANS:
            raise InputError(f"expected a JPEG of at most {MAX_SCANS} scans, got more", source=place)
        if kind not in b"\x01\xd8":
            position += int.from_bytes(data[position : position + 2], "big")


def _orientation(image: Image) -> int:
    """EXIF's, 1 to 8. Bad EXIF says nothing; a TIFF is turned by Pillow itself."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(ORIENTATION)
    except _CORRUPT:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(image: Image, orientation: int) -> Image:
    """The image of a camera that was held as ``orientation`` says, the right way up."""
    from PIL.Image import Transpose

    way = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if way is None else image.transpose(way)


def as_image(image: AnyImage, *, upright: bool = False) -> Image:
    """An RGB image from a file, from uint8 RGB pixels (height, width, 3), or from an image of Pillow.

    ``upright``: turn a file, or an image of Pillow that has EXIF still, as its orientation says.

    Raises:
        InputError: no such file, a bad one (see decode), an array of another type or shape, or something else.
    """
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        return decode(read_bytes(image), os.fspath(image), upright=upright)
    if isinstance(image, Image.Image):
        return _turned(_to_rgb(image.copy(), "image"), _orientation(image) if upright else 1)
    if not isinstance(image, np.ndarray):
        raise InputError(f"expected a file, an array or an image of Pillow, got {type(image).__name__}", "image")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"expected uint8 (height, width, 3), got {image.dtype} {image.shape}", "image")
    return Image.fromarray(image)


def _to_rgb(image: Image, place: str) -> Image:
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("expected 8 or 16 bits per channel, got 32", source=place)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise InputError("expected 8 or 16 bits per channel, got floating point", source=place)
    # Without it Pillow warns about every palette image with alpha; the RGB pixels are the same.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def normalize(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """``(pixels / 255 - mean) / std`` in float32, in the operation order of ToTensor and Normalize.

    Args:
        pixels: uint8, (..., channels).
        mean: per channel, in 0..1.
        std: per channel, in 0..1.

    Returns:
        A new float32 array of the same shape.
    """
    values = np.divide(pixels, np.float32(255), dtype=np.float32, order="C")
    # a row of pixels at a time: over channels alone numpy takes five times as long for the same operations
    width = pixels.shape[-2] if pixels.ndim > 1 else 1
    rows = values.reshape(*pixels.shape[:-2], -1)
    rows -= np.tile(np.asarray(mean, dtype=np.float32), width)
    rows /= np.tile(np.asarray(std, dtype=np.float32), width)
    return values


def eval_transform(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize, cut out the centre, make it grey where the network takes grey images, normalize.

    Args:
        image: an RGB image of any size.
        preprocessing: the preprocessing that belongs to the weights.

    Returns:
        float32, ``preprocessing.hwc``.

    Raises:
        InputError: the image is so elongated that the resized one would exceed ``MAX_PIXELS``.
    """
    return normalize(_pixels(_centre(image, preprocessing), preprocessing), preprocessing.mean, preprocessing.std)


def _pixels(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (height, width, channels) of an RGB image. Where all three are equal, they are the grey one."""
    if preprocessing.channels == GREY:
        return np.asarray(image.convert("L"))[..., np.newaxis]
    return np.asarray(image)


def network_input(image: AnyImage, preprocessing: Preprocessing) -> np.ndarray:
    """One image of a person as a network's input: float32, ``preprocessing.hwc``.

    A photo is turned upright unless the network was trained on photos as they lie (``preprocessing.exif`` is false).

    Raises:
        InputError: see as_image and eval_transform.
    """
    return eval_transform(as_image(image, upright=preprocessing.exif is not False), preprocessing)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The random changes of a training image: a crop, a mirror image, colours.

    Args:
        min_scale: smallest area of the random resized crop, as a fraction of the image.
        pad_crop: when above 0, the image is instead prepared as for evaluation, padded with this many black pixels
            (at the preprocessing's resolution) on every side and cropped at random.
        flip: mirror half of the images.
        brightness: the factor is drawn from 1 - b .. 1 + b; 0 leaves it out. So for contrast and saturation.
        scaled_decoding: decode a JPEG that is much larger than what is cut out of it at 1/2, 1/4 or 1/8 of its size.
        cutout: side in pixels of a square, anywhere in the image and perhaps partly outside, that becomes the mean
            color (DeVries, Taylor 2017, arXiv 1708.04552); 0 leaves it out.

    The defaults are the paper's ImageNet augmentation (released code, ``distort_color='normal'``).
    """

    min_scale: float = 0.08
    pad_crop: int = 0
    flip: bool = True
    brightness: float = 32 / 255
    contrast: float = 0.0
    saturation: float = 0.5
    scaled_decoding: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise InputError(f"expected a number above 0 and at most 1, got {self.min_scale}", "min_scale")
        for name in ("pad_crop", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(f"expected a number of pixels, 0 or more, got {getattr(self, name)}", name)
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"expected a finite number, 0 or more, got {getattr(self, name)}", name)

    @property
    def colours(self) -> dict[str, float]:
        """By how much those that are changed may change."""
        found = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation")}
        return {name: share for name, share in found.items() if share}

    def in_words(self) -> str:
        """For a person, in the order in which it is done."""
        crop = f"random crops of {100 * self.min_scale:g} % of the image or more"
        words = [f"shifted by up to {self.pad_crop} px" if self.pad_crop else crop]
        words += ["half of them mirrored"] if self.flip else []
        words += [f"{name} by up to {100 * share:.0f} %" for name, share in self.colours.items()]
        words += [f"a square of {self.cutout} px cut out"] if self.cutout else []
        return ", ".join(words)

    @classmethod
    def imagenet(cls) -> Augment:
        """Photos: random resized crop, flip, brightness and saturation."""
        return cls()

    @classmethod
    def small(cls, resolution: int = 32) -> Augment:
        """Small photos (CIFAR): shifted by up to an eighth of the side (4 pixels at 32), flip, no colours."""
        return cls(pad_crop=max(4, resolution // 8), brightness=0.0, saturation=0.0)

    @classmethod
    def digits(cls, resolution: int = 32) -> Augment:
        """Digits: shifted by up to a sixteenth of the side (half a pixel of the 8x8 original); never mirrored."""
        return cls(pad_crop=max(1, resolution // 16), flip=False, brightness=0.0, saturation=0.0)


def train_transform(
    image: Image | Photo, preprocessing: Preprocessing, rng: np.random.Generator, augment: Augment
) -> np.ndarray:
    """A randomly cropped, mirrored and coloured training image; all randomness comes from ``rng``.

    Args:
        image: an RGB image of any size, or one that is not decoded yet.
        preprocessing: the preprocessing that belongs to the weights.
        rng: consumed; equal generators give equal arrays.
        augment: what may change, and how much.

    Returns:
        float32, ``preprocessing.hwc``.

    Raises:
        InputError: with ``pad_crop``, the image is too elongated (see eval_transform).
    """
    from PIL.Image import Transpose

    photo = image if isinstance(image, Photo) else Photo.of(image)
    cut = (_shifted if augment.pad_crop else _cropped)(photo, preprocessing, rng, augment)
    if _is_mirrored(rng, augment):
        cut = cut.transpose(Transpose.FLIP_LEFT_RIGHT)
    coloured = _pixels(_jitter(cut, rng, augment), preprocessing)
    pixels = normalize(coloured, preprocessing.mean, preprocessing.std)
    return _with_hole(pixels, augment.cutout, rng) if augment.cutout else pixels


def prepare(photo: Photo, preprocessing: Preprocessing, augment: Augment | None) -> np.ndarray:
    """What every epoch begins with where ``augment`` is None, or shifts without changing colours.

    Returns uint8, ``preprocessing.hwc``. Raises InputError as the transforms do.
    """
    if augment is None:
        return _pixels(_centre(photo.decoded(), preprocessing), preprocessing)
    return _pixels(_to_shift(photo, preprocessing, augment), preprocessing)


def transform_prepared(
    images: np.ndarray,
    preprocessing: Preprocessing,
    augment: Augment | None,
    rngs: Callable[[int], np.random.Generator],
) -> np.ndarray:
    """A batch of images from ``prepare``, as eval_transform and train_transform give them, bit for bit.

    Args:
        images: uint8, (n, *preprocessing.hwc).
        preprocessing: the preprocessing.
        augment: as they were prepared for.
        rngs: the generator of each image, by its number in the batch.

    Returns:
        float32 of the same shape.
    """
    if augment is None:
        return normalize(images, preprocessing.mean, preprocessing.std)
    generators = [rngs(number) for number in range(len(images))]
    moved = np.zeros_like(images)
    for target, image, rng in zip(moved, images, generators, strict=True):
        _move(target, image, *_shift(rng, augment), is_mirrored=_is_mirrored(rng, augment))
    pixels = normalize(moved, preprocessing.mean, preprocessing.std)
    for image, rng in zip(pixels, generators, strict=True) if augment.cutout else ():
        _with_hole(image, augment.cutout, rng)
    return pixels


def _move(target: np.ndarray, image: np.ndarray, left: int, top: int, *, is_mirrored: bool) -> None:
    """Write into ``target``, which is black, the part of ``image`` that a frame sees which begins at (left, top)."""
    height, width = image.shape[:2]
    rows, columns = slice(max(top, 0), max(height + min(top, 0), 0)), slice(max(left, 0), max(width + min(left, 0), 0))
    seen = image[rows, columns]
    y, x = max(-top, 0), max(-left, 0)
    if is_mirrored:
        seen, x = seen[:, ::-1], width - x - seen.shape[1]
    target[y : y + seen.shape[0], x : x + seen.shape[1]] = seen


def _with_hole(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Zeros in a square whose middle is anywhere in the image: after normalization the mean color."""
    first = rng.integers(0, pixels.shape[:2]) - side // 2
    top, left = np.maximum(first, 0)
    bottom, right = first + side
    pixels[top:bottom, left:right] = 0.0
    return pixels


def _shifted(photo: Photo, preprocessing: Preprocessing, rng: np.random.Generator, augment: Augment) -> Image:
    """The evaluation crop, moved by up to ``pad_crop`` pixels."""
    width, height = _size(preprocessing.resolution)
    left, top = _shift(rng, augment)
    # Pillow fills the part of a crop that lies outside the image with black.
    return _to_shift(photo, preprocessing, augment).crop((left, top, left + width, top + height))


def _to_shift(photo: Photo, preprocessing: Preprocessing, augment: Augment) -> Image:
    """The evaluation crop, perhaps of an image that was scaled down while it was decoded."""
    return _centre(photo.decoded(_shrink(photo.size, _size(preprocessing.resize), augment)), preprocessing)


def _shift(rng: np.random.Generator, augment: Augment) -> list[int]:
    """[left, top] in pixels."""
    return rng.integers(-augment.pad_crop, augment.pad_crop + 1, size=2).tolist()


def _is_mirrored(rng: np.random.Generator, augment: Augment) -> bool:
    return augment.flip and rng.random() < 0.5


def _cropped(photo: Photo, preprocessing: Preprocessing, rng: np.random.Generator, augment: Augment) -> Image:
    """A random part of the image, resized to the resolution."""
    size = _size(preprocessing.resolution)
    left, top, width, height = random_crop_box(*photo.size, rng, augment.min_scale, size[0] / size[1])
    image = photo.decoded(_shrink((width, height), size, augment))
    if image.size == photo.size:
        return image.crop((left, top, left + width, top + height)).resize(size, _filter(preprocessing))
    x, y = image.width / photo.size[0], image.height / photo.size[1]
    right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
    return image.resize(size, _filter(preprocessing), (left * x, top * y, right, bottom))


def _size(sides: Sides) -> tuple[int, int]:
    """(width, height), as Pillow has it."""
    height, width = height_width(sides)
    return width, height


def _shrink(size: tuple[int, int], needed: tuple[int, int], augment: Augment) -> int:
    """By what an image may be scaled down while it is decoded, so that ``size`` of it has ``needed`` pixels still."""
    if not augment.scaled_decoding or min(needed) < max(SHRINKS):
        return 1
    fits = (shrink for shrink in SHRINKS if all(has >= shrink * need for has, need in zip(size, needed, strict=True)))
    return next(fits, 1)


def random_crop_box(
    width: int, height: int, rng: np.random.Generator, min_scale: float, aspect: float = 1.0
) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels of a crop with a random area and aspect ratio (Inception's).

    The area is uniform in ``min_scale``..1 of the image, the ratio (width by height) log-uniform in 3/4..4/3 of
    ``aspect``. After ten draws that do not fit, the largest centred crop within those ratios. Source: torchvision
    RandomResizedCrop.get_params.
    """
    low, high = (limit * aspect for limit in CROP_RATIO)
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width + 1))
            top = int(rng.integers(0, height - crop_height + 1))
            return left, top, crop_width, crop_height
    crop_width, crop_height = width, height
    if width / height < low:
        crop_height = round(width / low)
    elif width / height > high:
        crop_width = round(height * high)
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def _filter(preprocessing: Preprocessing) -> int:
    from PIL import Image

    return {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[preprocessing.interpolation]


def _centre(image: Image, preprocessing: Preprocessing) -> Image:
    """The evaluation crop as an RGB image of ``preprocessing.resolution``."""
    frame, size = _size(preprocessing.resize), _size(preprocessing.resolution)
    # Truncated, not rounded: a long side one pixel off moves the crop.
    if image.width * frame[1] <= image.height * frame[0]:
        covering = (frame[0], int(frame[0] * image.height / image.width))
    else:
        covering = (int(frame[1] * image.width / image.height), frame[1])
    if math.prod(covering) > MAX_PIXELS:
        resized = f"the short side to {frame[0]}" if frame[0] == frame[1] else f"to {in_flag(preprocessing.resize)}"
        raise InputError(
            f"expected at most {MAX_PIXELS} pixels after resizing {resized}, got {min(covering)} x {max(covering)} "
            f"(from {image.width} x {image.height})"
        )
    if covering != image.size:
        image = image.resize(covering, _filter(preprocessing))
    if covering == size:
        return image
    left, top = (round((length - kept) / 2.0) for length, kept in zip(covering, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def _jitter(image: Image, rng: np.random.Generator, augment: Augment) -> Image:
    """Brightness, contrast and saturation by random factors, in random order."""
    from PIL import ImageEnhance

    kinds = (
        (ImageEnhance.Brightness, augment.brightness),
        (ImageEnhance.Contrast, augment.contrast),
        (ImageEnhance.Color, augment.saturation),
    )
    active = [(enhance, strength) for enhance, strength in kinds if strength > 0]
    if not active:
        return image
    for position in rng.permutation(len(active)):
        enhance, strength = active[position]
        image = enhance(image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image
