"""Where images come from: a folder, a zip archive, or an array in memory; what lies in them, and their bytes."""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.data.images import decode

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
MAX_FILE_BYTES = 2**30
LAYOUT = "expected one folder per class (class_name/photo.jpg), or train/ and val/ (or test/) holding such folders"

# RuntimeError: encrypted, or NotImplementedError for an unknown compression method or version.
_DAMAGED: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    UnicodeDecodeError,
    EOFError,
    OSError,
    RuntimeError,
)
with contextlib.suppress(ImportError):  # a Python built without lzma: zipfile then raises RuntimeError
    from lzma import LZMAError

    _DAMAGED += (LZMAError,)

Lister = Callable[[str], tuple[list[str], list[str]]]
"""A folder's (sub-folder names, image file names), both sorted, from its path in the source ('' is the top)."""


class Source(Protocol):
    """Where the images of a data set come from."""

    def place(self, name: str) -> str:
        """The name as a person would look for it."""

    def image(self, name: str) -> Image:
        """The decoded RGB image; InputError naming the place when it cannot be read."""


@dataclass(frozen=True)
class FolderSource:
    """Image files below a folder."""

    root: str

    def place(self, name: str) -> str:
        return str(Path(self.root, name))

    def image(self, name: str) -> Image:
        return decode(read_bytes(self.place(name)), self.place(name))


@dataclass(frozen=True)
class ZipSource:
    """Image files in a zip archive, which each process opens for itself at its first read."""

    path: str
    _handles: dict[int, zipfile.ZipFile] = field(default_factory=dict, repr=False, compare=False)

    def place(self, name: str) -> str:
        return f"{self.path}:{name}"

    def image(self, name: str) -> Image:
        return decode(self._bytes(name), self.place(name))

    def _bytes(self, name: str) -> bytes:
        # A handle shared across a fork shares its file offset: two processes would read each other's bytes.
        process = os.getpid()
        if process not in self._handles:
            self._handles[process] = _open_zip(self.path)
        archive = self._handles[process]
        try:
            size = archive.getinfo(name).file_size
            if size > MAX_FILE_BYTES:
                raise InputError(f"expected at most {MAX_FILE_BYTES} bytes, got {size}", source=self.place(name))
            return archive.read(name)
        except KeyError:
            raise InputError("no such member in the archive", source=self.place(name)) from None
        except _DAMAGED as error:
            raise InputError(f"cannot be read from the archive: {error}", source=self.place(name)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_handles": {}}


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Grayscale images held in memory; a name is the decimal index of one."""

    title: str
    pixels: np.ndarray
    """uint8, (images, height, width)."""

    def place(self, name: str) -> str:
        return f"{self.title}:{name}"

    def image(self, name: str) -> Image:
        from PIL import Image

        return Image.fromarray(self.pixels[int(name)]).convert("RGB")


def open_source(path: str | os.PathLike[str]) -> tuple[Source, Lister]:
    where = Path(path)
    if where.is_dir():
        return FolderSource(str(path)), _folder_lister(where)
    if not where.exists():
        raise InputError(f"no such folder or .zip; {LAYOUT}", source=str(path))
    return ZipSource(str(path)), _zip_lister(str(path))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _folder_lister(root: Path) -> Lister:
    def listing(folder: str) -> tuple[list[str], list[str]]:
        try:
            with os.scandir(root / folder) as scan:
                entries = [(entry.name, entry.is_dir()) for entry in scan if not _is_hidden(entry.name)]
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", source=str(root / folder)) from None
        folders = sorted(name for name, is_folder in entries if is_folder)
        return folders, sorted(name for name, is_folder in entries if not is_folder and _is_image(name))

    return listing


def _open_zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=path) from None
    except _DAMAGED as error:
        reason = str(error) if zipfile.is_zipfile(path) else "got another file, or one that is cut"
        raise InputError(f"expected a folder or a .zip of one: {reason}", source=path) from None


def _zip_lister(path: str) -> Lister:
    folders: dict[str, set[str]] = {"": set()}
    images: dict[str, set[str]] = {}
    with _open_zip(path) as archive:
        names = archive.namelist()
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or (parts and parts[0].endswith(":")):
            raise InputError(f"expected relative names with '/' inside the archive, got {name!r}", source=path)
        if any(map(_is_hidden, parts)):
            continue
        is_folder = name.endswith("/")
        parent = ""
        for part in parts if is_folder else parts[:-1]:
            child = f"{parent}/{part}" if parent else part
            folders[parent].add(part)
            folders.setdefault(child, set())
            parent = child
        if not is_folder and _is_image(name):
            images.setdefault(parent, set()).add(parts[-1])

    def listing(folder: str) -> tuple[list[str], list[str]]:
        return sorted(folders[folder]), sorted(images.get(folder, ()))

    return listing
