"""Images decoded, resized and cut once, and kept: what evaluation, and shifts of small images, would do every epoch.

What is kept is the uint8 input of a network before augmentation and normalization, so it is the same pixels. Images in
files are kept in one file of the cache for each data set and preprocessing, by all processes and later runs: a row of
pixels each, with their CRC-32, at the place of the image. A row that was never written, or cut by a crash, is decoded
anew. The name of the file is a hash of the images' names, sizes and times, of the preprocessing and of the decoders.
Rows are read with pread: a mapped file would end the process where the disk fills up or the file is cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import cache_folder
from proxyless_arch.base.memory import format_bytes
from proxyless_arch.base.sides import height_width
from proxyless_arch.data.images import Augment, decoder_versions

EDITION = 1
"""Of what is in a file; another one makes other files."""
LIMIT_VARIABLE = "PROXYLESSNAS_DECODED_GB"
LIMIT_GB = 4.0
"""At most of a data set; the cache holds twice as much before the files that were used longest ago go."""
MEMORY_BYTES = 64 * 2**20
"""At most of images that are arrays already: these are kept by each process."""
ENDING = ".rows"
_MARK_BYTES = 8
_IS_THERE = 1 << 32


@runtime_checkable
class HasState(Protocol):
    """A source that knows when its images change."""

    def state(self, names: Sequence[str]) -> str | None:
        """A digest that is another when an image is; None where that cannot be told."""


class Store(Protocol):
    """Pixels by the number of an image: uint8, all of one shape."""

    def get(self, number: int) -> np.ndarray | None:
        """The pixels, read-only; None where they are not kept yet."""

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Keep them. Where that fails, nothing is kept from then on."""


@dataclass
class FileStore:
    """Rows in a file, by any number of processes at a time: what two of them write is the same."""

    path: Path
    shape: tuple[int, ...]
    is_broken: bool = False
    _file: int | None = None

    def open(self) -> bool:
        """Whether the file can be had; it is made where it is missing."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            os.utime(self.path)  # used today
        except OSError:
            self.is_broken = True
            return False
        weakref.finalize(self, os.close, self._file)
        return True

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape) + _MARK_BYTES

    def get(self, number: int) -> np.ndarray | None:
        if self._file is None and (self.is_broken or not self.open()):
            return None
        assert self._file is not None
        try:
            row = os.pread(self._file, self._row_bytes, number * self._row_bytes)
        except OSError:
            self.is_broken = True
            return None
        pixels, mark = memoryview(row)[:-_MARK_BYTES], int.from_bytes(row[-_MARK_BYTES:], "little")
        if len(row) < self._row_bytes or not mark or mark != _IS_THERE | zlib.crc32(pixels):
            return None
        return np.frombuffer(pixels, dtype=np.uint8).reshape(self.shape)

    def put(self, number: int, pixels: np.ndarray) -> None:
        if self._file is None or self.is_broken:
            return
        content = pixels.tobytes()
        row = content + (_IS_THERE | zlib.crc32(content)).to_bytes(_MARK_BYTES, "little")
        try:
            written = os.pwrite(self._file, row, number * self._row_bytes)
        except OSError:
            written = 0
        self.is_broken = written < len(row)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "shape": self.shape, "is_broken": self.is_broken, "_file": None}


@dataclass
class MemoryStore:
    """Rows of this process alone; forgotten when pickled."""

    rows: dict[int, np.ndarray] = field(default_factory=dict)
    is_broken: bool = False

    def get(self, number: int) -> np.ndarray | None:
        return self.rows.get(number)

    def put(self, number: int, pixels: np.ndarray) -> None:
        self.rows[number] = pixels

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": {}, "is_broken": self.is_broken}


@dataclass
class Prepared:
    """The stores of a data set, of which others may be parts: an image has its number in the whole.

    ``keeps``: whether there are any.
    """

    source: Any
    names: tuple[str, ...] = field(repr=False)
    keeps: bool = True
    stores: dict[tuple, FileStore | MemoryStore | None] = field(default_factory=dict, repr=False)
    _state: str | None = None

    def store(self, preprocessing: Preprocessing, augment: Augment | None) -> FileStore | MemoryStore | None:
        """Where images are kept that are prepared like this; None where they are not."""
        if not self.is_kept(preprocessing, augment):
            return None
        is_scaled = augment is not None and augment.scaled_decoding
        key = (*_sizes(preprocessing), preprocessing.interpolation, bool(preprocessing.exif), is_scaled)
        if key not in self.stores:
            self.stores[key] = self._made(preprocessing, key)
        found = self.stores[key]
        return None if found is None or found.is_broken else found

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are arrays already."""
        return getattr(self.source, "is_in_memory", False)

    def is_kept(self, preprocessing: Preprocessing, augment: Augment | None) -> bool:
        """Whether images are to be kept that are prepared like this: as far as is known without looking at the disk."""
        if not self.keeps or not is_prepared_once(augment):
            return False
        limit = MEMORY_BYTES if self.is_in_memory else limit_bytes() if isinstance(self.source, HasState) else 0
        return self._n_bytes(preprocessing) <= limit

    def _n_bytes(self, preprocessing: Preprocessing) -> int:
        return len(self.names) * math.prod(preprocessing.hwc)

    def _made(self, preprocessing: Preprocessing, key: tuple) -> FileStore | MemoryStore | None:
        if self.is_in_memory:
            return MemoryStore()
        if self._state is None:
            self._state = self.source.state(self.names) or ""
        if not self._state:
            return None
        told = repr((EDITION, key, decoder_versions(), self._state))
        return _file_store(
            hashlib.sha256(told.encode()).hexdigest()[:32], preprocessing.hwc, self._n_bytes(preprocessing)
        )


def is_prepared_once(augment: Augment | None) -> bool:
    """Whether images begin the same in every epoch: as they are scored, or shifted and mirrored afterwards."""
    return augment is None or bool(augment.pad_crop and not augment.colours)


def _sizes(preprocessing: Preprocessing) -> tuple:
    return (*height_width(preprocessing.resolution), *height_width(preprocessing.resize), preprocessing.channels)


def limit_bytes() -> float:
    """The most that is kept of a data set: $PROXYLESSNAS_DECODED_GB, else LIMIT_GB; 0 where that is no number."""
    try:
        return max(0.0, float(os.environ.get(LIMIT_VARIABLE, LIMIT_GB))) * 1e9
    except ValueError:
        return 0.0


def in_words(n_bytes: int) -> list[tuple[str, str]]:
    """For a header, as (label, text): that images are decoded once, and where they are kept; nothing where none are."""
    try:
        where = folder()
    except InputError:
        return []
    told = f"once, into {where} ({format_bytes(n_bytes)}; {LIMIT_VARIABLE}=0: every time)"
    return [("decoded", told)] if n_bytes else []


def folder() -> Path:
    """Where the files are. Raises InputError where there is no home folder."""
    return cache_folder() / "decoded"


def _file_store(name: str, shape: tuple[int, ...], n_bytes: int) -> FileStore | None:
    """The file of that name; None where it cannot be had, or the disk has too little room."""
    try:
        path = folder() / f"{name}{ENDING}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_room(path.parent, n_bytes)
            if shutil.disk_usage(path.parent).free < 2 * n_bytes:
                return None
    except (OSError, InputError):
        return None
    found = FileStore(path, shape)
    return found if found.open() else None


def _make_room(folder: Path, n_bytes: int) -> None:
    """Remove the files that were used longest ago, until all fit with ``n_bytes`` more."""
    files = sorted(folder.glob(f"*{ENDING}"), key=lambda path: path.stat().st_mtime_ns)
    used = sum(path.stat().st_blocks * 512 for path in files)
    for path in files:
        if used + n_bytes <= 2 * limit_bytes():
            return
        used -= path.stat().st_blocks * 512
        with contextlib.suppress(OSError):
            path.unlink()
