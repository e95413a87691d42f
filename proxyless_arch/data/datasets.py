"""Sets of labelled images: folders and zip archives with one folder per class, and the built-in digits.

A data set is a value: an ordered tuple of names, a label for each, and a source that decodes a name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.data.layout import check_same_classes, choose_split, class_names, find_splits, images_under, join
from proxyless_arch.data.sources import EXTENSIONS, ArraySource, Lister, Source, open_source
from proxyless_arch.data.streams import Stream, numpy_rng

if TYPE_CHECKING:
    from PIL.Image import Image

DATASETS = ("digits", "cifar10", "imagenet", "imagefolder")
CACHE_BYTES = 512 * 2**20
"""A data set whose decoded images should fit in this many bytes keeps them in memory, per process."""


class ImageItem(NamedTuple):
    """One labelled image: where it is (a path or ``archive.zip:member``), and its class index."""

    place: str
    label: int


@dataclass
class _DecodedCache:
    """Decoded pixels by index; forgotten when pickled, so every process fills its own."""

    pixels: dict[int, np.ndarray] = field(default_factory=dict)
    used_bytes: int = 0
    fits: bool | None = None

    def offer(self, index: int, image: Image, n_images: int) -> None:
        size = image.width * image.height * 3
        if self.fits is None:
            self.fits = size * n_images <= CACHE_BYTES
        if self.fits and index not in self.pixels and self.used_bytes + size <= CACHE_BYTES:
            self.pixels[index] = np.array(image)
            self.used_bytes += size

    def __getstate__(self) -> dict[str, Any]:
        return {"pixels": {}, "used_bytes": 0, "fits": None}


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Ordered labelled images. Picklable: nothing that is open or cached goes to another process.

    Args:
        source: decodes a name.
        names: one per image, in order.
        labels: int64, (images,): indices into class_names.
        class_names: in label order (sorted folder names).
    """

    source: Source
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    _cache: _DecodedCache = field(default_factory=_DecodedCache, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """Where an image is: a path, or ``archive.zip:member``."""
        return self.source.place(self.names[index])

    def item(self, index: int) -> ImageItem:
        """Place and label of an image, without reading it."""
        return ImageItem(self.place(index), int(self.labels[index]))

    def read(self, index: int) -> Image:
        """The decoded RGB image. Small data sets keep their decoded images (see CACHE_BYTES).

        Raises:
            InputError: naming the place, when it cannot be read or decoded.
        """
        from PIL import Image

        cached = self._cache.pixels.get(index)
        if cached is not None:
            return Image.fromarray(cached)
        image = self.source.image(self.names[index])
        self._cache.offer(index, image, len(self))
        return image

    def bytes_to_cache(self) -> int:
        """Of the decoded images that a process which reads them all comes to keep, by the size of the first one."""
        try:
            first = self.read(0)
        except (InputError, IndexError):
            return 0
        size = first.width * first.height * 3 * len(self)
        return size if size <= CACHE_BYTES else 0

    def subset(self, indices: np.ndarray | Sequence[int]) -> ImageDataset:
        """The images at these indices, in this order, with the same classes."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = tuple(self.names[index] for index in chosen.tolist())
        return ImageDataset(self.source, names, self.labels[chosen], self.class_names)


def open_folder(path: str | os.PathLike[str], split: str | None = None) -> ImageDataset:
    """Labelled images from a folder or a .zip with one folder per class.

    The class folders lie at the top, or under ``train/``, ``val/`` (also ``valid/``, ``validation/``) and ``test/``;
    one folder may wrap it all. Images may lie deeper inside a class folder. Hidden files, ``__MACOSX`` and files
    without an image extension are ignored. Classes and images are in sorted order. Nothing is decoded.

    Args:
        path: the folder or archive.
        split: 'train', 'val' or 'test'; 'eval' for test, else val, else class folders at the top; None for the only
            set there is.

    Raises:
        InputError: nothing there, another layout, an empty class folder, splits whose classes differ, an archive
            whose names lead outside of it, or a split that is not there.
    """
    source, lister = open_source(path)
    splits = find_splits(lister)
    return _read_split(source, lister, splits, choose_split(splits, split, str(path)), str(path))


def any_images(path: str | os.PathLike[str]) -> ImageDataset:
    """All images below a folder or in a .zip, whatever its layout; without classes (every label is 0).

    Raises:
        InputError: nothing there, or no image in it.
    """
    source, lister = open_source(path)
    names = images_under(lister, "")
    if not names:
        raise InputError(f"no images in it (expected {listed(EXTENSIONS)})", source=str(path))
    return ImageDataset(source, tuple(names), np.zeros(len(names), dtype=np.int64), ())


def has_own_test(path: str | os.PathLike[str]) -> bool:
    """Whether a folder or zip brings a val or test set of its own; else load_for_search splits one off.

    Raises InputError when it cannot be read.
    """
    _, lister = open_source(path)
    return bool({"val", "test"} & set(find_splits(lister)))


def digits() -> tuple[ImageDataset, ImageDataset]:
    """scikit-learn's handwritten digits as (1437 training images, 360 test images): 8x8 pixels, ten classes.

    Values 0..16 become the nearest of 0..255 (8, exactly between two, becomes 128). The split is fixed, stratified.
    Source: UCI Optical Recognition of Handwritten Digits, test part; in the scikit-learn wheel, no download.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits come with scikit-learn: pip install scikit-learn", "dataset") from None
    bunch = load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    names = tuple(f"{index:04d}" for index in range(len(pixels)))
    class_names = tuple(str(name) for name in bunch.target_names)
    everything = ImageDataset(
        ArraySource("scikit-learn digits", pixels), names, bunch.target.astype(np.int64), class_names
    )
    train, test = stratified_split(everything.labels, 360, seed=0)
    return everything.subset(train), everything.subset(test)


def stratified_split(labels: np.ndarray, size: int | float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out some images of every class, in proportion; the same ones at every run.

    Args:
        labels: int, (images,).
        size: how many to hold out: an integer count, or a float fraction between 0 and 1.
        seed: 0 or more.

    Returns:
        (kept, held_out): sorted int64 index arrays. Exactly the requested number is held out (largest remainders,
        ties to the lower class) and every class keeps at least one.

    Raises:
        InputError: the size is not one of these, a fraction that holds out no image, or too large to leave an image of
            every class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    total = len(labels)
    is_fraction = isinstance(size, float) and 0 < size < 1
    if not is_fraction and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"expected a number of images (1 or more) or a fraction between 0 and 1, got {size}", "size")
    n_held_out = round(size * total) if is_fraction else int(size)
    if n_held_out < 1:
        raise InputError(
            f"{size} of {total} images rounds to none held out: expected a number of images (1 or more), a larger "
            "fraction or more images",
            "size",
        )
    if n_held_out > total - len(classes):
        raise InputError(
            f"cannot hold out {n_held_out} of {total} images and leave one of each of {len(classes)} classes", "size"
        )
    per_class = [n_held_out * count // total for count in counts.tolist()]
    by_remainder = sorted(range(len(classes)), key=lambda k: (-(n_held_out * int(counts[k]) % total), k))
    missing = n_held_out - sum(per_class)
    while missing:
        for k in by_remainder:
            if missing and per_class[k] < counts[k] - 1:
                per_class[k] += 1
                missing -= 1
    held_out = np.zeros(total, dtype=bool)
    for label, count in zip(classes.tolist(), per_class, strict=True):
        members = np.flatnonzero(labels == label)
        rng = numpy_rng(seed, Stream.SPLIT, label)
        held_out[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


@dataclass(frozen=True, kw_only=True)
class SearchData:
    """What a search or a training run needs: disjoint images for weights, for alpha, and for the final score."""

    train: ImageDataset
    valid: ImageDataset
    test: ImageDataset

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    def fingerprint(self) -> dict[str, Any]:
        """What a run must find again to be resumed: the names and labels of its images. Plain values."""

        def digest(*values: object) -> str:
            return hashlib.sha256(repr(values).encode()).hexdigest()[:16]

        sets = {"train": self.train, "valid": self.valid, "test": self.test}
        counts = {f"{name}_images": len(images) for name, images in sets.items()}
        names = {f"{name}_names": digest(images.names, images.labels.tolist()) for name, images in sets.items()}
        return {**counts, **names, "class_names": digest(self.class_names)}


def load_for_search(
    dataset: str, data_path: str | os.PathLike[str] | None, valid_size: int | float, seed: int
) -> SearchData:
    """The three sets of a search.

    ``train`` (weights) and ``valid`` (alpha) are disjoint parts of the training images. ``test`` is the data's own
    test or val set; where there is none it is split off first, as large as ``valid``.

    Args:
        dataset: 'digits' (built in), 'cifar10', 'imagenet' or 'imagefolder' (class folders, see open_folder).
        data_path: folder or .zip; None for digits.
        valid_size: images of ``valid``: a count, or a fraction of the training images.
        seed: of the splits.

    Raises:
        InputError: an unknown data set, a path missing or not wanted, one class alone, images or sizes that do not fit.
    """
    if dataset not in DATASETS:
        raise InputError(
            f"expected {listed(map(repr, DATASETS))}, got {dataset!r}{nearest(dataset, DATASETS)}", "dataset"
        )
    if dataset == "digits":
        if data_path is not None:
            raise InputError(f"digits are built in: expected no path, got {str(data_path)!r}", "data_path")
        train, test = digits()
    else:
        if data_path is None:
            raise InputError(f"{dataset} needs a folder or a .zip with one folder per class", "data_path")
        train, test = _train_and_test(data_path, valid_size, seed)
    if dataset == "cifar10" and len(train.class_names) != 10:
        raise InputError(f"CIFAR-10 has 10 classes, found {len(train.class_names)}", "data_path", str(data_path))
    weights, alpha = _hold_out(train, valid_size, seed)
    return SearchData(train=weights, valid=alpha, test=test)


def check_classes(images: ImageDataset, path: str | os.PathLike[str]) -> None:
    """Raises InputError naming ``path`` for images of one class, of which nothing can be learnt."""
    if len(images.class_names) < 2:
        found = ", ".join(map(repr, images.class_names))
        raise InputError(f"expected 2 class folders or more to train on, found 1: {found}", "data_path", str(path))


def _train_and_test(
    path: str | os.PathLike[str], test_size: int | float, seed: int
) -> tuple[ImageDataset, ImageDataset]:
    source, lister = open_source(path)
    splits = find_splits(lister)
    split = "" if "" in splits else choose_split(splits, "train", str(path))
    train = _read_split(source, lister, splits, split, str(path))
    check_classes(train, path)
    if len(splits) == 1:
        return _hold_out(train, test_size, seed)
    return train, _read_split(source, lister, splits, choose_split(splits, "eval", str(path)), str(path))


def _hold_out(images: ImageDataset, size: int | float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    try:
        kept, held_out = stratified_split(images.labels, size, seed)
    except InputError as error:
        raise InputError(error.problem, "valid_size") from None
    return images.subset(kept), images.subset(held_out)


def _read_split(source: Source, lister: Lister, splits: dict[str, str], split: str, path: str) -> ImageDataset:
    classes = class_names(lister, splits[split], path)
    for other, folder in splits.items():
        check_same_classes(split, classes, other, class_names(lister, folder, path), path)
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        folder = join(splits[split], class_name)
        found = images_under(lister, folder)
        if not found:
            raise InputError(f"no images in this class folder (expected {listed(EXTENSIONS)})", folder, path)
        names += found
        labels += [label] * len(found)
    return ImageDataset(source, tuple(names), np.array(labels, dtype=np.int64), classes)
