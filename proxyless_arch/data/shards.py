"""Images in shards: tar files as WebDataset has them, and an index of where in them each image lies.

    shards/index.json          the classes, and for each part of the data its shards with their sizes and hashes
    shards/train-000000.tar    00000000.jpg 00000000.cls 00000001.jpg ...: files as they were, classes' numbers
    shards/train-000000.json   for each image of it: name, label, place in the part, and offset, size, CRC-32 in the tar

An image is read at its offset, in any order, and nothing is unpacked. Names, labels and order are those of the folder
that the shards were written from, so a run on either is the same run, bit for bit. shard_writing.py writes them;
shard_scan.py reads tars that have no such index.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import is_url, open_bytes, parse_json, read_bytes
from proxyless_arch.base.progress import Progress
from proxyless_arch.base.strict import Node, counted, listed
from proxyless_arch.data.sources import MAX_FILE_BYTES, state_of

FORMAT, VERSION = "proxyless-arch/shards", 1
INDEX = "index.json"
ALL = "all"
"""What the index calls class folders that are no split."""
TABLE_HEAD = b'{"bytes":'
"""What a table begins with."""
PARTS = ("train", "val", "test", ALL)
TAR = ".tar"
UNCHECKED = -1
"""In place of the CRC-32 of an image that has none."""
MOST_IMAGES = 2**31
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.tar")


class Shard(NamedTuple):
    """A tar file of an index; ``table_sha256`` is of the .json beside it."""

    file: str
    n_images: int
    n_bytes: int
    sha256: str
    table_sha256: str

    @property
    def table(self) -> str:
        return self.file.removesuffix(TAR) + ".json"


class Table(NamedTuple):
    """The images of a shard, in its order; each column int64, (images,)."""

    names: Sequence[str]
    labels: np.ndarray
    positions: np.ndarray
    """In the part, over all its shards."""
    offsets: np.ndarray
    sizes: np.ndarray
    crc32: np.ndarray


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Image files in tars, read where they lie.

    Args:
        home: the folder or URL that a person named.
        folder: where the tars are.
        files: their names.
        rows: by the name of an image, its row in ``where``.
        where: int64, (images, 4): number of the tar, offset, size, CRC-32 or UNCHECKED.
    """

    home: str
    folder: Path
    files: tuple[str, ...]
    rows: Mapping[str, int] = field(repr=False)
    where: np.ndarray = field(repr=False)

    def place(self, name: str) -> str:
        if name not in self.rows:
            return self.home
        return f"{self.home.rstrip('/')}/{self.files[int(self.where[self.rows[name], 0])]}:{name}"

    def read(self, name: str) -> bytes:
        if name not in self.rows:
            raise InputError(f"no image {name!r} in its shards", source=self.home)
        number, offset, size, crc32 = self.where[self.rows[name]].tolist()
        with open_bytes(self.folder / self.files[number]) as file:
            file.seek(offset)
            found = file.read(size)
        if len(found) != size or crc32 not in (UNCHECKED, zlib.crc32(found)):
            problem = "the shard has changed since its index was written: bring it back, or write the shards again"
            raise InputError(problem, source=self.place(name))
        return found

    def state(self, names: Sequence[str]) -> str | None:
        """Changes with an image of them; None where one cannot be asked."""
        rows = hashlib.sha256(repr([(name, self.where[self.rows[name]].tolist()) for name in names]).encode())
        return state_of((f"{file} {rows.hexdigest()}", str(self.folder / file)) for file in self.files)


class Part(NamedTuple):
    """What an ImageDataset is made of, in its order."""

    source: ShardSource
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Shards:
    """A set of shards whose index is read.

    Args:
        home: the folder or URL that a person named.
        class_names: in label order.
        parts: the shards by split; '' for class folders that are none.
        tables: reads the table of a shard.
        folder: where the tars are.
        bring: makes sure that a shard lies there, as its index says.
    """

    home: str
    class_names: tuple[str, ...]
    parts: Mapping[str, tuple[Shard, ...]]
    tables: Callable[[Shard], Table]
    folder: Path
    bring: Callable[[Shard], None]

    def read(self, split: str) -> Part:
        """The images of a split. Raises InputError for a shard that is missing or another, or a table that is."""
        shards, tables = self.parts[split], self._tables(split)
        positions = np.concatenate([table.positions for table in tables])
        order = np.argsort(positions, kind="stable")
        if not np.array_equal(positions[order], np.arange(len(positions))):
            problem = f"the shards of {split or ALL!r} are of different sets: expected each image of one set once"
            raise InputError(problem, source=self.home)
        return self._part(shards, tables, order.tolist())

    def everything(self) -> Part:
        """All images, whatever their split, in the order of a folder that holds them."""
        shards = [shard for each in self.parts.values() for shard in each]
        tables = [table for split in self.parts for table in self._tables(split)]
        names = [name for table in tables for name in table.names]
        return self._part(shards, tables, sorted(range(len(names)), key=lambda row: _in_folder_order(names[row])))

    def _tables(self, split: str) -> list[Table]:
        for shard in self.parts[split]:
            self.bring(shard)
        return [self.tables(shard) for shard in self.parts[split]]

    def _part(self, shards: Sequence[Shard], tables: Sequence[Table], order: Sequence[int]) -> Part:
        """The images of ``shards``, of which ``order`` has the rows."""
        names = [name for table in tables for name in table.names]
        labels, *where = (
            np.concatenate([getattr(table, column) for table in tables])
            for column in ("labels", "offsets", "sizes", "crc32")
        )
        number = np.repeat(np.arange(len(tables)), [len(table.names) for table in tables])
        rows = dict(zip(names, range(len(names)), strict=True))
        if len(rows) < len(names):
            raise InputError("two images have one name", source=self.home)
        files = tuple(shard.file for shard in shards)
        source = ShardSource(self.home, self.folder, files, rows, np.stack([number, *where], axis=1))
        return Part(source, tuple(names[row] for row in order), labels[np.asarray(order)], self.class_names)


def _in_folder_order(name: str) -> list[tuple[bool, str]]:
    """By which names sort as folders are read: the images of one, then its folders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def open_shards(path: str) -> Shards | None:
    """The shards in a folder or at a URL; None for a folder that holds none.

    Raises:
        InputError: an index that is damaged, too new or of other shards; a shard that is missing or cut; shards of
            which some are not written yet; tars of others that cannot be used (see shard_scan).
    """
    if is_url(path):
        from proxyless_arch.data.remote_shards import shards_at

        return shards_at(path)
    folder = Path(path)
    if not folder.is_dir():
        return None
    if (index := own_index(folder)) is not None:
        return _local(folder, path, index)
    from proxyless_arch.data.shard_scan import scanned, tars_in

    tars = tars_in(folder)
    if any(_has_table(tar) for each in tars.values() for tar in each):
        problem = f"no {INDEX} yet: shard.py was interrupted, and goes on when it is given again"
        raise InputError(problem, source=path)
    return scanned(path, tars) if tars else None


def _has_table(tar: Path) -> bool:
    table = tar.with_suffix(".json")
    return table.is_file() and read_bytes(table).startswith(TABLE_HEAD)


def own_index(folder: Path) -> dict[str, Any] | None:
    """The index of shards in a folder, which is not judged yet; None where there is none of this format."""
    if not (folder / INDEX).is_file():
        return None
    try:
        found = parse_json(read_bytes(folder / INDEX), str(folder / INDEX))
    except InputError:
        if not any(folder.glob(f"*{TAR}")):
            return None  # somebody's file beside class folders
        raise
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def judged(index: object, source: str) -> tuple[tuple[str, ...], dict[str, tuple[Shard, ...]]]:
    """(class names, shards by split) of a parsed index. Raises InputError for one that is damaged or too new."""
    try:
        fields = Node(index).fields(("format", "version", "classes", "parts"))
        fields["format"].text([FORMAT])
        if fields["version"].integer() > VERSION:
            raise fields["version"].fail(f"a version up to {VERSION}")
        classes = tuple(each.text() for each in fields["classes"].elements(1, MOST_IMAGES))
        if len(set(classes)) < len(classes):
            raise fields["classes"].fail("each class once")
        parts = {}
        for name, shards in fields["parts"].items():
            if name not in PARTS:
                raise InputError(f"expected {listed(map(repr, PARTS))}, got {name!r}", shards.path)
            parts[name.replace(ALL, "")] = tuple(_shard(each) for each in shards.elements(1, MOST_IMAGES))
    except InputError as error:
        raise error.from_source(source) from None
    if not parts:
        raise InputError("expected shards, found none", "parts", source)
    return classes, parts


def _shard(node: Node) -> Shard:
    found = node.fields(("file", "images", "bytes", "sha256", "table_sha256"))
    if not _FILE.fullmatch(found["file"].text()):
        raise found["file"].fail("the name of a .tar file")
    return Shard(
        found["file"].value,
        found["images"].integer(1, MOST_IMAGES),
        found["bytes"].integer(1, 2**62),
        found["sha256"].text(),
        found["table_sha256"].text(),
    )


def to_json(class_names: Sequence[str], parts: Mapping[str, Sequence[Shard]]) -> dict[str, Any]:
    """The index as index.json has it."""
    keys = ("file", "images", "bytes", "sha256", "table_sha256")
    shards = {name or ALL: [dict(zip(keys, shard, strict=True)) for shard in each] for name, each in parts.items()}
    return {"format": FORMAT, "version": VERSION, "classes": list(class_names), "parts": shards}


# ---------------------------------------------------------------------------------------------------- local files


def _local(folder: Path, home: str, index: object) -> Shards:
    classes, parts = judged(index, str(folder / INDEX))

    def is_there(shard: Shard) -> None:
        check_size(folder / shard.file, shard)

    for shards in parts.values():
        for shard in shards:
            is_there(shard)
    return Shards(home, classes, parts, lambda shard: read_table(folder, shard, len(classes)), folder, is_there)


def check_size(path: Path, shard: Shard) -> None:
    """Raises InputError for a shard that is not there, or not as long as its index says."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"a shard that {INDEX} lists is missing", source=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=str(path)) from None
    if size != shard.n_bytes:
        problem = (
            f"expected a shard of {shard.n_bytes} bytes, as {INDEX} has it, got {size}: it is cut, or another file"
        )
        raise InputError(problem, source=str(path))


def read_table(folder: Path, shard: Shard, n_classes: int) -> Table:
    """The table of a shard. Raises InputError where it is missing, or another than the index tells of."""
    place = folder / shard.table
    content = read_bytes(place)
    if hashlib.sha256(content).hexdigest() != shard.table_sha256:
        raise InputError(f"not the table that {INDEX} tells of: write the shards again", source=str(place))
    try:
        return _table(Node(parse_json(content, str(place))), shard, n_classes)
    except InputError as error:
        raise error.from_source(str(place)) from None


def _table(node: Node, shard: Shard, n_classes: int) -> Table:
    found = node.fields(("bytes", "sha256", *Table._fields))
    names = found["names"].value
    if not isinstance(names, list) or len(names) != shard.n_images or not all(isinstance(name, str) for name in names):
        raise found["names"].fail(f"{counted(shard.n_images, 'name')}")
    limits = {
        "labels": n_classes,
        "positions": MOST_IMAGES,
        "offsets": shard.n_bytes,
        "sizes": min(shard.n_bytes, MAX_FILE_BYTES + 1),
        "crc32": 2**32,
    }
    columns = {name: _integers(found[name], shard.n_images, limit) for name, limit in limits.items()}
    if (columns["offsets"] + columns["sizes"] > shard.n_bytes).any():
        raise found["sizes"].fail("images within the shard")
    return Table(names, **columns)


def _integers(node: Node, count: int, below: int) -> np.ndarray:
    values = node.value
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(value) is int and 0 <= value < below for value in values)
    ):
        raise node.fail(f"{counted(count, 'integer')} from 0 to {below - 1}")
    return np.array(values, dtype=np.int64)


# ------------------------------------------------------------------------------------------------------ their hashes


def sha256_of(path: Path) -> str:
    """Of a file's content. Raises InputError where it cannot be read."""
    digest = hashlib.sha256()
    with open_bytes(path) as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def check_hash(path: Path, shard: Shard, place: str) -> None:
    """Raises InputError naming ``place`` for a shard whose bytes are not those of its index."""
    if (found := sha256_of(path)) != shard.sha256:
        problem = f"expected SHA-256 {shard.sha256}, as {INDEX} has it, got {found}: it is damaged, or another file"
        raise InputError(problem, source=place)


def checked(path: str) -> list[Shard]:
    """The shards at a path or URL, each compared with its hash. Raises InputError at one that is another."""
    shards = open_shards(path)
    if shards is None:
        raise InputError(f"expected a folder of shards, with {INDEX}", "data_path", path)
    every = [shard for each in shards.parts.values() for shard in each]
    with Progress(sum(shard.n_bytes for shard in every), "B", doing="checked") as bar:
        for shard in every:
            shards.bring(shard)
            shards.tables(shard)
            if not shard.sha256:
                raise InputError(f"these tars have no {INDEX} of this project, and no hashes", "data_path", path)
            check_hash(shards.folder / shard.file, shard, f"{shards.home}/{shard.file}")
            bar.update(shard.n_bytes)
    return every


@contextlib.contextmanager
def hashing(path: Path) -> Iterator[HashingFile]:
    """A new file that hashes what is written to it."""
    with open(path, "wb") as file:
        yield HashingFile(file)


class HashingFile:
    """What tarfile needs of a file to write to, front to back; ``sha256`` is of all that was written."""

    def __init__(self, file: Any) -> None:
        self._file, self._digest, self._position = file, hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        self._position += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self._position
