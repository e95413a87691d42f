"""Changes within formats: what holds them together (hashes, lengths, checksums) is put right again."""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import random
import struct
import warnings
import zipfile
import zlib
from typing import Any

import h5py
import numpy as np
import torch

from proxyless_arch.weights.files import _USER_BLOCK, _seal
from tests.fuzz.mutators import (
    TEXTS,
    change_bytes,
    change_json,
    change_text,
    change_tree,
    dumped,
    mostly,
    odd_value,
)

Random = random.Random

# -------------------------------------------------------------------------------------------------------- pickles

_PUT_IN = (
    b"N",
    b"}",
    b"]",
    b")",
    b"(",
    b"\x88",
    b"K\x01",
    b"R",
    b"b",
    b"s",
    b"u",
    b"e",
    b"a",
    b"0",
    b"1",
    b"2",
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"l",
    b"d",
    b"\x81",
    b"\x92",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"Q",
    b"h\x00",
    b"q\x00",
    b"\x94",
    b"J\xff\xff\xff\x7f",
    b"X\x01\x00\x00\x00a",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nSize\n",
    b"cnumpy\ndtype\n",
    b"cargparse\nNamespace\n",
    b"ctorch.nn.modules.container\nSequential\n",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\x8a\x09" + b"\xff" * 8 + b"\x7f",
    b"X\x05\x00\x00\x00items",
    b"}X\x05\x00\x00\x00itemsK\x01sb",
)


def change_pickle(data: bytes, rng: Random) -> bytes:
    """The program: operations removed, doubled, exchanged, put in; its numbers and texts changed."""
    try:
        starts = [place for *_, place in pickletools.genops(data)]
    except (ValueError, EOFError, UnicodeDecodeError):
        return change_bytes(data, rng)
    ends = [*starts[1:], len(data)]
    ops = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place, other = rng.randrange(len(ops)), rng.randrange(len(ops))
        match rng.randrange(7):
            case 0:
                ops[place] = b""
            case 1:
                ops[place] += ops[place]
            case 2:
                ops[place], ops[other] = ops[other], ops[place]
            case 3:
                ops[place] += rng.choice(_PUT_IN)
            case 4:
                ops[place] = rng.choice(_PUT_IN)
            case 5:
                ops[place] = ops[other]
            case _:
                ops[place] = _changed_argument(ops[place], rng)
    return b"".join(ops)


def _changed_argument(op: bytes, rng: Random) -> bytes:
    if op[:1] == b"X" and len(op) >= 5:
        text = rng.choice((op[5:-1], op[5:] + b"x", rng.choice(TEXTS).encode("utf-8", "surrogatepass")))
        return b"X" + struct.pack("<I", len(text)) + text
    if op[:1] == b"c":
        return rng.choice((op.replace(b"torch", b"tensor"), op.upper(), op[:-1] + b"x\n", b"c\n\n"))
    if len(op) > 1:
        return op[:1] + bytes(rng.choice((0, 1, 0x7F, 0x80, 0xFF)) if rng.random() < 0.5 else byte for byte in op[1:])
    return op


# ----------------------------------------------------------------------------------------------------------- zips


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names that come twice
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def change_torch_zip(data: bytes, rng: Random) -> bytes:
    """A file of torch.save: its program, its storages, the names of its entries."""
    files = members(data)
    name = rng.choice(list(files))
    program = next(each for each in files if each.endswith("data.pkl"))
    match rng.randrange(8):
        case 0:
            files[name] = change_bytes(files[name], rng)
        case 1:
            del files[name]
        case 2:
            files[rng.choice(("data.pkl", "x/data.pkl", "a/b/data.pkl", name + "x", "../x"))] = files.pop(name)
        case 3:
            storages = [each for each in files if "/data/" in each]
            if storages:
                name = rng.choice(storages)
                files[name] = not_finite(files[name], rng)
        case _:
            files[program] = change_pickle(files[program], rng)
    return zipped(files, rng.choice((zipfile.ZIP_STORED,) * 15 + (zipfile.ZIP_DEFLATED,)))


def not_finite(content: bytes, rng: Random) -> bytes:
    """One number of float32 in raw bytes is NaN or infinite."""
    values = bytearray(content)
    if len(values) >= 4:
        place = 4 * rng.randrange(len(values) // 4)
        values[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), float("-inf"))))
    return bytes(values)


_IMAGE_NAMES = (
    "../a.png",
    "/a.png",
    "a\\b.png",
    "train/",
    "train/0/",
    "val/0/x.png",
    "a" * 300 + ".png",
    "0/\x1b[2J.png",
    "\x00",
    "0/a.png/b.png",
    "__MACOSX/0/a.png",
    "0/.a.png",
    ".png",
    "train/0/a.png",
    "a/b/c/d/e/f/g/h/i/j.png",
    "con",
    "0/a.txt",
)


def change_image_zip(data: bytes, rng: Random) -> bytes:
    """An archive of images: names, contents and what the directory at its end says of them."""
    files = list(members(data).items())
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(files))
        name, content = files[place]
        match rng.randrange(6):
            case 0:
                files[place] = (rng.choice(_IMAGE_NAMES), content)
            case 1:
                files[place] = (name, change_bytes(content, rng))
            case 2:
                files.append((name, content))
            case 3:
                files.append((rng.choice(_IMAGE_NAMES), rng.choice((content, b"", b"x"))))
            case 4 if len(files) > 1:
                del files[place]
            case _:
                files[place] = (name, b"")
    archive = zipped(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    if rng.random() < 0.3:
        return change_bytes(archive, rng)
    if rng.random() < 0.3:
        return _changed_directory(archive, rng)
    return archive


def _changed_directory(data: bytes, rng: Random) -> bytes:
    """A field of an entry in the directory: flags, method, checksum, sizes, offset."""
    content, found, place = bytearray(data), [], data.find(b"PK\1\2")
    while place >= 0:
        found.append(place)
        place = data.find(b"PK\1\2", place + 4)
    if found:
        offset, width = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (38, 4), (42, 4)))
        start = rng.choice(found) + offset
        number = rng.choice((0, 1, 8, 12, 14, 99, 2**16 - 1, 2**31 - 1, 2**32 - 1))
        content[start : start + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(content)


# --------------------------------------------------------------------------------------------------------- images


def change_png(data: bytes, rng: Random) -> bytes:
    """Chunks changed, moved, doubled, put in, their checksums right."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(chunks))
        kind, content = chunks[at]
        match rng.randrange(5):
            case 0:
                chunks.insert(
                    at,
                    (
                        rng.choice((kind, b"acTL", b"fcTL", b"iCCP", b"tRNS", b"eXIf", b"zTXt", b"tEXt", b"PLTE")),
                        rng.choice((content, b"", bytes(8), b"x\0\0" + zlib.compress(bytes(200_000)))),
                    ),
                )
            case 1:
                del chunks[at]
                if not chunks:
                    break
            case 2:
                other = rng.randrange(len(chunks))
                chunks[at], chunks[other] = chunks[other], chunks[at]
            case 3:
                chunks = [(k, _changed_header(c, rng)) if k == b"IHDR" else (k, c) for k, c in chunks]
            case _:
                chunks[at] = (kind, change_bytes(content, rng))
    parts = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return data[:8] + b"".join(parts)


def _changed_header(content: bytes, rng: Random) -> bytes:
    """IHDR: sizes, depth, colours."""
    header = bytearray(content)
    if rng.random() < 0.5:
        at = rng.choice((0, 4))
        header[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 7, 65_535, 89_478_485, 2**31 - 1, 2**32 - 1)))
    elif len(header) >= 13:
        header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return bytes(header)


def change_jpeg(data: bytes, rng: Random) -> bytes:
    """Segments changed, moved, doubled; their lengths right in most cases."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segments.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    scan = data[place:]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(segments))
        kind, content = segments[at]
        match rng.randrange(6):
            case 0:
                segments[at] = (
                    rng.choice((kind, 0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE1, 0xEE, 0xFE)),
                    change_bytes(content, rng),
                )
            case 1:
                segments.insert(at, (kind, content))
            case 2 if len(segments) > 1:
                del segments[at]
            case 3:
                exif = b"Exif\0\0II*\0" + rng.randbytes(rng.randrange(40))
                segments.insert(
                    0,
                    (0xE1, rng.choice((exif, change_bytes(b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6", rng)))),
                )
            case 4:
                scan = change_bytes(scan, rng)
            case _:
                scan = scan * rng.choice((1, 2, 100))
    parts = [
        b"\xff" + bytes([kind]) + (min(len(content), 65_533) + 2).to_bytes(2, "big") + content[:65_533]
        for kind, content in segments
    ]
    return data[:2] + b"".join(parts) + scan


# ---------------------------------------------------------------------------------------------------- safetensors


def change_safetensors(data: bytes, rng: Random) -> bytes:
    """Header and tensors; the length of the header is right in most cases."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    kind = rng.randrange(5)
    if kind == 0:
        body = not_finite(body, rng)
        return _with_header(_rehashed(header, body), body)
    if kind == 1:
        return _with_header(header, change_bytes(body, rng))
    if kind == 2:
        tree = json.loads(header)
        if "__metadata__" in tree:
            name = rng.choice(list(tree["__metadata__"]))
            text = tree["__metadata__"][name]
            is_json = name in ("spec", "provenance")
            changed = change_json(text.encode(), rng) if is_json else change_text(text.encode(), rng)
            tree["__metadata__"][name] = changed.decode(errors="replace")
        return _with_header(dumped(tree), body)
    return _with_header(change_json(header, rng), body, rng.choice((0,) * 9 + (1, -1, 2**40, 2**62)))


def _rehashed(header: bytes, body: bytes) -> bytes:
    """The header with the hash of these tensors, where it has one."""
    from proxyless_arch.weights.files import tensors_sha256

    tree = json.loads(header)
    if "sha256" in tree.get("__metadata__", {}):
        tensors = {
            name: np.frombuffer(body[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
            for name, entry in tree.items()
            if name != "__metadata__"
        }
        tree["__metadata__"]["sha256"] = tensors_sha256(tensors)
    return dumped(tree)


def _with_header(header: bytes, body: bytes, off: int = 0) -> bytes:
    return max(0, len(header) + off).to_bytes(8, "little") + header + body


# ----------------------------------------------------------------------------------------------------------- HDF5


def change_hdf5(data: bytes, rng: Random) -> bytes:
    """Objects removed, linked, of other types and shapes; attributes; bytes. Ours gets its hash again."""
    sealed = data.startswith(b"proxyless-arch/weights ")
    body = data[_USER_BLOCK:] if sealed else data
    if rng.random() < 0.5:
        body = change_bytes(body, rng)
    else:
        buffer = io.BytesIO(data)
        try:
            with h5py.File(buffer, "r+") as file:
                _change_objects(file, rng)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError):
            return change_bytes(data, rng)
        body = buffer.getvalue()[_USER_BLOCK if sealed else 0 :]
    return (_seal(body) + body) if sealed else body


def _change_objects(file: h5py.File, rng: Random) -> None:
    names: list[str] = []
    file.visit(names.append)
    sets = [name for name in names if isinstance(file[name], h5py.Dataset)]
    name = rng.choice(sets or names)
    kind = rng.randrange(9)
    if kind <= 1:
        owner = file[rng.choice(names)] if kind else file
        keys = list(owner.attrs) or ["name"]
        key = rng.choice(keys)
        text = owner.attrs.get(key)
        if isinstance(text, str) and text.startswith("{") and rng.random() < 0.6:
            owner.attrs[key] = change_json(text.encode(), rng).decode(errors="replace")
        else:
            owner.attrs[key] = rng.choice(("", "x\x1b", 7, -1, 1.5, b"\xff\xfe", [1, 2], "x" * 60_000))
        return
    value = file[name][()]
    del file[name]
    match kind:
        case 2:
            pass
        case 3:
            file[name] = h5py.SoftLink(rng.choice(("/", "/none", f"/{name}")))
        case 4:
            file[name] = h5py.ExternalLink("/etc/hosts", "/x")
        case 5:
            other = rng.choice((np.float64, np.float16, np.int32, np.bool_, np.complex64, ">f4"))
            file[name] = np.asarray(value).astype(other)
        case 6:
            file.create_dataset(name, data=np.asarray(value), compression="gzip", chunks=True)
        case 7:
            file[name] = rng.choice(
                (np.zeros((0,), "f4"), np.zeros((3, 2**20), "i1"), "text", np.zeros((1,) * 9, "f4"))
            )
        case _:
            values = np.array(value, dtype="f4")
            values.flat[rng.randrange(max(1, values.size))] = rng.choice((np.nan, np.inf, -np.inf))
            file[name] = values


def change_keras_archive(data: bytes, rng: Random) -> bytes:
    files = members(data)
    match rng.randrange(4):
        case 0:
            files["config.json"] = change_json(files["config.json"], rng)
        case 1:
            files["model.weights.h5"] = change_hdf5(files["model.weights.h5"], rng)
        case 2:
            del files[rng.choice(list(files))]
        case _:
            return change_bytes(data, rng)
    return zipped(files)


# ---------------------------------------------------------------------------------------------------- checkpoints


def change_checkpoint(data: bytes, rng: Random) -> bytes:
    """A checkpoint of ours: a member of its tree, of its tensors; sealed again."""
    if rng.random() < 0.05:
        return change_bytes(data, rng)
    tree = change_tree(torch.load(io.BytesIO(data), weights_only=True), rng, _odd_of_torch)
    if rng.random() < 0.1:
        _spoil(tree, rng)
    return sealed_checkpoint(tree)


def _odd_of_torch(rng: Random) -> Any:
    if rng.random() < 0.3:
        kinds = (
            torch.zeros(()),
            torch.zeros(3),
            torch.zeros(0),
            torch.ones(2, 2, dtype=torch.int64),
            torch.full((2,), float("nan")),
        )
        return rng.choice((*kinds, torch.zeros(2, dtype=torch.complex64), (1, 2), {1: 2}, {None: 1}, 1 + 2j, b"x"))
    value = odd_value(rng)
    return "\ufffd" if value == "\ud800" else value


def _spoil(tree: Any, rng: Random) -> None:
    """One number in one of its tensors is not finite."""
    found = [value for value in _leaves(tree) if isinstance(value, torch.Tensor) and value.is_floating_point()]
    if found:
        tensor = rng.choice(found)
        if tensor.numel():
            with torch.no_grad():
                place = np.unravel_index(rng.randrange(tensor.numel()), tuple(tensor.shape))
                tensor[tuple(map(int, place))] = rng.choice((float("nan"), float("inf")))


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in _leaves(value)]
    return [tree]


def sealed_checkpoint(tree: Any) -> bytes:
    """As save_fields of proxyless_nas/train/checkpointing.py writes it."""
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    content = buffer.getvalue()[:-2]
    comment = b"sha256:" + hashlib.sha256(content).hexdigest().encode()
    return content + struct.pack("<H", len(comment)) + comment


# ------------------------------------------------------------------------------------------------- exported files


def change_exported(data: bytes, rng: Random) -> bytes:
    """The metadata within, at the same length, or any bytes."""
    start, end = data.find(b'{"format"'), data.rfind(b"}") + 1
    if start < 0 or end <= start or rng.random() < 0.5:
        return change_bytes(data, rng)
    text = data[start:end]
    try:
        changed = mostly(change_json, share=0.4)(text, rng)[: len(text)]
    except ValueError:  # it is cut into pieces there
        changed = change_bytes(text, rng)[: len(text)]
    return data[:start] + changed.ljust(len(text), rng.choice((b" ", b" ", b"\xff"))) + data[end:]
