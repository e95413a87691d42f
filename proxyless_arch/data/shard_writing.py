"""Writing shards from class folders (shards.py says what they are).

The order within a part is shuffled once, the same at every writing, for readers that go through the tars front to back.
A shard is done when its table and then the tar have their names; what is done is kept when the command is given again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path, parse_json, read_bytes, write_bytes, write_json
from proxyless_arch.base.progress import Progress
from proxyless_arch.base.runs import locked
from proxyless_arch.data.datasets import ImageDataset, parts_at
from proxyless_arch.data.images import names_an_image
from proxyless_arch.data.shards import INDEX, TAR, Shard, Table, hashing, judged, own_index, sha256_of, to_json
from proxyless_arch.data.streams import Stream, numpy_rng

FLAG = "--output"
PREFIX = {"": "images"}
"""What the files of a part are called, where it is no split."""
BEGINNINGS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
"""Types of images by their first bytes."""


@dataclass(frozen=True)
class Written:
    """What was written, or was there already."""

    class_names: tuple[str, ...]
    parts: Mapping[str, tuple[Shard, ...]]
    n_kept: int
    """Shards that an earlier command had written."""


def write_shards(path: str, folder: Path, shard_bytes: int) -> Written:
    """Write the images at ``path`` as shards into ``folder``; go on where an interrupted command stopped.

    Args:
        path: a folder or .zip of class folders.
        folder: made where it is missing.
        shard_bytes: a tar is begun anew when it has so many.

    Raises:
        InputError: images that are no class folders, that cannot be read, or other shards in the folder.
        OSError: it cannot be written.
    """
    parts = parts_at(path)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, FLAG):
        _refuse_others(folder, parts)
        total = sum(map(len, parts.values()))
        with Progress(total, "img", doing="shards") as bar:
            written = {name: _write_part(images, name, folder, shard_bytes, bar) for name, images in parts.items()}
        class_names = next(iter(parts.values())).class_names
        shards = {name: tuple(shard for shard, _ in each) for name, each in written.items()}
        write_json(folder / INDEX, to_json(class_names, shards))
    return Written(class_names, shards, sum(is_kept for each in written.values() for _, is_kept in each))


def _refuse_others(folder: Path, parts: Mapping[str, ImageDataset]) -> None:
    """Raises InputError for a folder with an index of other images."""
    index = own_index(folder)
    if index is None:
        if (folder / INDEX).exists():
            raise InputError(f"there is an {INDEX} of something else: give another folder", FLAG, str(folder))
        return
    classes, shards = judged(index, str(folder / INDEX))
    counts = {name: sum(shard.n_images for shard in each) for name, each in shards.items()}
    if classes != next(iter(parts.values())).class_names or counts != {name: len(each) for name, each in parts.items()}:
        raise InputError("there are shards of other images: give another folder", FLAG, str(folder))


def _write_part(
    images: ImageDataset, name: str, folder: Path, shard_bytes: int, bar: Progress
) -> list[tuple[Shard, bool]]:
    """The shards of a part, and whether each was there before."""
    order, own = numpy_rng(0, Stream.SHARD_ORDER).permutation(len(images)), frozenset(images.names)
    found: list[tuple[Shard, bool]] = []
    first = 0
    while first < len(order):
        path = _path(folder, name, len(found))
        kept = _kept(path, images, order[first:], own)
        if kept is not None:
            bar.update(kept.n_images)
        shard = kept if kept is not None else _write(path, images, order[first:], first, shard_bytes, bar)
        found.append((shard, kept is not None))
        first += shard.n_images
    _remove_from(folder, name, len(found))
    return found


def _path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{PREFIX.get(name, name)}-{number:06d}{TAR}"


def _remove_from(folder: Path, name: str, number: int) -> None:
    """Remove shards that an earlier command wrote, where there are fewer now."""
    while (path := _path(folder, name, number)).exists() and path.with_suffix(".json").exists():
        path.unlink()
        path.with_suffix(".json").unlink()
        number += 1


# ------------------------------------------------------------------------------------------------------- one shard


def _write(path: Path, images: ImageDataset, order: np.ndarray, first: int, shard_bytes: int, bar: Progress) -> Shard:
    """Images in ``order``, until the shard is full; ``first``: the number of the first one in its part."""
    columns: dict[str, list[Any]] = {name: [] for name in Table._fields}
    with atomic_path(path) as temporary:
        with hashing(temporary) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for number, index in enumerate(order.tolist(), first):
                    if columns["names"] and file.tell() >= shard_bytes:
                        break
                    for column, value in _append(tar, images, index, number).items():
                        columns[column].append(value)
                    bar.update()
            digest, n_bytes = file.sha256, file.tell()
        table = {"bytes": n_bytes, "sha256": digest, **columns}
        content = json.dumps(table, separators=(",", ":")).encode()
        shard = Shard(path.name, len(columns["names"]), n_bytes, digest, hashlib.sha256(content).hexdigest())
        write_bytes(path.with_name(shard.table), content)  # before the tar has its name: a tar without one is not ours
    return shard


def _append(tar: tarfile.TarFile, images: ImageDataset, index: int, number: int) -> dict[str, Any]:
    """Put an image and its class into a tar; its row of the table."""
    name = images.names[index]
    content = images.source.read(name)
    if not isinstance(content, bytes):
        raise InputError(
            "expected image files in class folders, got images in arrays: read them as they are", "data_path"
        )
    key, label = f"{number:08d}", int(images.labels[index])
    _add(tar, f"{key}{_ending(name, content)}", content)
    offset = tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    _add(tar, f"{key}.cls", str(label).encode())
    values = (name, label, index, offset, len(content), zlib.crc32(content))
    return dict(zip(Table._fields, values, strict=True))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no owner and no time: the same images make the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _ending(name: str, content: bytes) -> str:
    """By which others know the type of an image: the file's own, where that says one, else by its first bytes."""
    own = PurePosixPath(name).suffix.lower()
    if names_an_image(own):
        return own
    return next((ending for head, ending in BEGINNINGS.items() if content.startswith(head)), ".img")


def _kept(path: Path, images: ImageDataset, order: np.ndarray, own: frozenset[str]) -> Shard | None:
    """The shard at ``path``, where it is whole and of the first images of ``order``, which have not changed since.

    ``own``: the names of the part's images. Raises InputError for a shard of others, or a tar that is none of ours.
    """
    table = path.with_suffix(".json")
    if not path.exists():
        return None
    if not table.exists():
        raise InputError(f"{path.name} is there and was not written by this command: give another folder", FLAG)
    content = read_bytes(table)
    found = parse_json(content, str(table))
    names = found.get("names") if isinstance(found, dict) else None
    if not isinstance(names, list) or not names or not own.issuperset(names):
        raise InputError("there are shards of other images: give another folder", FLAG, str(path.parent))
    is_next = names == [images.names[index] for index in order[: len(names)].tolist()]
    if not is_next or _newest(images, order[: len(names)].tolist()) > path.stat().st_mtime_ns:
        return None
    n_bytes, digest = found.get("bytes"), found.get("sha256")
    if path.stat().st_size != n_bytes or sha256_of(path) != digest:
        return None
    return Shard(path.name, len(names), n_bytes, digest, hashlib.sha256(content).hexdigest())


def _newest(images: ImageDataset, indices: Sequence[int]) -> int:
    """When the files of images, or the archive they are in, were last changed, in ns."""
    return max(map(_changed_at, {_file_of(images, index) for index in indices}))


def _file_of(images: ImageDataset, index: int) -> str:
    place, name = images.place(index), images.names[index]
    return place.removesuffix(f":{name}")


def _changed_at(file: str) -> int:
    found = os.stat(file)  # noqa: PTH116 (of many files)
    return max(found.st_mtime_ns, found.st_ctime_ns)
