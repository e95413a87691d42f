"""HDF5 files, read in a process of their own: the library can crash on a hostile file, and takes its process along.

The child gets the bytes on its standard input and answers with ``.safetensors``, which cannot be crafted to crash its
reader: the arrays by their paths, and the texts and whole numbers among the attributes as JSON metadata. What is
no plain array in the file itself (links, chunks, compression, gaps) is refused, and what is no number passed over.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.base import apart
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json

MAX_OBJECTS, MAX_DEPTH = 20_000, 8
# what h5py raises on a file that is damaged, foreign or hostile
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError, AttributeError)
_KINDS = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}
"""Kinds and bytes of the numbers that safetensors holds."""


class Contents(NamedTuple):
    """``arrays`` by their paths; ``attributes`` by ``path@name``, ``@name`` those of the file itself."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, str | int]


def read(data: bytes, time_limit_s: float = apart.TIME_LIMIT_S) -> Contents:
    """What the HDF5 file of these bytes holds.

    Raises:
        InputError: a damaged file, one that crashes the HDF5 library or keeps it busy for ``time_limit_s``, or one
            with arrays that are not plain. Without a source: the caller knows where the bytes are from.
    """
    return _contents(apart.ask("proxyless_arch.weights.hdf5", data, "the HDF5 reader", time_limit_s))


def _contents(content: bytes) -> Contents:
    """The child's answer; it is checked as a file would be, for the child read a hostile one."""
    import safetensors
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"confused the HDF5 reader ({error})") from None
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], "the HDF5 reader's answer")
    attributes = parse_json(header.get("__metadata__", {}).get("attributes", "{}"), "the HDF5 reader's answer")
    return Contents(arrays, attributes)


# --------------------------------------------------------------------------------------------------- in the child


def _objects(group: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(path, group or dataset) of everything that lies in this file."""
    import h5py

    if depth == MAX_DEPTH:
        raise InputError(f"expected groups nested at most {MAX_DEPTH} deep", path)
    yield path, group
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputError("expected an object of this file, not a link", f"{path}/{name}")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _objects(item, f"{path}/{name}", depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield f"{path}/{name}", item


def _attributes(item: Any) -> Iterator[tuple[str, str | int]]:
    """The texts and whole numbers among the attributes."""
    for name in item.attrs:
        if item.attrs.get_id(name).shape == ():  # a large one is not read
            value = item.attrs[name]
            if isinstance(value, str | np.integer):
                yield name, value if isinstance(value, str) else int(value)


def _array(dataset: Any, place: str, n_bytes: int) -> np.ndarray | None:
    """A dataset stored plainly; None where it holds no numbers."""
    dtype = dataset.dtype
    if dataset.shape is None or dtype.itemsize not in _KINDS.get(dtype.kind, ()):
        return None
    stored, needed = dataset.id.get_storage_size(), dtype.itemsize * np.prod(dataset.shape, dtype=np.float64)
    if dataset.chunks or dataset.external or dataset.is_virtual or stored != needed or stored > n_bytes:
        raise InputError("expected plain contiguous storage", place)
    return np.array(dataset[()], dtype=dtype.newbyteorder("<"), order="C")


def contents(data: bytes) -> Contents:
    """What ``read`` answers, read in this process. Raises InputError, or what h5py raises on a broken file."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    attributes: dict[str, str | int] = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        for count, (path, item) in enumerate(_objects(file)):
            if count == MAX_OBJECTS:
                raise InputError(f"expected at most {MAX_OBJECTS} objects")
            place = path.removeprefix("/")
            attributes |= {f"{place}@{name}": value for name, value in _attributes(item)}
            array = _array(item, place, len(data)) if isinstance(item, h5py.Dataset) else None
            if array is not None:
                arrays[place] = array
    return Contents(arrays, attributes)


def answer_to(data: bytes) -> apart.Answer:
    """The answer to the bytes of a file."""
    from safetensors.numpy import save

    try:
        found = contents(data)
    except InputError as error:
        return apart.refusal(error)
    except _BROKEN as error:
        return apart.refusal(InputError(f"a damaged HDF5 file, or not one: {error}"))
    return 0, save(found.arrays, {"attributes": json.dumps(found.attributes)})


if __name__ == "__main__":
    raise SystemExit(apart.serve(answer_to))
