"""Weight files that are pickles (``.pth``, ``.tfinit``), read without running anything they contain.

A pickle is a program. For the few constructors that tensors need it gets the inert stand-ins of this module, and for
everything else that a checkpoint may hold (settings, optimizers, generators, a person's own classes) a Stranger, which
is whatever it is used as and does nothing: neither torch, nor numpy, nor any other code is called by the pickle.
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
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import open_bytes
from proxyless_arch.base.strict import shown
from proxyless_arch.weights.wrapping import Chosen, choose

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
BROKEN_ZIP = (
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

MAX_STRANGERS = 1000
MAX_ODD_KEYS = 1000
"""Keys that are neither text nor a small whole number: their hashes can be made to collide, and dicts to take hours."""
# what no checkpoint needs, however it is wrapped: a file that names one of these is an attack
_PROGRAM_MODULES = frozenset(
    ("os", "posix", "nt", "subprocess", "commands", "sys", "shutil", "socket", "runpy", "importlib", "ctypes")
)
_PROGRAMS = frozenset(("eval", "exec", "compile", "open", "__import__", "input", "breakpoint"))


class _OddKeys:
    """Counts the keys whose hashes whoever wrote a file can choose: all but texts, bytes and small whole numbers."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, keys: Iterable[Any]) -> None:
        """Raises InputError when there are too many."""
        for key in keys:
            is_small = isinstance(key, int) and -(2**31) <= key < 2**31
            self._count += not (is_small or key is None or isinstance(key, str | bytes | Stranger))
        if self._count > MAX_ODD_KEYS:
            raise InputError(f"a pickle with more than {MAX_ODD_KEYS} keys that are no names")


class _Ordered(OrderedDict[Any, Any]):
    """Stands in for collections.OrderedDict, which old pickles make of a list of pairs."""

    def __init__(self, pairs: Any = ()) -> None:
        given = [tuple(pair) for pair in pairs]
        _OddKeys().add(key for key, _ in given)
        super().__init__(given)


class Stranger(dict[Any, Any]):
    """Stands in for anything that is no part of a tensor: it can be made, called, filled and set, and does nothing.

    What is put into it as into a dict, or set as its attributes, is kept, for a state dict may be in there.
    """

    title: ClassVar[str] = ""
    modules: ClassVar[list[str]] = []
    """Names of the classes of whole modules of the file, which are filled in."""

    def __new__(cls, *given: Any, **also: Any) -> Self:
        # an old pickle makes an object by a function that gets its class
        made: Any = given[0] if given and isinstance(given[0], type) and issubclass(given[0], Stranger) else cls
        new: Self = dict.__new__(made)
        return new

    def __init__(self, *unused: Any, **also: Any) -> None:
        super().__init__()

    def __call__(self, *unused: Any, **also: Any) -> Self:
        return self

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict) and {"_parameters", "_modules"} <= dict.keys(state):
            self.modules.append(self.title)
        elif isinstance(state, dict):
            self.update(dict.items(state))

    def append(self, unused: Any) -> None:
        pass

    extend = add = append
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


def _counting(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    """What an unpickler does at an operation, with the keys among its arguments counted before."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def load_counted(reader: Any) -> None:
        reader.odd_keys.add(reader.stack[keys])
        load(reader)

    return load_counted


_COUNTED = {
    pickle.SETITEM[0]: _counting(pickle.SETITEM, slice(-2, -1)),
    **{each[0]: _counting(each, slice(None, None, 2)) for each in (pickle.SETITEMS, pickle.DICT)},
    **{each[0]: _counting(each, slice(None)) for each in (pickle.ADDITEMS, pickle.FROZENSET)},
}
"""The operations that put keys into dicts and sets."""


class _Unpickler(pickle._Unpickler):
    """An unpickler for which only the ``admitted`` names exist; others are Strangers.

    It is Python's own and not the one in C, so that the keys of dicts and sets can be counted before they are put in:
    hashes of numbers and tuples can be chosen to be equal, and then a file of a megabyte takes minutes.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {**pickle._Unpickler.dispatch, **_COUNTED}

    def __init__(
        self, data: bytes, admitted: Admitted, encoding: str, persistent: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._admitted, self._persistent = admitted, persistent
        self.strangers: dict[str, type[Stranger]] = {}
        self.modules: list[str] = []
        self.odd_keys = _OddKeys()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._admitted:
            return self._admitted[module, name]
        title = f"{module}.{name}"
        if module.partition(".")[0] in _PROGRAM_MODULES or ("builtin" in module and name in _PROGRAMS):
            raise _refused(title)
        if title not in self.strangers:
            if len(self.strangers) == MAX_STRANGERS:
                raise InputError(f"a pickle that names more than {MAX_STRANGERS} things beside tensors")
            members = {"title": title, "modules": self.modules}
            self.strangers[title] = type("Stranger", (Stranger,), members)
        return self.strangers[title]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise InputError("not a weight file we read: the pickle refers to data outside of it")
        return self._persistent(pid)


def _refused(title: str) -> InputError:
    return InputError(
        f"this pickle tried to use {shown(title)[1:-1]}, which a weight file does not need; "
        "it was refused and nothing was run"
    )


class _Loaded(NamedTuple):
    """What a pickle holds, the names it used beside those of tensors, and the classes of whole modules in it."""

    value: Any
    strangers: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


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
) -> _Loaded:
    reader = _Unpickler(data, admitted, encoding, persistent)
    try:
        return _Loaded(reader.load(), tuple(reader.strangers), tuple(reader.modules))
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
    return np.array(values, dtype=np.int64 if values.dtype.kind in "iub" else np.float32, order="C")


# ----------------------------------------------------------------------------------------------- numpy's arrays


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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.state[1] if isinstance(self.state, tuple) and len(self.state) == 5 else ()

    def values(self) -> np.ndarray:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise InputError(f"expected the description of an array, got {_seen(self.state)}")
        _, shape, dtype, fortran, content = self.state
        if isinstance(dtype, _DType) and (dtype.code, dtype.order) == ("u1", "|"):  # pixels
            return self._filled(_counts(shape, "shape"), np.dtype(np.uint8), fortran, content)
        if not isinstance(dtype, _DType) or dtype.code not in ("f2", "f4", "f8") or dtype.order not in ("<", ">"):
            got = f"{dtype.order}{dtype.code}" if isinstance(dtype, _DType) else _seen(dtype)
            raise InputError(f"expected an array of float16, float32 or float64, got {got}")
        values = self._filled(_counts(shape, "shape"), np.dtype(dtype.order + dtype.code), fortran, content)
        return widened(values, dtype.code)

    @staticmethod
    def _filled(shape: tuple[int, ...], dtype: np.dtype, fortran: Any, content: Any) -> np.ndarray:
        if isinstance(content, str):  # bytes of a Python 2 pickle, decoded as latin-1
            content = content.encode("latin-1")
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * dtype.itemsize:
            raise InputError(f"the bytes of the array do not fill its shape {shape}")
        return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C")


class _Reconstruct:
    """Stands in for numpy.core.multiarray._reconstruct."""

    __slots__ = ()

    def __call__(self, *unused: Any) -> _Array:
        return _Array()


class _FromBuffer:
    """Stands in for numpy.core.numeric._frombuffer, as protocol 5 writes an array: (bytes, dtype, shape, order)."""

    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any, *unused: Any) -> _Array:
        array = _Array()
        array.state = (1, shape, dtype, order == "F", bytes(content) if isinstance(content, bytearray) else content)
        return array


_NAMES: Admitted = MappingProxyType(
    {
        ("collections", "OrderedDict"): _Ordered,
        ("_codecs", "encode"): _Encode(),
        ("numpy", "ndarray"): _Token("ndarray"),
        ("numpy", "dtype"): _MakeDType(),
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
        ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
    }
)


# ------------------------------------------------------------------------------------------------ torch's .pth


class _Kind(NamedTuple):
    """A torch storage class: little-endian elements of one type. ``is_read``: weights may have it."""

    name: str
    dtype: str
    is_read: bool = True

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)


_KINDS = (
    _Kind("FloatStorage", "<f4"),
    _Kind("DoubleStorage", "<f8"),
    _Kind("HalfStorage", "<f2"),
    _Kind("BFloat16Storage", "bfloat16"),
    _Kind("LongStorage", "<i8"),
    _Kind("IntStorage", "<i4"),
    _Kind("ShortStorage", "<i2"),
    _Kind("CharStorage", "i1"),
    _Kind("ByteStorage", "u1"),
    _Kind("BoolStorage", "?"),
    _Kind("UntypedStorage", "u1", is_read=False),
    _Kind("ComplexFloatStorage", "<c8", is_read=False),
    _Kind("ComplexDoubleStorage", "<c16", is_read=False),
    _Kind("QInt8Storage", "i1", is_read=False),
    _Kind("QUInt8Storage", "u1", is_read=False),
    _Kind("QInt32Storage", "<i4", is_read=False),
)


class _Storage(NamedTuple):
    """A block of elements kept outside of the pickle."""

    kind: _Kind
    key: str
    numel: int
    content: bytes | memoryview | None = None
    """Its bytes, where the pickle has them in itself."""


class _View(NamedTuple):
    """A tensor before its storage is read; size, stride and offset count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size


class _RebuildTensor:
    """Stands in for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> _View:
        if not isinstance(storage, _Storage) or not _is_count(offset):
            raise InputError(f"a tensor that is not a view of a storage: {_seen(storage)}, offset {_seen(offset)}")
        return _View(storage, offset, _counts(size, "size"), _counts(stride, "stride"))


class _RebuildParameter:
    """Stands in for torch._utils._rebuild_parameter and _rebuild_parameter_with_state."""

    __slots__ = ()

    def __call__(self, data: Any, *unused: Any) -> Any:
        return data


class _RebuildFromType:
    """Stands in for torch._tensor._rebuild_from_type_v2: (function, class, arguments, state) of a tensor's subclass."""

    __slots__ = ()

    def __call__(self, function: Any, kind: Any, arguments: Any, *unused: Any) -> Any:
        if not isinstance(function, _RebuildTensor | _RebuildParameter) or not isinstance(arguments, tuple):
            return Stranger()
        return function(*arguments)


class _LoadFromBytes:
    """Stands in for torch.storage._load_from_bytes: a storage as a file of torch.save within a plain pickle."""

    __slots__ = ()

    def __call__(self, data: Any) -> _Storage:
        if not isinstance(data, bytes) or not _is_legacy(data):
            raise _refused("torch.storage._load_from_bytes")
        loaded, contents = _legacy_parts(data)
        if not isinstance(loaded.value, _Storage):
            raise InputError(f"expected a storage, got {_seen(loaded.value)}")
        return loaded.value._replace(content=contents.get(loaded.value.key))


_TORCH: Admitted = MappingProxyType(
    {
        **_NAMES,
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
        ("torch._tensor", "_rebuild_from_type_v2"): _RebuildFromType(),
        ("torch.storage", "_load_from_bytes"): _LoadFromBytes(),
        **{(module, kind.name): kind for module in ("torch", "torch.storage", "torch.cuda") for kind in _KINDS},
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
    """Whether a storage has elements that weights have, stored in as many bytes as they take."""
    if not storage.kind.is_read:
        raise _refused(f"torch.{storage.kind.name}")
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


def _chosen(loaded: _Loaded, wanted: Mapping[str, Any]) -> Chosen[_View | _Array]:
    """The network's tensors among what a pickle holds. InputError when there are none, which says what was there."""
    try:
        chosen: Chosen[_View | _Array] = choose(loaded.value, (_View, _Array), wanted)
    except InputError as error:
        if loaded.modules:
            raise _whole_module(loaded.modules[0]) from None
        if loaded.strangers:
            raise _refused(loaded.strangers[0]) from None
        raise error from None
    if loaded.modules and not chosen.is_ours:
        raise _whole_module(loaded.modules[0])
    return chosen


def _whole_module(title: str) -> InputError:
    return InputError(
        f"this pickle tried to use {shown(title)[1:-1]}: it holds a whole module, which only the module's own code "
        "could read, not weights; nothing was run. Where that code is: torch.save(module.state_dict(), FILE)"
    )


Content = Callable[[_Storage], bytes | memoryview]


def _arrays(views: Mapping[str, _View | _Array], content: Content, file_bytes: int) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    # half precision doubles on the way in, and a few tensors may share a storage; a thousand that do are an attack
    limit = min(MAX_FILE_BYTES, MAX_GROWTH * file_bytes)
    left = limit
    for name, view in views.items():
        try:
            left -= 4 * math.prod(_counts(view.shape, "shape"))
            if left < 0:
                raise InputError(f"expected at most {limit} bytes of tensors in a file of {file_bytes} bytes, got more")
            tensors[name] = view.values() if isinstance(view, _Array) else _tensor(view, content(view.storage))
        except InputError as error:
            raise error.under(name) from None
    return tensors


def _from_zip(data: bytes, wanted: Mapping[str, Any]) -> Chosen[np.ndarray]:
    """The zip format (torch 1.6 and later): ``<folder>/data.pkl`` beside one stored entry per storage."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = {entry.filename: entry for entry in archive.infolist()}
        folder = _folder_of(entries)
        if f"{folder}byteorder" in entries and archive.read(entries[f"{folder}byteorder"]) != b"little":
            raise InputError("expected little-endian data", "zip")
        # entries may claim the same bytes over and over: together they must fit into the file
        if sum(entry.file_size for entry in entries.values()) > len(data):
            raise InputError("its entries overlap: not a file of torch.save", "zip")
        pickled = archive.read(entries[f"{folder}data.pkl"])
        chosen = _chosen(_unpickle(pickled[: _pickle_end(pickled, 0)], _TORCH, persistent=_storage), wanted)

        def content(storage: _Storage) -> bytes:
            entry = entries.get(f"{folder}data/{storage.key}")
            if entry is None:
                raise InputError(f"the storage {_seen(storage.key)} is missing")
            _check_size(storage, entry.file_size)
            return archive.read(entry)

        return Chosen(_arrays(chosen.tensors, content, len(data)), chosen.note, chosen.is_ours)
    except InputError:
        raise
    except BROKEN_ZIP as error:
        raise InputError(f"a zip archive that is cut off or damaged: {error}") from None


def _folder_of(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """The folder of an archive of torch.save."""
    folders = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and "/data.pkl" in name]
    if any("/code/" in name for name in entries):
        problem = (
            "a TorchScript program, not weights; where torch is: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
        raise InputError(problem, "zip")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InputError("expected stored entries, got compressed ones: not a file of torch.save", "zip")
    if len(folders) != 1:
        found = f", found {', '.join([*entries][:3])}{', ...' if len(entries) > 3 else ''}" if entries else ""
        raise InputError(f"expected one folder with data.pkl, as torch.save writes it{found}", "zip")
    return folders[0]


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def _is_legacy(data: bytes) -> bool:
    return _LEGACY_MAGIC.to_bytes(10, "little") in data[:32]


def _legacy_parts(data: bytes) -> tuple[_Loaded, dict[str, memoryview]]:
    """(what the file holds, the bytes of its storages by their keys).

    The format before torch 1.6: five pickles in a row, then each storage as an int64 count and its elements.
    """
    position = 0
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        storage = _storage(pid)
        if storages.setdefault(storage.key, storage) != storage:
            raise InputError(f"the storage {_seen(storage.key)} is described in two ways")
        return storage

    def following() -> _Loaded:
        nonlocal position
        start, position = position, _pickle_end(data, position)
        return _unpickle(data[start:position], _TORCH, persistent=persistent)

    if following().value != _LEGACY_MAGIC:
        raise InputError("not a file of torch.save")
    version = following().value
    if version != _LEGACY_VERSION:
        raise InputError(f"expected version {_LEGACY_VERSION} of torch.save's format, got {_seen(version)}")
    system = following().value
    if not isinstance(system, dict) or dict.get(system, "little_endian") is not True:
        raise InputError("expected little-endian data")
    loaded, keys = following(), following().value
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
    return loaded, contents


def _from_legacy(data: bytes, wanted: Mapping[str, Any]) -> Chosen[np.ndarray]:
    loaded, contents = _legacy_parts(data)
    chosen = _chosen(loaded, wanted)

    def content(storage: _Storage) -> memoryview:
        if storage.key not in contents:
            raise InputError(f"the storage {_seen(storage.key)} is missing")
        return contents[storage.key]

    return Chosen(_arrays(chosen.tensors, content, len(data)), chosen.note, chosen.is_ours)


def _from_pickle(data: bytes, wanted: Mapping[str, Any]) -> Chosen[np.ndarray]:
    """A plain pickle (Python 2 or 3) with arrays of numpy or tensors of torch in it."""

    def content(storage: _Storage) -> bytes | memoryview:
        if storage.content is None:
            raise InputError(f"the storage {_seen(storage.key)} is missing")
        return storage.content

    loaded = _unpickle(data[: _pickle_end(data, 0)], _TORCH, encoding="latin-1")
    chosen = _chosen(loaded, wanted)
    return Chosen(_arrays(chosen.tensors, content, len(data)), chosen.note, chosen.is_ours)


def read_checkpoint(
    path: str | os.PathLike[str], wanted: Mapping[str, Any] = MappingProxyType({})
) -> Chosen[np.ndarray]:
    """A network's tensors in a file of ``torch.save`` or a plain pickle, without torch and however they are wrapped.

    Floating types become float32 (bfloat16 exactly), integers int64. What is taken and what their names are:
    wrapping.py. Nothing in the file is run.

    Args:
        wanted: ``{name: shape}`` of the network they are for, which decides between several in the file.

    Raises:
        InputError: not such a file, damaged, a whole module, or one that names what would run code.
    """
    try:
        data = _read(path)
        if data.startswith(b"PK\x03\x04"):
            return _from_zip(data, wanted)
        return _from_legacy(data, wanted) if _is_legacy(data) else _from_pickle(data, wanted)
    except InputError as error:
        raise error.from_source(str(path)) from None


def read_plain_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A pickled dict of plain values and arrays (CIFAR's batches, of Python 2), strings as text. Nothing is run.

    Raises:
        InputError: not such a file, damaged, or a pickle that uses anything but arrays and plain values.
    """
    try:
        data = _read(path)
        loaded = _unpickle(data[: _pickle_end(data, 0)], _TORCH, encoding="latin-1").value
        if type(loaded) is not dict or not all(isinstance(name, str) for name in loaded):
            raise InputError(f"expected {{name: value}}, got {_seen(loaded)}")
        return {name: value.values() if isinstance(value, _Array) else value for name, value in loaded.items()}
    except InputError as error:
        raise error.from_source(str(path)) from None
