"""Sets of labelled images: folders and zip archives of classes (layout.py), and the built-in digits.

A data set is a value: an ordered tuple of names, a label for each, and a source that decodes a name.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import counted, listed, nearest
from proxyless_arch.base.text import readable
from proxyless_arch.data.cifar import find_batches
from proxyless_arch.data.images import Augment, Photo, open_photo, prepare
from proxyless_arch.data.layout import Layout, Part, find_layout, images_under, look
from proxyless_arch.data.prepared import Prepared, in_words
from proxyless_arch.data.shards import open_shards
from proxyless_arch.data.sources import (
    EDITION,
    LAYOUT,
    ArraySource,
    LeftOut,
    Lister,
    Source,
    bytes_of,
    open_source,
    other_files,
    why_none,
)
from proxyless_arch.data.streams import Stream, numpy_rng

if TYPE_CHECKING:
    from PIL.Image import Image

DATASETS = ("digits", "cifar10", "imagenet", "imagefolder")
ALL = "all"
"""The split of images that are in no set of their own."""
CACHE_BYTES = 512 * 2**20
"""A data set whose decoded images should fit in this many bytes keeps them in memory, per process."""


class ImageItem(NamedTuple):
    """One labelled image: where it is (a path or ``archive.zip:member``), and its class index."""

    place: str
    label: int


@dataclass
class _DecodedCache:
    """Decoded pixels by index and orientation; forgotten when pickled, so every process fills its own.

    ``keeps``: whether anything is kept at all.
    """

    keeps: bool = True
    pixels: dict[tuple[int, bool], np.ndarray] = field(default_factory=dict)
    scales: dict[tuple[int, bool], bool] = field(default_factory=dict)
    """Whether the file can be scaled down while it is decoded."""
    used_bytes: int = 0
    fits: bool | None = None

    def offer(self, key: tuple[int, bool], image: Image, scales: bool, n_images: int) -> None:
        if not self.keeps:
            return
        size = image.width * image.height * 3
        # judged by all that were kept so far: the first ones may be smaller than the rest
        if self.fits is not False and (self.used_bytes + size) * n_images > CACHE_BYTES * (len(self.pixels) + 1):
            self.fits, self.used_bytes = False, 0
            self.pixels.clear()
            self.scales.clear()
        elif self.fits is None:
            self.fits = True
        if self.fits and key not in self.pixels and self.used_bytes + size <= CACHE_BYTES:
            self.pixels[key], self.scales[key] = np.array(image), scales
            self.used_bytes += size

    def __getstate__(self) -> dict[str, Any]:
        return {"keeps": self.keeps, "pixels": {}, "scales": {}, "used_bytes": 0, "fits": None}


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Ordered labelled images. Picklable: nothing that is open or cached goes to another process.

    Args:
        source: decodes a name.
        names: one per image, in order.
        labels: int64, (images,): indices into class_names.
        class_names: in label order (sorted folder names).
        left_out: what lies beside them and is not used.
        split: which of the sets there they are: train, val or test; all, where they are the only one; else not known.
    """

    source: Source
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    left_out: LeftOut = LeftOut()
    split: str = ""
    _cache: _DecodedCache = field(default_factory=_DecodedCache, repr=False)
    _whole: Prepared | None = field(default=None, repr=False)
    """What is kept of the images that these are of."""
    _numbers: np.ndarray | None = field(default=None, repr=False)
    """Which of them these are; None for all."""

    def __post_init__(self) -> None:
        if self._whole is None or self._whole.source is not self.source:
            object.__setattr__(self, "_whole", Prepared(self.source, self.names))
            object.__setattr__(self, "_numbers", None)

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """Where an image is: a path, or ``archive.zip:member``."""
        return self.source.place(self.names[index])

    def item(self, index: int) -> ImageItem:
        """Place and label of an image, without reading it."""
        return ImageItem(self.place(index), int(self.labels[index]))

    def read(self, index: int, *, upright: bool = False) -> Image:
        """The decoded RGB image. Small data sets keep their decoded images (see CACHE_BYTES).

        Args:
            index: of the image.
            upright: turn it as its EXIF orientation says.

        Raises:
            InputError: naming the place, when it cannot be read or decoded.
        """
        return self.photo(index, upright=upright).decoded()

    def photo(self, index: int, *, upright: bool = False) -> Photo:
        """The image as ``read`` gives it, but not decoded yet. What it is scaled down to does not depend on the cache.

        Raises:
            InputError: naming the place, when it cannot be read; what is not found before is raised when it is decoded.
        """
        from PIL import Image

        key = (index, upright)
        cached = self._cache.pixels.get(key)
        if cached is None:
            return self._keeping(self._opened(index, upright), key)
        whole = Image.fromarray(cached)

        def decoded(shrink: int) -> Image.Image:
            return whole if shrink == 1 else self._opened(index, upright).decoded(shrink)

        return Photo(whole.size, self._cache.scales.get(key, False), decoded)

    def prepared(self, preprocessing: Preprocessing, augment: Augment | None) -> Callable[[int], np.ndarray] | None:
        """What gives an image as every epoch begins with it (images.prepare), kept from the first time on.

        None where the images do not begin alike, or are not kept (see prepared.py). It raises InputError as ``read``.
        """
        assert self._whole is not None
        store, names = self._whole.store(preprocessing, augment), self._whole.names
        if store is None:
            return None

        def pixels(index: int) -> np.ndarray:
            number = index if self._numbers is None else int(self._numbers[index])
            is_same = names[number] == self.names[index]
            found = store.get(number) if is_same else None
            if found is None:
                found = prepare(self._opened(index, bool(preprocessing.exif)), preprocessing, augment)
                if is_same:
                    store.put(number, found)
            return found

        return pixels

    def _opened(self, index: int, upright: bool) -> Photo:
        found = self.source.read(self.names[index])
        return open_photo(found, self.place(index), upright=upright) if isinstance(found, bytes) else Photo.of(found)

    def _keeping(self, photo: Photo, key: tuple[int, bool]) -> Photo:
        """The same image, offered to the cache when it is decoded whole."""

        def decoded(shrink: int) -> Image:
            image = photo.decoded(shrink)
            if shrink == 1:
                self._cache.offer(key, image, photo.scales, len(self))
            return image

        return Photo(photo.size, photo.scales, decoded)

    def bytes_kept(self, preprocessing: Preprocessing, augment: Augment | None) -> int:
        """Of the images on the disk, where they are kept as ``prepared`` gives them; 0 where they are not."""
        assert self._whole is not None
        is_kept = self._whole.is_kept(preprocessing, augment) and not self._whole.is_in_memory
        return len(self) * math.prod(preprocessing.hwc) if is_kept else 0

    def bytes_to_cache(self, preprocessing: Preprocessing, augment: Augment | None) -> int:
        """Of the decoded images that a process which reads them all comes to keep, by the size of the first one."""
        if self.bytes_kept(preprocessing, augment):
            return 0
        try:
            first = self.read(0)
        except (InputError, IndexError):
            return 0
        size = first.width * first.height * 3 * len(self)
        return size if size <= CACHE_BYTES else 0

    def read_once(self) -> ImageDataset:
        """The same images for a single pass over them: none is kept once it is decoded."""
        return replace(self, _cache=_DecodedCache(keeps=False), _whole=Prepared(self.source, (), keeps=False))

    def subset(self, indices: np.ndarray | Sequence[int]) -> ImageDataset:
        """The images at these indices, in this order, with the same classes."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = tuple(self.names[index] for index in chosen.tolist())
        numbers = chosen if self._numbers is None else self._numbers[chosen]
        return ImageDataset(
            self.source,
            names,
            self.labels[chosen],
            self.class_names,
            self.left_out,
            _whole=self._whole,
            _numbers=numbers,
        )


def open_folder(path: str | os.PathLike[str], split: str | None = None, edition: int = EDITION) -> ImageDataset:
    """Labelled images from a folder or a .zip with one folder per class, from shards or from CIFAR's pickled batches.

    layout.py says which folders are classes and which are splits. Images may lie deeper inside a class folder. Hidden
    files and those of systems are ignored, files that are no images are counted. Classes and images are in sorted
    order. Nothing is decoded; a file whose ending says nothing is looked at.

    Args:
        path: the folder or archive.
        split: 'train', 'val' or 'test'; 'eval' for test, else val, else class folders at the top; None for the only
            set there is.
        edition: see sources.EDITION.

    Raises:
        InputError: nothing there, another layout, an empty class folder, splits whose classes differ, classes that
            look alike, an archive whose names lead outside of it, or a split that is not there.
    """
    found = _find(path, edition)
    part = found.layout.choose(split, str(path))
    return replace(found.read(part), split=part or ALL)


def parts_at(path: str | os.PathLike[str]) -> dict[str, ImageDataset]:
    """All labelled images of a folder or .zip: ``train``, ``val``, ``test``, or '' for class folders that are no split.

    Raises InputError as open_folder does, and for test images without classes.
    """
    found = _find(path, EDITION)
    if found.layout.unlabeled_test is not None:
        raise found.layout.unlabeled_test
    return {name: found.read(name) for name in found.layout.parts}


def any_images(path: str | os.PathLike[str]) -> ImageDataset:
    """All images below a folder, in a .zip or in shards, whatever the layout; without classes (every label is 0).

    Raises:
        InputError: nothing there, or no image in it.
    """
    if (shards := open_shards(os.fspath(path))) is not None:
        found = shards.everything()
        return ImageDataset(found.source, found.names, np.zeros(len(found.names), dtype=np.int64), ())
    source, lister = open_source(path)
    names, others = images_under(lister, "")
    if not names:
        raise InputError(f"no images in it {why_none(others)}", source=str(path))
    return ImageDataset(source, tuple(names), np.zeros(len(names), dtype=np.int64), (), other_files(others))


def has_own_test(path: str | os.PathLike[str], edition: int = EDITION) -> bool:
    """Whether a folder or zip brings a val or test set of its own; else load_for_search splits one off.

    Raises InputError when it cannot be read.
    """
    return bool({"val", "test"} & set(_find(path, edition).layout.parts))


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

    @property
    def left_out(self) -> LeftOut:
        """What lies beside the images and is not used."""
        same = self.train.left_out is self.test.left_out
        return self.train.left_out if same else self.train.left_out + self.test.left_out

    def kept_in_words(self, preprocessing: Preprocessing, augment: Augment | None) -> list[tuple[str, str]]:
        """For a header, as (label, text): where images are kept that every epoch begins with, if any are."""
        scored = sum(images.bytes_kept(preprocessing, None) for images in (self.valid, self.test))
        return in_words(self.train.bytes_kept(preprocessing, augment) + scored)

    @property
    def _sets(self) -> dict[str, ImageDataset]:
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def fingerprint(self, told: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """What a run must find again to be resumed: the names and labels of its images. Plain values.

        ``told``: of a run, which this gives again where its images are these within other folders: a zip of the folder
        ``photos`` may hold ``photos/cat/1.jpg``, where the folder has ``cat/1.jpg``.
        """
        counts = {f"{name}_images": len(images) for name, images in self._sets.items()}
        rest = {**counts, "class_names": _digest(self.class_names)}
        within = ({**rest, **self._names_digests(move)} for move in self._moves())
        same = (each for each in within if all(told.get(key) == value for key, value in each.items()))
        return next(same, rest | self._names_digests(str))

    def _names_digests(self, move: Callable[[str], str]) -> dict[str, str]:
        return {
            f"{name}_names": _digest(tuple(map(move, images.names)), images.labels.tolist())
            for name, images in self._sets.items()
        }

    def _moves(self) -> Iterator[Callable[[str], str]]:
        """What the names may have been: as they are, without folders that hold them all, in the folder at the path."""
        yield str
        folders = {str(PurePosixPath(name).parent) for images in self._sets.values() for name in images.names}
        shared = PurePosixPath(os.path.commonpath(folders) if folders else "")
        for held in (shared, *shared.parents):
            yield functools.partial(_without, f"{held}/")
        where = Path(self.train.source.place("").removesuffix(":")).absolute()
        for outer in (where.name, where.stem):
            yield functools.partial(_within, outer)


def _within(folder: str, name: str) -> str:
    return f"{folder}/{name}"


def _without(folder: str, name: str) -> str:
    return name.removeprefix(folder)


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def load_for_search(
    dataset: str,
    data_path: str | os.PathLike[str] | None,
    valid_size: int | float,
    seed: int,
    edition: int = EDITION,
) -> SearchData:
    """The three sets of a search.

    ``train`` (weights) and ``valid`` (alpha) are disjoint parts of the training images. ``test`` is the data's own
    test or val set; where there is none it is split off first, as large as ``valid``.

    Args:
        dataset: 'digits' (built in), 'cifar10', 'imagenet' or 'imagefolder' (class folders, see open_folder).
        data_path: folder or .zip; None for digits.
        valid_size: images of ``valid``: a count, or a fraction of the training images.
        seed: of the splits.
        edition: see sources.EDITION.

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
        train, test = _train_and_test(data_path, valid_size, seed, edition)
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
    path: str | os.PathLike[str], test_size: int | float, seed: int, edition: int
) -> tuple[ImageDataset, ImageDataset]:
    found = _find(path, edition)
    parts = found.layout.parts
    chosen = "" if "" in parts else found.layout.choose("train", str(path))
    train = found.read(chosen)
    check_classes(train, path)
    if found.layout.unlabeled_test is not None:
        raise found.layout.unlabeled_test
    if len(parts) == 1:
        return _hold_out(train, test_size, seed)
    scored = found.layout.choose("eval", str(path))
    unused = tuple(
        f"{part.place}/ ({counted(len(found.read(name)), 'image')})"
        for name, part in parts.items()
        if edition > 1 and name not in (chosen, scored)
    )
    train = replace(train, left_out=train.left_out + LeftOut(folders=unused))
    return train, found.read(scored)


def _hold_out(images: ImageDataset, size: int | float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    try:
        kept, held_out = stratified_split(images.labels, size, seed)
    except InputError as error:
        raise InputError(error.problem, "valid_size") from None
    return images.subset(kept), images.subset(held_out)


# ------------------------------------------------------------------------------------------------- what is at a path


class _Found(NamedTuple):
    """The parts of a data set, and what reads one of them."""

    layout: Layout
    read: Callable[[str], ImageDataset]


def _find(path: str | os.PathLike[str], edition: int) -> _Found:
    """Raises InputError for what is no data set."""
    batches = find_batches(path) if edition > 1 else None
    if batches is not None:
        parts = {split: Part(f"{batches.folder}/{split}", {}) for split in batches.files}
        return _Found(Layout(parts), lambda split: ImageDataset(*batches.read(split)))
    if (shards := open_shards(os.fspath(path))) is not None:
        there = {split: Part(split, {}) for split in shards.parts}
        return _Found(Layout(there), lambda split: ImageDataset(*shards.read(split)))
    source, lister = open_source(path, edition)
    layout = find_layout(lister, lambda name: bytes_of(source, name), str(path), edition)
    return _Found(layout, lambda split: _read_part(source, lister, layout, split, str(path), edition))


def _read_part(source: Source, lister: Lister, layout: Layout, split: str, path: str, edition: int) -> ImageDataset:
    part = layout.parts[split]
    classes = _classes(part, lister, path, edition)
    for other, there in layout.parts.items():
        _check_same_classes(split, classes, other, _classes(there, lister, path, edition), path)
    names: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, where in enumerate(part.classes[own] for _, own in classes):
        found, beside = images_under(lister, where) if isinstance(where, str) else (list(where), [])
        if not found:
            raise InputError(f"no images in this class folder {why_none(beside)}", str(where), path)
        names += found
        others += beside
        labels += [label] * len(found)
    left_out = other_files(others, layout.loose, layout.unused) if edition > 1 else LeftOut()
    class_names = tuple(name for name, _ in classes)
    return ImageDataset(source, tuple(names), np.array(labels, dtype=np.int64), class_names, left_out)


def _classes(part: Part, lister: Lister, path: str, edition: int) -> list[tuple[str, str]]:
    """(name, the folder's own name) of each class, sorted by how they look; as they are in edition 1."""
    if not part.classes:
        n_images = len(lister(part.place).images)
        found = f"{counted(n_images, 'image')} and no folder" if n_images else "no folder and no image"
        raise InputError(f"{LAYOUT}, found {found}", part.place, path)
    if edition == 1:
        return [(name, name) for name in sorted(part.classes)]
    by_look: dict[str, str] = {}
    for own in sorted(part.classes):
        if (twin := by_look.setdefault(look(own), own)) != own:
            raise InputError(
                f"two classes look alike: {twin!a} and {own!a}; put their images into one folder, or rename one",
                part.place,
                path,
            )
    return [(readable(by_look[key]), by_look[key]) for key in sorted(by_look)]


def _check_same_classes(
    split: str, classes: list[tuple[str, str]], other: str, others: list[tuple[str, str]], path: str
) -> None:
    looks, other_looks = ([look(own) for _, own in each] for each in (classes, others))
    if looks == other_looks:
        return
    parts = []
    for name, only in ((split, set(looks) - set(other_looks)), (other, set(other_looks) - set(looks))):
        if only:
            shown = ", ".join(sorted(only)[:5]) + (", ..." if len(only) > 5 else "")
            parts.append(f"{len(only)} only in {name} ({shown})")
    raise InputError(f"expected the same class folders in {split} and {other}: {'; '.join(parts)}", source=path)
