"""Weight files that are pickles (``.pth``, ``.tfinit``), read without running anything they contain.

A pickle is a program. Here it may name only the few constructors that a weight file needs, and what it gets for
them are the inert stand-ins of this module: neither torch nor any function of numpy is called by the pickle.
Everything it describes (sizes, strides, offsets) is checked before an array is made.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import open_bytes
from proxyless_arch.base.strict import shown

MAX_FILE_BYTES = 2**31
MAX_RANK = 8
MAX_GROWTH = 4
"""Bytes of tensors per byte of a torch.save file."""

# what a broken pickle makes the unpickler, or a constructor called with nonsense, raise
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)

Admitted = Mapping[tuple[str, str], Any]


class _Unpickler(pickle.Unpickler):
    """An unpickler for which only the ``admitted`` names exist."""

    def __init__(
        self, data: bytes, admitted: Admitted, encoding: str, persistent: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._admitted, self._persistent = admitted, persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise InputError(
                f"this pickle tried to use {shown(f'{module}.{name}')[1:-1]}, which a weight file does not need; "
                "it was refused and nothing was run"
            )
        return self._admitted[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise InputError("not a weight file we read: the pickle refers to data outside of it")
        return self._persistent(pid)


def _pickle_end(data: bytes, start: int) -> int:
    """Where the pickle that starts at ``start`` ends. InputError on what is no pickle or has a far memo index."""
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name in ("EXT1", "EXT2", "EXT4"):  # names by number, which find_class may never see
                raise InputError("a pickle that uses the extension registry, which a weight file does not need")
            # a pickler numbers its memo upwards; the unpickler would allocate up to any index it is given
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count:
                raise InputError("a damaged pickle: its memo indices jump")
    except InputError:
        raise
    except _BROKEN_PICKLE as error:
        raise InputError(f"a damaged pickle: {error}") from None
    return stream.tell()


def _unpickle(
    data: bytes, admitted: Admitted, encoding: str = "utf-8", persistent: Callable[[Any], Any] | None = None
) -> Any:
    try:
        return _Unpickler(data, admitted, encoding, persistent).load()
    except InputError:
        raise
    except _BROKEN_PICKLE as error:
        raise InputError(f"a damaged pickle: {type(error).__name__}: {error}") from None


def _read(path: str | os.PathLike[str]) -> bytes:
    with open_bytes(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"expected at most {MAX_FILE_BYTES} bytes, got {size}")
        return file.read()


def _seen(value: Any) -> str:
    """A received object in words; never the contents of a container, which a pickle can make endless."""
    if isinstance(value, str) or value is None or (isinstance(value, int | float) and abs(value) < 2**64):
        return shown(value)
    return f"an object of type {type(value).__name__}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FILE_BYTES


def _counts(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > MAX_RANK or not all(map(_is_count, value)):
        raise InputError(f"expected a {what} of at most {MAX_RANK} whole numbers, got {_seen(value)}")
    return tuple(value)


def widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """A contiguous copy as float32, or as int64 for integers. ``dtype`` "bfloat16": ``values`` are its raw bits."""
    if dtype == "bfloat16":
        return (np.array(values, dtype=np.uint32, order="C") << 16).view(np.float32)
    return np.array(values, dtype=np.int64 if values.dtype.kind == "i" else np.float32, order="C")


# ------------------------------------------------------------------------------------------------ torch's .pth


class _Kind(NamedTuple):
    """A torch storage class: little-endian elements of one type."""

    name: str
    dtype: str

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)


_KINDS = (
    _Kind("FloatStorage", "<f4"),
    _Kind("DoubleStorage", "<f8"),
    _Kind("HalfStorage", "<f2"),
    _Kind("BFloat16Storage", "bfloat16"),
    _Kind("LongStorage", "<i8"),
)


class _Storage(NamedTuple):
    """A block of elements kept outside of the pickle."""

    kind: _Kind
    key: str
    numel: int


class _View(NamedTuple):
    """A tensor before its storage is read; size, stride and offset count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _RebuildTensor:
    """Stands in for torch._utils._rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> _View:
        if not isinstance(storage, _Storage) or not _is_count(offset):
            raise InputError(f"a tensor that is not a view of a storage: {_seen(storage)}, offset {_seen(offset)}")
        return _View(storage, offset, _counts(size, "size"), _counts(stride, "stride"))


class _RebuildParameter:
    """Stands in for torch._utils._rebuild_parameter."""

    __slots__ = ()

    def __call__(self, data: Any, *unused: Any) -> Any:
        return data


_TORCH: Admitted = MappingProxyType(
    {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        **{(module, kind.name): kind for module in ("torch", "torch.storage") for kind in _KINDS},
    }
)


def _storage(pid: Any) -> _Storage:
    """A persistent id of torch.save: ("storage", kind, key, device, numel[, None])."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or any(pid[5:]):
        raise InputError(f"a storage reference of a form we do not read: {_seen(pid)}")
    _, kind, key, _, numel = pid[:5]
    if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_count(numel):
        raise InputError(f"a storage reference of a form we do not read: {_seen(pid)}")
    return _Storage(kind, key, numel)


def _check_size(storage: _Storage, n_bytes: int) -> None:
    """Whether a storage is stored in as many bytes as its elements take."""
    expected = storage.numel * storage.kind.numpy_dtype.itemsize
    if n_bytes != expected:
        raise InputError(f"expected a storage of {storage.numel} elements ({expected} bytes), got {n_bytes} bytes")


def _tensor(view: _View, content: bytes | memoryview) -> np.ndarray:
    """The values of a view of a storage whose bytes are ``content``; InputError when it reaches beyond them."""
    kind, numel = view.storage.kind, view.storage.numel
    item = kind.numpy_dtype.itemsize
    _check_size(view.storage, len(content))
    if len(view.size) != len(view.stride):
        raise InputError(f"size {view.size} and stride {view.stride} differ in length")
    count = math.prod(view.size)
    if count == 0:
        return np.zeros(view.size, np.float32)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if last >= numel or count > numel:
        raise InputError(
            f"size {view.size}, stride {view.stride}, offset {view.offset} reach beyond {numel} stored elements"
        )
    flat = np.frombuffer(content, dtype=kind.numpy_dtype, count=numel)[view.offset :]
    strides = tuple(step * item for step in view.stride)
    return widened(np.lib.stride_tricks.as_strided(flat, view.size, strides, writeable=False), kind.dtype)


def _views(loaded: Any) -> dict[str, _View]:
    """The tensors of {'state_dict': ...} or of a bare state dict; ``module.`` and batch counters removed."""
    state = loaded["state_dict"] if isinstance(loaded, dict) and "state_dict" in loaded else loaded
    if not isinstance(state, dict):
        raise InputError(f"expected a state dict ({{name: tensor}}, or under 'state_dict'), got {_seen(state)}")
    views: dict[str, _View] = {}
    for key, view in state.items():
        if not isinstance(key, str):
            raise InputError(f"expected the name of a tensor, got {_seen(key)}")
        name = key.removeprefix("module.")
        if not isinstance(view, _View):
            raise InputError(f"expected a tensor, got {_seen(view)}", name)
        if name in views:
            raise InputError("this tensor comes twice, with and without 'module.'", name)
        if not name.endswith("num_batches_tracked"):
            views[name] = view
    return views


def _arrays(
    views: Mapping[str, _View], content: Callable[[_Storage], bytes | memoryview], file_bytes: int
) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    # half precision doubles on the way in, and a few tensors may share a storage; a thousand that do are an attack
    limit = min(MAX_FILE_BYTES, MAX_GROWTH * file_bytes)
    left = limit
    for name, view in views.items():
        left -= 4 * math.prod(view.size)
        if left < 0:
            raise InputError(f"expected at most {limit} bytes of tensors in a file of {file_bytes} bytes, got more")
        try:
            tensors[name] = _tensor(view, content(view.storage))
        except InputError as error:
            raise error.under(name) from None
    return tensors


def _from_zip(data: bytes) -> dict[str, np.ndarray]:
    """The zip format (torch 1.6 and later): ``<folder>/data.pkl`` beside one stored entry per storage."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = {entry.filename: entry for entry in archive.infolist()}
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise InputError("expected stored entries, got compressed ones: not a file of torch.save", "zip")
        folders = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and "/data.pkl" in name]
        if len(folders) != 1:
            raise InputError("expected one folder with data.pkl, as torch.save writes it", "zip")
        (folder,) = folders
        if f"{folder}byteorder" in entries and archive.read(entries[f"{folder}byteorder"]) != b"little":
            raise InputError("expected little-endian data", "zip")
        # entries may claim the same bytes over and over: together they must fit into the file
        if sum(entry.file_size for entry in entries.values()) > len(data):
            raise InputError("its entries overlap: not a file of torch.save", "zip")
        pickled = archive.read(entries[f"{folder}data.pkl"])
        views = _views(_unpickle(pickled[: _pickle_end(pickled, 0)], _TORCH, persistent=_storage))
        contents: dict[str, bytes] = {}
        for view in views.values():
            key = view.storage.key
            if key not in contents:
                entry_name = f"{folder}data/{key}"
                if entry_name not in entries:
                    raise InputError(f"the storage {_seen(key)} is missing")
                _check_size(view.storage, entries[entry_name].file_size)
                contents[key] = archive.read(entries[entry_name])
        return _arrays(views, lambda storage: contents[storage.key], len(data))
    except InputError:
        raise
    except _BROKEN_ZIP as error:
        raise InputError(f"a damaged zip archive: {error}") from None


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def _from_legacy(data: bytes) -> dict[str, np.ndarray]:
    """The format before torch 1.6: five pickles in a row, then each storage as an int64 count and its elements."""
    position = 0
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        storage = _storage(pid)
        if storages.setdefault(storage.key, storage) != storage:
            raise InputError(f"the storage {_seen(storage.key)} is described in two ways")
        return storage

    def following() -> Any:
        nonlocal position
        start, position = position, _pickle_end(data, position)
        return _unpickle(data[start:position], _TORCH, persistent=persistent)

    if following() != _LEGACY_MAGIC:
        raise InputError("not a file of torch.save")
    version = following()
    if version != _LEGACY_VERSION:
        raise InputError(f"expected version {_LEGACY_VERSION} of torch.save's format, got {_seen(version)}")
    system = following()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("expected little-endian data")
    views = _views(following())
    keys = following()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InputError(f"expected the list of storages, got {_seen(keys)}")
    contents: dict[str, memoryview] = {}
    for key in keys:
        if key not in storages:
            raise InputError(f"a storage that no tensor uses: {_seen(key)}")
        begin = position + 8
        count = int.from_bytes(data[position:begin], "little", signed=True)
        if count != storages[key].numel:
            raise InputError(f"expected {storages[key].numel} elements in storage {_seen(key)}, got {count}")
        position = begin + count * storages[key].kind.numpy_dtype.itemsize
        contents[key] = memoryview(data)[begin:position]

    def content(storage: _Storage) -> memoryview:
        if storage.key not in contents:
            raise InputError(f"the storage {_seen(storage.key)} is missing")
        return contents[storage.key]

    return _arrays(views, content, len(data))


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a ``torch.save`` file (a state dict, bare or under 'state_dict'), without torch.

    Floating types become float32 (bfloat16 exactly); ``num_batches_tracked`` counters are dropped and a leading
    ``module.`` is removed from names. Nothing in the file is run.

    Raises:
        InputError: not such a file, damaged, or a pickle that uses anything but tensors.
    """
    try:
        data = _read(path)
        if data.startswith(b"PK\x03\x04"):
            return _from_zip(data)
        if _LEGACY_MAGIC.to_bytes(10, "little") in data[:32]:
            return _from_legacy(data)
        if data.startswith(b"\x80"):
            _unpickle(data[: _pickle_end(data, 0)], _TORCH)
        raise InputError("not a file of torch.save")
    except InputError as error:
        raise error.from_source(str(path)) from None


# ------------------------------------------------------------------------------------------- numpy's in .tfinit


class _Token(NamedTuple):
    """A name that may be passed around but not called."""

    name: str


class _Encode:
    """Stands in for _codecs.encode, by which Python 3 writes bytes into old pickles."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise InputError(f"bytes written in a form we do not read: {_seen(text)}, {_seen(encoding)}")
        return text.encode("latin-1")


class _DType:
    """A numpy dtype as a pickle describes it."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code: Any = code
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 4 and state[2:5] == (None,) * 3 else None


class _MakeDType:
    """Stands in for numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: Any, *unused: Any) -> _DType:
        return _DType(code)


class _Array:
    """A numpy array as a pickle describes it: (version, shape, dtype, Fortran order, bytes)."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def values(self) -> np.ndarray:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise InputError(f"expected the description of an array, got {_seen(self.state)}")
        _, shape, dtype, fortran, content = self.state
        if not isinstance(dtype, _DType) or dtype.code not in ("f2", "f4", "f8") or dtype.order not in ("<", ">"):
            got = f"{dtype.order}{dtype.code}" if isinstance(dtype, _DType) else _seen(dtype)
            raise InputError(f"expected an array of float16, float32 or float64, got {got}")
        shape, numpy_dtype = _counts(shape, "shape"), np.dtype(dtype.order + dtype.code)
        if isinstance(content, str):  # bytes of a Python 2 pickle, decoded as latin-1
            content = content.encode("latin-1")
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * numpy_dtype.itemsize:
            raise InputError(f"the bytes of the array do not fill its shape {shape}")
        values = np.frombuffer(content, dtype=numpy_dtype).reshape(shape, order="F" if fortran else "C")
        return widened(values, dtype.code)


class _Reconstruct:
    """Stands in for numpy.core.multiarray._reconstruct."""

    __slots__ = ()

    def __call__(self, *unused: Any) -> _Array:
        return _Array()


_NUMPY: Admitted = MappingProxyType(
    {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _Encode(),
        ("numpy", "ndarray"): _Token("ndarray"),
        ("numpy", "dtype"): _MakeDType(),
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    }
)


def read_array_pickle(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """A pickled {name: float array} (Python 2 or 3, protocols 0 to 4), as float32. Nothing in the file is run.

    Raises:
        InputError: not such a file, damaged, or a pickle that uses anything but arrays.
    """
    try:
        data = _read(path)
        loaded = _unpickle(data[: _pickle_end(data, 0)], _NUMPY, encoding="latin-1")
        if not isinstance(loaded, dict):
            raise InputError(f"expected {{name: array}}, got {_seen(loaded)}")
        arrays: dict[str, np.ndarray] = {}
        left = MAX_FILE_BYTES
        for name, value in loaded.items():
            if not isinstance(name, str) or not isinstance(value, _Array):
                raise InputError(f"expected a name and an array, got {_seen(name)}: {_seen(value)}")
            try:
                arrays[name] = value.values()
                left -= arrays[name].nbytes
                if left < 0:
                    raise InputError(f"expected at most {MAX_FILE_BYTES} bytes of arrays, got more")
            except InputError as error:
                raise error.under(name) from None
        return arrays
    except InputError as error:
        raise error.from_source(str(path)) from None
