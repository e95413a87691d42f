"""Weights with the network they belong to: ``.safetensors`` and ``.h5`` written and read, other formats read.

What a file is shows in its first bytes, whatever it is called.

Everywhere a network's weights are NamedTensors: names and layouts of the released ``.pth`` files (tensors.py), as
float32. The formats that hold a spec beside the weights give it back; the others are checked against a spec that
the caller knows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from proxyless_arch.arch.bits import BitPlan, check_plan, parse_plan, plan_to_json
from proxyless_arch.arch.codec import parse_spec, spec_to_json
from proxyless_arch.arch.spec import GREY, ArchSpec, with_channels
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path, open_bytes, parse_json, read_bytes
from proxyless_arch.base.strict import listed
from proxyless_arch.weights import hdf5
from proxyless_arch.weights.channels import SUMMED, for_channels, is_for_rgb
from proxyless_arch.weights.keras_files import is_keras_archive, read_keras_archive, read_keras_hdf5
from proxyless_arch.weights.layout import from_tf_layout as from_tf_layout
from proxyless_arch.weights.layout import to_tf_layout as to_tf_layout
from proxyless_arch.weights.pickles import read_checkpoint, widened
from proxyless_arch.weights.shards import file_in, is_index, parts_of, refuse_one_part
from proxyless_arch.weights.wrapping import choose

NamedTensors = dict[str, np.ndarray]

FORMAT = "proxyless-arch/weights"
VERSION = 1
KERAS_SUFFIX = ".weights.h5"
SHOWN_TENSORS = 8


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The contents of a weight file. ``spec`` is None when neither the file nor the caller knew the network.

    ``note`` says, for a person, which of several networks in the file was taken and what was left out of it. ``bits``:
    the plan that the weights are for, where the file has one; they themselves are not rounded.
    """

    spec: ArchSpec | None
    tensors: NamedTensors
    provenance: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    bits: BitPlan | None = None


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
    """Whether ``tensors`` are exactly the floating-point weights of ``spec``, all numbers finite.

    Raises:
        InputError: one error with the missing, unexpected, wrongly shaped and not finite tensors (the first few of
            each).
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
        *_some((n for n in both if tensors[n].dtype.kind == "f" and not np.isfinite(tensors[n]).all()), "not finite"),
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


def _bits_metadata(bits: BitPlan | None, spec: ArchSpec) -> dict[str, str]:
    """What a file says of its plan; nothing without one. Raises InputError for one of another network."""
    if bits is None:
        return {}
    check_plan(bits, spec)
    return {"bits": plan_to_json(bits)}


def _bits_of(text: object, spec: ArchSpec, source: str) -> BitPlan | None:
    """The inverse of _bits_metadata."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputError("expected a text", "bits", source)
    plan = parse_plan(text, source)
    check_plan(plan, spec, source)
    return plan


def save_h5(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    tensors: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
    bits: BitPlan | None = None,
) -> None:
    """Write a network, its preprocessing and its weights (float32) as one HDF5 file, atomically.

    Args:
        provenance: where the weights come from, as JSON values (command, data, versions, scores).
        bits: the plan that they are for.

    Raises:
        InputError: the tensors are not those of ``spec``, or ``provenance`` is not JSON, or a plan of another network.
    """
    import h5py

    ready, spec_text, provenance_text = _ready(spec, tensors), spec_to_json(spec), _provenance_text(provenance)
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w", userblock_size=_USER_BLOCK) as file:
            file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
            file.attrs["spec"], file.attrs["provenance"] = spec_text, provenance_text
            file.attrs.update(_bits_metadata(bits, spec))
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
        spec=spec,
        tensors={name: tensors[name] for name in expected_tensors(spec)},
        provenance=provenance,
        bits=_bits_of(found.attributes.get("@bits"), spec, source),
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
    """The tensors of a torch.save file, read without torch and without running it (see pickles.read_checkpoint)."""
    return read_checkpoint(path).tensors


def _load_pickle(path: str | os.PathLike[str], spec: ArchSpec | None) -> WeightFile:
    """A file of torch.save, or a ``.tfinit``: arrays whose names have '/' are in TensorFlow's layout."""
    found = read_checkpoint(path, {} if spec is None else expected_tensors(spec))
    if not any("/" in name for name in found.tensors):
        return WeightFile(spec=None, tensors=found.tensors, note=found.note)
    names = {name: name.replace("/", ".") for name in found.tensors}
    if len(set(names.values())) != len(names):
        raise InputError("two of its names differ only in '/' and '.'", source=str(path))
    tensors = {names[name]: from_tf_layout(names[name], array) for name, array in found.tensors.items()}
    return WeightFile(spec=None, tensors=tensors, note=found.note)


def save_safetensors(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    tensors: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
    bits: BitPlan | None = None,
) -> None:
    """Write a network, its preprocessing and its weights (float32) as ``.safetensors``, atomically.

    Spec and provenance are metadata, with a sha256 of the tensors. The same contents make the same bytes (the
    library's own writer puts its metadata in another order each time).

    Args:
        provenance: where the weights come from, as JSON values (command, data, versions, scores).
        bits: the plan that they are for.

    Raises:
        InputError: the tensors are not those of ``spec``, or ``provenance`` is not JSON, or a plan of another network.
    """
    ready = _ready(spec, tensors)
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(VERSION),
            "spec": spec_to_json(spec),
            "provenance": _provenance_text(provenance),
            **_bits_metadata(bits, spec),
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


@dataclass(frozen=True)
class _Entry:
    """A tensor of a ``.safetensors`` file before it is read."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> np.ndarray:
        kind = _SAFETENSORS_DTYPES.get(self.dtype)
        if kind is None:
            raise InputError(f"expected {listed(_SAFETENSORS_DTYPES)}, got {self.dtype}")
        bits = np.frombuffer(self.data, dtype="<u2" if kind == "bfloat16" else kind)
        try:
            return widened(bits.reshape(self.shape), kind)
        except (ValueError, OverflowError) as error:  # empty, with more or larger sides than an array can have
            raise InputError(f"not the shape of an array: {error}") from None


def load_safetensors(path: str | os.PathLike[str], spec: ArchSpec | None = None) -> WeightFile:
    """The tensors of a ``.safetensors`` file as float32, with the spec and provenance when we wrote it.

    Args:
        spec: the network they are for, which decides between several in a file that we did not write.

    Raises:
        InputError: missing, damaged, or an element type that weights do not have.
    """
    import safetensors

    source, data = str(path), read_bytes(path)
    try:
        entries = safetensors.deserialize(data)
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        raise InputError(f"a damaged safetensors file, or not one: {error}", source=source) from None
    tree = {name: _Entry(entry["dtype"], tuple(entry["shape"]), entry["data"]) for name, entry in entries}
    try:
        chosen = choose(tree, _Entry, {} if spec is None else expected_tensors(spec))
    except InputError as error:
        raise error.from_source(source) from None
    tensors: NamedTensors = {}
    for name, entry in chosen.tensors.items():
        try:
            tensors[name] = entry.values()
        except InputError as error:
            raise error.under(name).from_source(source) from None
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], source)
    metadata = header.get("__metadata__") or {}
    if metadata.get("format") != FORMAT:
        return WeightFile(spec=None, tensors=tensors, note=chosen.note)
    if not {"spec", "provenance"} <= metadata.keys():
        raise InputError("expected 'spec' and 'provenance' in its metadata", source=source)
    if metadata.get("version", str(VERSION)) != str(VERSION):  # the first ones had none, nor a sha256
        raise InputError(f"expected version {VERSION} of {FORMAT}, got {metadata['version']!r}", source=source)
    spec, provenance = parse_spec(metadata["spec"], source), _provenance(metadata["provenance"], source)
    check_tensors(tensors, spec, source)
    if metadata.get("sha256", tensors_sha256(tensors)) != tensors_sha256(tensors):
        raise InputError("its tensors do not match its sha256: the file was altered or damaged", source=source)
    return WeightFile(
        spec=spec,
        tensors={name: tensors[name] for name in expected_tensors(spec)},
        provenance=provenance,
        bits=_bits_of(metadata.get("bits"), spec, source),
    )


_WRITERS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {".h5": save_h5, ".hdf5": save_h5, ".safetensors": save_safetensors}
)


_HDF5 = b"\x89HDF\r\n\x1a\n"
_EXPORTED = (".onnx", ".tflite", ".ort", ".pte", ".pt2", ".mlpackage", ".pb")
READ = (".safetensors", ".h5", ".keras", ".weights.h5", ".pth", ".tfinit")
"""The kinds of files that read_tensors knows by their contents, as they are most often called."""


def weight_kind(path: str | os.PathLike[str]) -> str:
    """What the first bytes of a file show: 'ours' (.h5), 'hdf5', 'zip', 'safetensors', 'pickle', 'text' or ''.

    Raises:
        InputError: no such file.
    """
    with open_bytes(path) as file:
        start = file.read(64)
    if start.startswith(f"{FORMAT} ".encode()):
        return "ours"
    if start.startswith(_HDF5):
        return "hdf5"
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return "safetensors"
    if start[:1] == b"\x80" or start[:2] in (b"(d", b"}q", b"}(", b"cc", b"cO"):  # protocol 2 and later; 0 and 1
        return "pickle"
    return "text" if start.lstrip()[:1] in (b"{", b"[", b"<") else ""


def read_tensors(path: str | os.PathLike[str], spec: ArchSpec | None = None) -> WeightFile:
    """The weights in a file of any format read here, which its contents show; in a folder that holds one; or in
    several files, by their index.

    Args:
        spec: the network they are for. The tensors are checked against it; where the file holds its own spec, both
            must describe the same network, and the file's is returned (its preprocessing belongs to the weights).

    Raises:
        InputError: no weight file, a bad one, or the weights of another network.
    """
    source = str(path)
    try:
        found = _read_any(path, spec)
    except InputError as error:
        raise error.from_source(source) from None
    return found if spec is None else matched(found, spec, source)


NOT_THE_FILE: Mapping[bytes, str] = MappingProxyType(
    {
        b"version https://git-lfs": "a Git LFS pointer, not the weights: fetch them with git lfs pull",
        b"<!doctype html": "a web page, not the weights: download them again, by the link to the file itself",
        b"<html": "a web page, not the weights: download them again, by the link to the file itself",
        b"\x1f\x8b": "compressed with gzip: unpack it first",
        b"BZh": "compressed with bzip2: unpack it first",
        b"\xfd7zXZ": "compressed with xz: unpack it first",
        b"7z\xbc\xaf": "a 7z archive: unpack it first",
    }
)
"""How a file begins that stands where weights should be, and what to do about it."""


def _check_is_the_file(path: str | os.PathLike[str]) -> None:
    """Raises InputError where it is empty, or something that people have in place of weights."""
    with open_bytes(path) as file:
        start = file.read(512).lstrip().lower()[:64] or file.read(1)
    if not start:
        raise InputError("an empty file: the download or the copy did not end")
    for beginning, what in NOT_THE_FILE.items():
        if start.startswith(beginning.lower()):
            raise InputError(what)


def _read_any(path: str | os.PathLike[str], spec: ArchSpec | None) -> WeightFile:
    """What read_tensors reads, from a file, from several with their index, or from the one in a folder."""
    where = Path(path)
    if where.is_dir():
        where = file_in(where)
    try:
        if is_index(where):
            return _joined([_read_file(part, None) for part in parts_of(where)])
        refuse_one_part(where)
        return _read_file(where, spec)
    except InputError as error:
        raise error.from_source(str(where)) from None


def _joined(parts: Sequence[WeightFile]) -> WeightFile:
    """The weights that several files hold together. InputError where one is whole, or two hold the same tensor."""
    tensors: NamedTensors = {}
    for part in parts:
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice or part.spec is not None:
            raise InputError(f"expected parts of one network, got {twice[0] + ' twice' if twice else 'a whole one'}")
        tensors |= part.tensors
    return WeightFile(
        spec=None, tensors=tensors, note="; ".join(dict.fromkeys(part.note for part in parts if part.note))
    )


def _read_file(path: Path, spec: ArchSpec | None) -> WeightFile:
    _check_is_the_file(path)
    kind, extension = weight_kind(path), path.suffix.lower()
    if kind == "ours" or (kind == "" and extension in (".h5", ".hdf5")):
        return load_h5(path)
    if kind == "safetensors" or (kind == "" and extension == ".safetensors"):
        return load_safetensors(path, spec)
    if kind == "hdf5":
        return _of_keras(*read_keras_hdf5(read_bytes(path), spec))
    if extension in _EXPORTED and kind in ("", "zip"):
        raise InputError(f"a {extension} file is an exported network, whose weights are not read back: give its source")
    if kind == "zip" and is_keras_archive(data := read_bytes(path)):
        return _of_keras(*read_keras_archive(data, spec))
    if kind in ("zip", "pickle") or (kind == "" and extension in (".pth", ".pt", ".tfinit")):
        return _load_pickle(path, spec)
    raise InputError(f"not a weight file that is read here, which are {', '.join(READ[:-1])} and {READ[-1]}")


def _of_keras(own: ArchSpec | None, tensors: NamedTensors) -> WeightFile:
    if own is not None:
        check_tensors(tensors, own)
        tensors = {name: tensors[name] for name in expected_tensors(own)}
    return WeightFile(spec=own, tensors=tensors)


def matched(found: WeightFile, spec: ArchSpec, source: str) -> WeightFile:
    """``found``, which must hold the weights of ``spec``'s network, with a spec (its own where it has one).

    Those of RGB images are taken for grey ones as well: see in_grey.

    Raises:
        InputError: the weights of another network.
    """
    if spec.stem.in_channels == GREY and is_for_rgb(found.tensors):
        found = in_grey(found)
    check_tensors(found.tensors, spec, source)
    if found.spec is not None:
        _check_same_network(found.spec, spec, source)  # stride, padding and eps show in no tensor
        return found
    return replace(found, spec=spec, tensors={name: found.tensors[name] for name in expected_tensors(spec)})


def in_grey(found: WeightFile) -> WeightFile:
    """The weights, of RGB images, for grey ones (see channels.py)."""
    return replace(
        found,
        spec=found.spec and with_channels(found.spec, GREY),
        tensors=for_channels(found.tensors, GREY),
        note="; ".join(filter(None, (found.note, SUMMED))),
    )


def save_tensors(
    path: str | os.PathLike[str],
    spec: ArchSpec,
    tensors: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
    bits: BitPlan | None = None,
    *,
    also: Iterable[str] = (),
) -> None:
    """Write a network and its weights in the format that the extension names, ``.h5`` or ``.safetensors``.

    Args:
        bits: the plan that the weights are for.
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
    _WRITERS[extension](path, spec, tensors, provenance, bits)


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
