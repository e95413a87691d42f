"""Weights with the network they belong to: ``.safetensors`` and ``.h5`` written and read, other formats read.

Everywhere a network's weights are NamedTensors: names and layouts of the released ``.pth`` files (tensors.py), as
float32. The formats that hold a spec beside the weights give it back; the others are checked against a spec that
the caller knows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from proxyless_arch.arch.codec import parse_spec, spec_to_json
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path, open_bytes, parse_json, read_bytes
from proxyless_arch.base.strict import listed
from proxyless_arch.weights import hdf5
from proxyless_arch.weights.pickles import read_array_pickle, read_pth, widened

NamedTensors = dict[str, np.ndarray]

FORMAT = "proxyless-arch/weights"
VERSION = 1
KERAS_SUFFIX = ".weights.h5"
SHOWN_TENSORS = 8


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The contents of a weight file. ``spec`` is None when neither the file nor the caller knew the network."""

    spec: ArchSpec | None
    tensors: NamedTensors
    provenance: dict[str, Any] = field(default_factory=dict)


# --------------------------------------------------------------------------------------------------- the contract


def _some(items: Iterable[str], what: str) -> list[str]:
    """``["12 missing (a, b, ... and 4 more)"]``, or nothing when there are none."""
    every = list(items)
    if not every:
        return []
    more = f", and {len(every) - SHOWN_TENSORS} more" if len(every) > SHOWN_TENSORS else ""
    return [f"{len(every)} {what} ({', '.join(every[:SHOWN_TENSORS])}{more})"]


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def check_tensors(tensors: Mapping[str, np.ndarray], spec: ArchSpec, source: str | None = None) -> None:
    """Whether ``tensors`` are exactly the floating-point weights of ``spec``.

    Raises:
        InputError: one error with the missing, unexpected and wrongly shaped tensors (the first few of each).
    """
    expected = expected_tensors(spec)
    both = [name for name in expected if name in tensors]
    problems = [
        *_some((name for name in expected if name not in tensors), "missing"),
        *_some((name for name in tensors if name not in expected), "unexpected"),
        *_some(
            (
                f"{name}: expected {_shape(expected[name])}, got {_shape(tensors[name].shape)}"
                for name in both
                if tensors[name].shape != expected[name]
            ),
            "of another shape",
        ),
        *_some((f"{n}: {tensors[n].dtype}" for n in both if tensors[n].dtype.kind != "f"), "not floating-point"),
    ]
    if problems:
        raise InputError(f"the tensors are not those of {spec.name!r}: {'; '.join(problems)}", source=source)


def _check_same_network(found: ArchSpec, wanted: ArchSpec, source: str) -> None:
    """The network a file holds must be the one asked for; name, preprocessing and training constants may differ."""
    for place in ("stem", "blocks", "feature_mix", "padding"):
        if getattr(found, place) != getattr(wanted, place):
            raise InputError(f"the file's network {found.name!r} differs from {wanted.name!r} there", place, source)
    if found.num_classes != wanted.num_classes:
        raise InputError(f"expected {wanted.num_classes}, got {found.num_classes}", "num_classes", source)
    if found.bn.eps != wanted.bn.eps:
        raise InputError(f"expected {wanted.bn.eps}, got {found.bn.eps}", "bn.eps", source)


# ------------------------------------------------------------------------------------------- TensorFlow's layouts


_TO_TF: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "convolution": (2, 3, 1, 0),  # out, in, k, k -> k, k, in, out
        "depthwise": (2, 3, 0, 1),  # C, 1, k, k -> k, k, C, 1
        "linear": (1, 0),  # out, in -> in, out
    }
)


def _tf_axes(name: str, rank: int) -> tuple[int, ...]:
    """Axes that carry the tensor ``name`` from torch's layout to TensorFlow's; vectors stay as they are."""
    if rank == 4:
        return _TO_TF["depthwise" if name.endswith(".depth_conv.conv.weight") else "convolution"]
    return _TO_TF["linear"] if rank == 2 else tuple(range(rank))


def to_tf_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of the contract in TensorFlow's layout (a contiguous copy)."""
    return np.array(tensor.transpose(_tf_axes(name, tensor.ndim)), order="C")


def from_tf_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """The inverse of to_tf_layout."""
    axes = _tf_axes(name, tensor.ndim)
    return np.array(tensor.transpose([axes.index(axis) for axis in range(len(axes))]), order="C")


# ------------------------------------------------------------------------------------------------------- our .h5


# HDF5 leaves the first 512 bytes to the user. There save_h5 writes its mark and a sha256 of all that follows, so that
# a damaged or foreign file is refused before the HDF5 library, which can crash on one, parses it.
_USER_BLOCK = 512


def _seal(content: bytes) -> bytes:
    """The user block in front of ``content``."""
    text = f"{FORMAT} {VERSION}\nsha256 {hashlib.sha256(content).hexdigest()}\n"
    return text.encode().ljust(_USER_BLOCK, b"\0")


def _check_seal(data: bytes) -> None:
    if not data.startswith(f"{FORMAT} {VERSION}\n".encode()):
        raise InputError(f"expected a file of {FORMAT}, version {VERSION}")
    if data[:_USER_BLOCK] != _seal(data[_USER_BLOCK:]):
        raise InputError("its contents do not match its sha256: the file was truncated, altered or damaged")


def _ready(spec: ArchSpec, tensors: Mapping[str, np.ndarray]) -> NamedTensors:
    """Checked tensors in network order, as little-endian float32."""
    check_tensors(tensors, spec)
    return {name: np.array(tensors[name], dtype="<f4", order="C") for name in expected_tensors(spec)}


def _provenance_text(provenance: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected JSON values: {error}", "provenance") from None


def _provenance(text: str, source: str) -> dict[str, Any]:
    value = parse_json(text, source)
    if not isinstance(value, dict):
        raise InputError("expected an object", "provenance", source)
    return value


def save_h5(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    tensors: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
) -> None:
    """Write a network, its preprocessing and its weights (float32) as one HDF5 file, atomically.

    Args:
        provenance: where the weights come from, as JSON values (command, data, versions, scores).

    Raises:
        InputError: the tensors are not those of ``spec``, or ``provenance`` is not JSON.
    """
    import h5py

    ready, spec_text, provenance_text = _ready(spec, tensors), spec_to_json(spec), _provenance_text(provenance)
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w", userblock_size=_USER_BLOCK) as file:
            file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
            file.attrs["spec"], file.attrs["provenance"] = spec_text, provenance_text
            group = file.create_group("tensors", track_order=True)
            for name, tensor in ready.items():
                group.create_dataset(name, data=tensor)
        with open(temporary, "r+b") as raw:
            raw.seek(_USER_BLOCK)
            seal = _seal(raw.read())
            raw.seek(0)
            raw.write(seal)


def _text(found: hdf5.Contents, name: str) -> str:
    value = found.attributes.get(f"@{name}")
    if not isinstance(value, str):
        raise InputError(f"expected a file of {FORMAT}: the text attribute {name!r} is missing")
    return value


def _read_h5(data: bytes, source: str) -> WeightFile:
    found = hdf5.read(data)
    if _text(found, "format") != FORMAT:
        raise InputError(f"expected format {FORMAT!r}, got {_text(found, 'format')!r}")
    if found.attributes.get("@version") != VERSION:
        raise InputError(f"expected version {VERSION} of {FORMAT}")
    spec, provenance = parse_spec(_text(found, "spec"), source), _provenance(_text(found, "provenance"), source)
    tensors = {place.removeprefix("tensors/"): array for place, array in found.arrays.items()}
    check_tensors(tensors, spec)
    for name, tensor in tensors.items():
        if tensor.dtype != np.dtype("<f4"):
            raise InputError(f"expected float32, got {tensor.dtype}", name)
    return WeightFile(
        spec=spec, tensors={name: tensors[name] for name in expected_tensors(spec)}, provenance=provenance
    )


def load_h5(path: str | os.PathLike[str]) -> WeightFile:
    """The network, weights and provenance of a file of save_h5; its sha256 is verified first.

    The sha256 finds damage; it is no signature. The HDF5 library, which is not made for hostile files, reads it in a
    process of its own.

    Raises:
        InputError: missing, truncated, altered, or another kind of HDF5 file.
    """
    source = str(path)
    try:
        data = read_bytes(path)
        _check_seal(data)
        return _read_h5(data, source)  # the bytes that were verified, whatever happens to the file meanwhile
    except InputError as error:
        raise error.from_source(source) from None


# -------------------------------------------------------------------------------------------------- other formats


def load_pth(path: str | os.PathLike[str]) -> NamedTensors:
    """The tensors of a torch.save file, read without torch and without running it (see pickles.read_pth)."""
    return read_pth(path)


def load_tfinit(path: str | os.PathLike[str]) -> NamedTensors:
    """The tensors of a released ``.tfinit`` (a pickle of ``{name with '/': array}``), in our names and layouts."""
    arrays = read_array_pickle(path)
    names = {name: name.replace("/", ".") for name in arrays}
    if len(set(names.values())) != len(names):
        raise InputError("two of its names differ only in '/' and '.'", source=str(path))
    return {names[name]: from_tf_layout(names[name], array) for name, array in arrays.items()}


def save_safetensors(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    tensors: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
) -> None:
    """Write a network, its preprocessing and its weights (float32) as ``.safetensors``, atomically.

    Spec and provenance are metadata, with a sha256 of the tensors. The same contents make the same bytes (the
    library's own writer puts its metadata in another order each time).

    Args:
        provenance: where the weights come from, as JSON values (command, data, versions, scores).

    Raises:
        InputError: the tensors are not those of ``spec``, or ``provenance`` is not JSON.
    """
    ready = _ready(spec, tensors)
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(VERSION),
            "spec": spec_to_json(spec),
            "provenance": _provenance_text(provenance),
            "sha256": tensors_sha256(ready),
        }
    }
    end = 0
    for name, tensor in ready.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(tensor.tobytes() for tensor in ready.values())


_SAFETENSORS_DTYPES: Mapping[str, str] = MappingProxyType(
    {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "BF16": "bfloat16"}
)


def load_safetensors(path: str | os.PathLike[str]) -> WeightFile:
    """The tensors of a ``.safetensors`` file as float32, with the spec and provenance when we wrote it.

    Raises:
        InputError: missing, damaged, or an element type that weights do not have.
    """
    import safetensors

    source, data = str(path), read_bytes(path)
    try:
        entries = safetensors.deserialize(data)
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        raise InputError(f"a damaged safetensors file, or not one: {error}", source=source) from None
    tensors: NamedTensors = {}
    for name, entry in entries:
        if name.endswith("num_batches_tracked"):
            continue
        kind = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if kind is None:
            raise InputError(f"expected {listed(_SAFETENSORS_DTYPES)}, got {entry['dtype']}", name, source)
        bits = np.frombuffer(entry["data"], dtype="<u2" if kind == "bfloat16" else kind)
        try:
            tensors[name] = widened(bits.reshape(entry["shape"]), kind)
        except (ValueError, OverflowError) as error:  # empty, with more or larger sides than an array can have
            raise InputError(f"not the shape of an array: {error}", name, source) from None
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], source)
    metadata = header.get("__metadata__") or {}
    if metadata.get("format") != FORMAT:
        return WeightFile(spec=None, tensors=tensors)
    if not {"spec", "provenance"} <= metadata.keys():
        raise InputError("expected 'spec' and 'provenance' in its metadata", source=source)
    if metadata.get("version", str(VERSION)) != str(VERSION):  # the first ones had none, nor a sha256
        raise InputError(f"expected version {VERSION} of {FORMAT}, got {metadata['version']!r}", source=source)
    spec, provenance = parse_spec(metadata["spec"], source), _provenance(metadata["provenance"], source)
    check_tensors(tensors, spec, source)
    if metadata.get("sha256", tensors_sha256(tensors)) != tensors_sha256(tensors):
        raise InputError("its tensors do not match its sha256: the file was altered or damaged", source=source)
    return WeightFile(
        spec=spec, tensors={name: tensors[name] for name in expected_tensors(spec)}, provenance=provenance
    )


def _bare(load: Callable[[str | os.PathLike[str]], NamedTensors]) -> Callable[[str | os.PathLike[str]], WeightFile]:
    return lambda path: WeightFile(spec=None, tensors=load(path))


_READERS: Mapping[str, Callable[[str | os.PathLike[str]], WeightFile]] = MappingProxyType(
    {
        ".h5": load_h5,
        ".hdf5": load_h5,
        ".safetensors": load_safetensors,
        ".pth": _bare(load_pth),
        ".pt": _bare(load_pth),
        ".tfinit": _bare(load_tfinit),
    }
)


_WRITERS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {".h5": save_h5, ".hdf5": save_h5, ".safetensors": save_safetensors}
)


def read_tensors(path: str | os.PathLike[str], spec: ArchSpec | None = None) -> WeightFile:
    """The weights in a file of any format read here, which its extension names.

    Args:
        spec: the network they are for. The tensors are checked against it; where the file holds its own spec, both
            must describe the same network, and the file's is returned (its preprocessing belongs to the weights).

    Raises:
        InputError: an unknown extension, a bad file, or the weights of another network.
    """
    source, extension = str(path), Path(path).suffix.lower()
    if source.lower().endswith(KERAS_SUFFIX):
        raise InputError(
            f"{KERAS_SUFFIX} files are Keras's own, which eval_tf.py and proxyless_nas_tensorflow read; its "
            "weights.load_weights(spec, file), then weights.save_weights('net.h5', net, {}), make a file for both zoos",
            source=source,
        )
    if extension not in _READERS:
        raise InputError(f"expected a file that ends in {listed(_READERS)}, got {extension!r}", source=source)
    found = _READERS[extension](path)
    return found if spec is None else matched(found, spec, source)


def matched(found: WeightFile, spec: ArchSpec, source: str) -> WeightFile:
    """``found``, which must hold the weights of ``spec``'s network, with a spec (its own where it has one).

    Raises:
        InputError: the weights of another network.
    """
    check_tensors(found.tensors, spec, source)
    if found.spec is not None:
        _check_same_network(found.spec, spec, source)  # stride, padding and eps show in no tensor
        return found
    return replace(found, spec=spec, tensors={name: found.tensors[name] for name in expected_tensors(spec)})


def save_tensors(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    tensors: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
    *,
    also: Iterable[str] = (),
) -> None:
    """Write a network and its weights in the format that the extension names, ``.h5`` or ``.safetensors``.

    Args:
        also: extensions that the caller writes itself, for the message about one that nobody does.

    Raises:
        InputError: another extension, tensors that are not those of ``spec``, or ``provenance`` is not JSON.
    """
    extension = Path(path).suffix.lower()
    if extension not in _WRITERS:
        every = listed((*_WRITERS, *also))
        raise InputError(f"expected a file that ends in {every}, got {extension!r}", source=str(path))
    if Path(path).name.lower().endswith(KERAS_SUFFIX):
        raise InputError(
            f"{KERAS_SUFFIX} is the name of Keras files, which proxyless_nas_tensorflow writes", source=str(path)
        )
    _WRITERS[extension](path, spec, tensors, provenance)


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """One digest of all names, shapes and float32 values: the same in whatever file and order the tensors are kept."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
    return digest.hexdigest()


def git_blob_sha1(path: str | os.PathLike[str]) -> str:
    """The id git gives a file: sha1 of ``blob <length>``, a zero byte and the contents (read in pieces)."""
    with open_bytes(path) as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
