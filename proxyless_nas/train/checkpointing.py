"""Checkpoint files: written atomically with their hash, read without running anything, refused when damaged.

The last two are kept. A file is torch's (a zip), whose comment is the SHA-256 of all that is before it; older ones have
no comment, and only the checksums of the zip.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import secrets
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes, write_bytes
from proxyless_arch.base.runs import CHECKPOINT_FILE, PREVIOUS_FILE
from proxyless_nas import distributed

NAME = CHECKPOINT_FILE
ANEW = "no earlier one can be read: start over in a new --run_dir"
_HASH = b"sha256:"
_ENDING = 2 + len(_HASH) + 64  # the comment and, before it, its length
# what zipfile and torch's restricted unpickler raise on bytes that are not what torch.save wrote
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


class DamagedError(InputError):
    """A checkpoint that was cut or altered; an earlier one may be whole."""


def save_fields(path: Path, format_name: str, version: int, fields: Mapping[str, Any]) -> None:
    """Write atomically: a full disk or a kill leaves the previous checkpoint as it was.

    What ``path`` held is kept as PREVIOUS_FILE where it is a run's CHECKPOINT_FILE. It gets that name behind the new
    file: at any moment one of the two is whole.
    """
    buffer = io.BytesIO()  # torch, writing to a file itself, would not say that the disk is full
    torch.save({"format": format_name, "version": version, **fields}, buffer)
    content = buffer.getvalue()[:-2]  # torch's zip ends with the length of its comment, 0
    comment = _HASH + hashlib.sha256(content).hexdigest().encode()
    kept = _kept(path) if path.name == CHECKPOINT_FILE else None
    try:
        write_bytes(path, content, struct.pack("<H", len(comment)), comment)
        if kept is not None:
            kept.replace(path.with_name(PREVIOUS_FILE))
    finally:
        if kept is not None:
            kept.unlink(missing_ok=True)


def _kept(path: Path) -> Path | None:
    """A second name of the file at ``path``, as atomic_path would give; None where there is none, or can be none."""
    name = path.with_name(f".{PREVIOUS_FILE}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    with contextlib.suppress(OSError):  # the first checkpoint, or a file system without hard links
        os.link(path, name)
        return name
    return None


def load_fields(
    path: Path,
    format_name: str,
    version: int,
    names: Iterable[str],
    what: str,
    optional: Iterable[str] = (),
    advice: str = ANEW,
) -> dict[str, Any]:
    """The fields called ``names`` of a checkpoint (tensors and plain values only; no code is run).

    A run's CHECKPOINT_FILE that is gone or damaged is replaced by the one before, with a warning.

    Args:
        what: what wrote it, for the message: 'search', 'training'.
        optional: fields that an older one does not have; None there.
        advice: what to do about a damaged one.

    Raises:
        InputError: the file is missing, cut off, damaged, or not one of ours.
    """
    before = path.with_name(PREVIOUS_FILE)
    spare = before if path.name == CHECKPOINT_FILE and before.is_file() else None
    try:
        raw = _read(path, advice)
    except DamagedError as error:
        if spare is None:
            raise
        try:
            raw, path = _read(spare, advice), spare
        except DamagedError:
            raise error from None
        if distributed.is_main():
            warnings.warn(f"{error}; it goes on from the checkpoint before, {spare.name}", stacklevel=2)
    if not isinstance(raw, dict) or raw.get("format") != format_name:
        raise InputError(f"not a checkpoint of this {what}", source=str(path))
    if raw.get("version") != version:
        raise InputError(f"expected version {version}, got {raw.get('version')!r}", "version", str(path))
    missing = [name for name in names if name not in raw]
    if missing:
        raise InputError(f"missing {', '.join(missing)}", source=str(path))
    return {name: raw.get(name) for name in (*names, *optional)}


def _read(path: Path, advice: str) -> Any:
    """What torch.save wrote there, its hash compared."""
    if not path.is_file():
        raise DamagedError("no checkpoint here to resume from", source=str(path))
    content = read_bytes(path)
    try:
        _check_hash(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch itself does not compare the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (*_UNREADABLE, OSError):
        raise DamagedError(
            f"not a readable checkpoint: truncated, altered or damaged; {advice}", source=str(path)
        ) from None


def _check_hash(content: bytes) -> None:
    """Raises ValueError where the hash at the end is another one. An older file ends as a zip without comment."""
    if content[-22:-18] == b"PK\5\6" and content[-2:] == bytes(2):
        return
    expected = _HASH + hashlib.sha256(content[:-_ENDING]).hexdigest().encode()
    if content[-_ENDING:] != struct.pack("<H", len(expected)) + expected:
        raise ValueError("another hash")
