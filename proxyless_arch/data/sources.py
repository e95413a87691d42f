"""Where images come from: a folder, a zip archive, or an array in memory; what lies in them, and their bytes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes, require_regular
from proxyless_arch.base.strict import counted
from proxyless_arch.data.images import HEIF_ENDINGS, HEIF_PACKAGE, begins_an_image, names_an_image

if TYPE_CHECKING:
    from PIL.Image import Image

EDITION = 2
"""How folders are read today. Edition 1, of runs from before December 2026, knew fewer endings and names of splits."""
ENDINGS_1 = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
"""The files that edition 1 takes for images."""
SYSTEM = frozenset(
    (
        "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information",
        "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
    )
)  # fmt: skip
"""What systems put beside people's files, in small letters; and whatever begins with a dot."""
ARCHIVES = {
    ".tar": "tar -xf",
    ".tgz": "tar -xf",
    ".gz": "tar -xf",
    ".bz2": "tar -xf",
    ".xz": "tar -xf",
    ".zst": "tar -xf",
    ".rar": "unrar x",
    ".7z": "7z x",
}
"""Archives that are not read here, by what unpacks them."""
MAX_FILE_BYTES = 2**30
HEAD_BYTES = 32
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


class Listing(NamedTuple):
    """What lies in one folder, each sorted; ``others`` are files that are no images. Files of systems are in none."""

    folders: tuple[str, ...]
    images: tuple[str, ...]
    others: tuple[str, ...] = ()


Lister = Callable[[str], Listing]
"""What lies in a folder, from its path in the source ('' is the top)."""


class Source(Protocol):
    """Where the images of a data set come from."""

    def place(self, name: str) -> str:
        """The name as a person would look for it."""

    def read(self, name: str) -> bytes | Image:
        """The bytes of an image file, or an image that is decoded; InputError naming the place when it is lost."""


@dataclass(frozen=True)
class FolderSource:
    """Image files below a folder."""

    root: str

    def place(self, name: str) -> str:
        return str(Path(self.root, name))

    def read(self, name: str) -> bytes:
        return read_bytes(self.place(name), MAX_FILE_BYTES)

    def state(self, names: Sequence[str]) -> str | None:
        """Changes with a file, as far as its size and times say so; None where one cannot be asked."""
        return state_of((name, self.place(name)) for name in names)


@dataclass(frozen=True)
class ZipSource:
    """Image files in a zip archive, which each process opens for itself at its first read."""

    path: str
    _handles: dict[int, zipfile.ZipFile] = field(default_factory=dict, repr=False, compare=False)

    def place(self, name: str) -> str:
        return f"{self.path}:{name}"

    def read(self, name: str) -> bytes:
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

    def state(self, names: Sequence[str]) -> str | None:
        """Changes with the archive, as far as its size and times say so; None where it cannot be asked."""
        return state_of([(repr(tuple(names)), self.path)])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_handles": {}}


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images held in memory; a name is the decimal index of one."""

    title: str
    pixels: np.ndarray
    """uint8, (images, height, width) in gray or (images, height, width, 3) in RGB."""
    is_in_memory: ClassVar[bool] = True

    def place(self, name: str) -> str:
        return f"{self.title}:{name}"

    def read(self, name: str) -> Image:
        from PIL import Image

        return Image.fromarray(self.pixels[int(name)]).convert("RGB")


def state_of(files: Iterable[tuple[str, str]]) -> str | None:
    """A digest of (name, path of the file that it is in) and of what the system tells of each file.

    The time of the last change of a file's entry is among it, which no program can set back.
    """
    digest = hashlib.sha256()
    try:
        for name, path in files:
            found = os.stat(path)  # noqa: PTH116 (of many files)
            told = (name, str(Path(path).absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(repr(told).encode())
    except OSError:
        return None
    return digest.hexdigest()


def bytes_of(source: Source, name: str) -> bytes:
    """The bytes of a file in a folder or archive."""
    found = source.read(name)
    assert isinstance(found, bytes)
    return found


# --------------------------------------------------------------------------------------------------- what is left out


@dataclass(frozen=True)
class LeftOut:
    """What lies beside the images of a data set and is not used.

    Args:
        files: how many that are no images, by ending in small letters ('' for none).
        loose: images outside of class folders.
        folders: each in words: ``val/ (24 images, no class folders)``.
    """

    files: tuple[tuple[str, int], ...] = ()
    loose: int = 0
    folders: tuple[str, ...] = ()

    def __add__(self, other: LeftOut) -> LeftOut:
        files = Counter(dict(self.files)) + Counter(dict(other.files))
        folders = dict.fromkeys((*self.folders, *other.folders))
        return LeftOut(_sorted(files), max(self.loose, other.loose), tuple(folders))

    def lines(self) -> tuple[str, ...]:
        """For a person; none where nothing is left out."""
        said = []
        if self.files:
            total = sum(count for _, count in self.files)
            said.append(f"{counted(total, 'other file')} left out ({by_ending(self.files)})")
        if self.loose:
            said.append(f"{counted(self.loose, 'image')} outside of class folders left out")
        if self.folders:
            said.append(f"not used: {', '.join(self.folders)}")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """For result.json."""
        return {"files": dict(self.files), "loose_images": self.loose, "folders": list(self.folders)}


def other_files(names: Iterable[str], loose: int = 0, folders: tuple[str, ...] = ()) -> LeftOut:
    """Files that are no images, counted by their endings."""
    return LeftOut(_sorted(Counter(map(ending, names))), loose, folders)


def _sorted(files: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(files.items(), key=lambda entry: (-entry[1], entry[0])))


def by_ending(files: Iterable[tuple[str, int]], most: int = 5) -> str:
    """``10 .heic, 3 .txt``, the most first; those that a package reads are among them however few they are."""
    files = list(files)
    said = [*files[:most], *(file for file in files[most:] if _hint(file[0]))]
    words = [f"{count} {name or 'without ending'}{_hint(name)}" for name, count in said]
    return ", ".join([*words, *(["..."] if len(files) > len(said) else [])])


def _hint(name: str) -> str:
    return f": pip install {HEIF_PACKAGE} reads them" if name in HEIF_ENDINGS else ""


def why_none(others: Iterable[str]) -> str:
    """Why a folder holds no image: ``expected .jpg, ...; found 12 .heic``."""
    files = other_files(others).files
    found = f"; found {by_ending(files)}" if files else ""
    return f"(expected {', '.join(ENDINGS_1)} or another that Pillow reads{found})"


# ------------------------------------------------------------------------------------------------------ what is there


def open_source(path: str | os.PathLike[str], edition: int = EDITION) -> tuple[Source, Lister]:
    """A folder or a .zip, and what lies in it. Raises InputError for what is neither."""
    where = Path(path)
    if where.is_dir():
        return FolderSource(str(path)), _folder_lister(where, edition)
    if not where.exists():
        raise InputError(f"no such folder or .zip; {LAYOUT}", source=str(path))
    refuse_archive(where)
    return ZipSource(str(path)), _zip_lister(str(path), edition)


def refuse_archive(path: Path) -> None:
    """Raises InputError for an archive by its name that is not read here, with what unpacks it."""
    if (tool := ARCHIVES.get(ending(path.name))) is not None:
        problem = f"expected a folder or a .zip: unpack it ({tool} {path.name}) and give the folder"
        raise InputError(problem, source=str(path))


def ending(name: str) -> str:
    """``.jpg``, in small letters; '' where there is none."""
    stem, dot, tail = name.rpartition(".")
    return dot + tail.lower() if stem else ""


def _is_hidden(name: str, edition: int) -> bool:
    return name.startswith(".") or name == "__MACOSX" or (edition > 1 and name.lower() in SYSTEM)


def _is_image(name: str, head: Callable[[], bytes], edition: int) -> bool:
    """Whether a file is an image: by its ending, else by its first bytes. Files with a usual ending are not opened."""
    if edition == 1:
        return name.lower().endswith(ENDINGS_1)
    found = names_an_image(ending(name)) if not name.endswith("~") else False
    return begins_an_image(head()) if found is None else found


def _folder_lister(root: Path, edition: int) -> Lister:
    @functools.lru_cache(maxsize=4096)
    def listing(folder: str) -> Listing:
        folders: list[str] = []
        images: list[str] = []
        others: list[str] = []
        try:
            with os.scandir(root / folder) as scan:
                for entry in scan:
                    if _is_hidden(entry.name, edition):
                        continue
                    if entry.is_dir():
                        folders.append(entry.name)
                    else:
                        is_one = _is_image(entry.name, functools.partial(_head_of, entry), edition)
                        (images if is_one else others).append(entry.name)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", source=str(root / folder)) from None
        return Listing(tuple(sorted(folders)), tuple(sorted(images)), tuple(sorted(others)))

    return listing


def _head_of(entry: os.DirEntry) -> bytes:
    """The first bytes of a file; none of what is no file (a pipe would wait) or cannot be opened."""
    try:
        if entry.is_file():
            with open(entry.path, "rb") as file:
                return file.read(HEAD_BYTES)
    except OSError:
        pass
    return b""


def _open_zip(path: str) -> zipfile.ZipFile:
    require_regular(path)
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=path) from None
    except _DAMAGED as error:
        reason = str(error) if zipfile.is_zipfile(path) else "got another file, or one that is cut"
        raise InputError(f"expected a folder or a .zip of one: {reason}", source=path) from None


def _zip_lister(path: str, edition: int) -> Lister:
    folders: dict[str, set[str]] = {"": set()}
    images: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    with _open_zip(path) as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            if name.startswith("/") or ".." in parts or "\\" in name or (parts and parts[0].endswith(":")):
                raise InputError(f"expected relative names with '/' inside the archive, got {name!r}", source=path)
            if not parts or any(_is_hidden(part, edition) for part in parts):
                continue
            is_folder = name.endswith("/")
            parent = ""
            for part in parts if is_folder else parts[:-1]:
                child = f"{parent}/{part}" if parent else part
                folders[parent].add(part)
                folders.setdefault(child, set())
                parent = child
            if not is_folder:
                is_one = _is_image(parts[-1], functools.partial(_head_in, archive, name), edition)
                (images if is_one else others).setdefault(parent, set()).add(parts[-1])

    def listing(folder: str) -> Listing:
        found = (folders[folder], images.get(folder, ()), others.get(folder, ()))
        return Listing(*(tuple(sorted(names)) for names in found))

    return listing


def _head_in(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as file:
            return file.read(HEAD_BYTES)
    except _DAMAGED:
        return b""
